"""A tiny random generator with a label branch, an encoder of its codes and a feature network, all of 32 px."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from raygseg.interfaces import Picture
from raygseg.labels import LabelSpace
from raygseg.methods.semanticgan.embedding import EmbeddingPlan
from raygseg.methods.semanticgan.label_codec import LabelCodec
from raygseg.methods.semanticgan.segmenter import EmbeddingSegmenter
from raygseg.methods.stylegan2.discriminator_features import DiscriminatorFeatures
from raygseg.methods.stylegan2.generator import StyleGAN2Generator
from raygseg.nn.fpn_encoder import FPNEncoder
from raygseg.nn.projection import PerceptualDistance

SIDE = 32
THREE = LabelSpace(("background", "body", "wing"), background=0)
TWO = LabelSpace(("background", "body"), background=0)
JUDGE = {"resolution": SIDE, "channel_base": 128, "channel_max": 8}
FEATURES = {"network": "discriminator", "discriminator": JUDGE}
ENCODER: dict[str, Any] = {"width": 4, "blocks": (1, 1, 1, 1), "channels": 8, "stem_stride": 2, "heads": "shared"}


def generator_build(codec: LabelCodec, image_channels: int = 3) -> dict[str, Any]:
    return {
        "architecture": "stylegan2", "resolution": SIDE, "z_dim": 8, "w_dim": 8, "mapping_layers": 2,
        "channel_base": 256, "channel_max": 8, "image_channels": image_channels, "label_channels": codec.channels,
    }  # fmt: skip


def joint_generator(codec: LabelCodec, image_channels: int = 3) -> StyleGAN2Generator:
    """Its noise matters and its labels vary."""
    build = generator_build(codec, image_channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = StyleGAN2Generator(**{k: v for k, v in build.items() if k != "architecture"})
    for parameter in generator.parameters():
        if parameter.ndim == 0:
            torch.nn.init.constant_(parameter, 0.2)
    return generator.eval().requires_grad_(False)


def tiny_encoder(generator: StyleGAN2Generator, **changes: Any) -> FPNEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        encoder = FPNEncoder(generator.resolution, generator.num_ws, generator.w_dim, **(ENCODER | changes))
    return encoder.eval().requires_grad_(False)


def tiny_distance() -> PerceptualDistance:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return PerceptualDistance(DiscriminatorFeatures(JUDGE).eval().requires_grad_(False), "discriminator")


def tiny_segmenter(labels: LabelSpace = THREE, image_channels: int = 3, **plan: Any) -> EmbeddingSegmenter:
    codec = LabelCodec(labels)
    generator = joint_generator(codec, image_channels)
    plan = {"steps": 5} | plan
    return EmbeddingSegmenter(generator, tiny_encoder(generator), codec, tiny_distance(), EmbeddingPlan(**plan))


def drawn(generator: StyleGAN2Generator, count: int, first: int = 0) -> Tensor:
    """Pictures of the generator's own."""
    with torch.no_grad():
        return generator.render(generator.latents(range(first, first + count))).images.clamp(-1, 1)


def as_pictures(images: Tensor) -> list[Picture]:
    return list(np.ascontiguousarray(((images + 1) * 127.5).byte().permute(0, 2, 3, 1).numpy()))
