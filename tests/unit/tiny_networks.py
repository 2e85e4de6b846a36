"""A tiny random StyleGAN2 and its discriminator's features, for what is tested about projection."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from raygseg.methods.stylegan2.discriminator_features import DiscriminatorFeatures
from raygseg.methods.stylegan2.generator import StyleGAN2Generator
from raygseg.nn.backbones.vgg16 import VGG16Features
from raygseg.nn.projection import PerceptualDistance

BUILD = {"resolution": 16, "z_dim": 8, "w_dim": 8, "mapping_layers": 2, "channel_base": 128, "channel_max": 8}
JUDGE = {"resolution": 16, "channel_base": 128, "channel_max": 8}


def tiny_generator() -> StyleGAN2Generator:
    """16 px, in which the noise matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = StyleGAN2Generator(**BUILD)  # type: ignore[arg-type]
    for parameter in generator.parameters():
        if parameter.ndim == 0:
            torch.nn.init.constant_(parameter, 0.3)
    return generator.eval().requires_grad_(False)


def tiny_features() -> DiscriminatorFeatures:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return DiscriminatorFeatures(JUDGE).eval().requires_grad_(False)


def tiny_distance() -> PerceptualDistance:
    return PerceptualDistance(tiny_features(), "discriminator")


def vgg16_file(folder: Path) -> str:
    """VGG-16 with weights of its own: random ones keep distances too."""
    torch.manual_seed(0)
    place = folder / "vgg16_features.safetensors"
    save_file(VGG16Features().state_dict(), place)
    return str(place)
