"""A joint generator draws labelled pictures: `interfaces.PairSampler` (spec B3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from raygseg.bundle import Bundle
from raygseg.errors import CheckpointError, ConfigError
from raygseg.interfaces import Generator, Pairs
from raygseg.labels import LabelSpace
from raygseg.methods.semanticgan.label_codec import LabelCodec
from raygseg.methods.stylegan2.generator import StyleGAN2Generator
from raygseg.nn.stored_weights import fit_weights

METHOD = "semanticgan"
PREFIX = "generator."


class JointSampler:
    """Picture and label map come from the same forward pass; `seed` decides latent and per-layer noise.

    Args:
        generator: with a label branch for `labels`; frozen here.
        labels: its classes.
        temperature: of the label logits; 0: that of raw outputs.
        truncation_psi: 1 for none.
    """

    def __init__(
        self, generator: StyleGAN2Generator, labels: LabelSpace, temperature: float = 0.0, truncation_psi: float = 1.0
    ) -> None:
        self.codec = LabelCodec(labels, temperature)
        if generator.label_channels != self.codec.channels:
            raise ConfigError(
                f"the generator has {generator.label_channels} label channels, the classes take {self.codec.channels}",
                "use the labels.json that the generator was trained with",
            )
        self.generator, self.labels = generator.eval().requires_grad_(False), labels
        self.resolution, self.truncation_psi = generator.resolution, truncation_psi

    @torch.no_grad()
    def sample(self, seeds: Sequence[int]) -> Pairs:
        """Pairs of the seeds, in order. Scores are 0: there is no ensemble."""
        rendering = self.generator.render(self.generator.latents(seeds, self.truncation_psi), seeds)
        assert rendering.label_logits is not None
        images = ((rendering.images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return Pairs(images, self.codec.probabilities(rendering.label_logits), images.new_zeros(len(seeds)).float())

    def to_bundle(self, config: Mapping[str, Any] | None = None, **facts: Any) -> Bundle:
        """
        Args:
            config: the training configuration, for the record.
            facts: metrics and fingerprints, for the card.
        """
        build = {
            "method": METHOD,
            "generator": {"architecture": "stylegan2", **self.generator.build},
            "temperature": self.codec.temperature,
            "truncation_psi": self.truncation_psi,
            "resolution": self.resolution,
        }
        tensors = {PREFIX + name: tensor for name, tensor in self.generator.state_dict().items()}
        return Bundle("sampler", build, tensors, self.labels, config or {}, facts)

    @classmethod
    def from_bundle(
        cls, bundle: Bundle, build_generator: Callable[[Mapping[str, Any]], Generator], device: str = "cpu"
    ) -> JointSampler:
        """Rebuild from a bundle. CheckpointError where it is of another kind or its weights do not fit."""
        if bundle.kind != "sampler" or bundle.build.get("method") != METHOD or bundle.labels is None:
            raise CheckpointError(
                f"the bundle is a {bundle.kind}, not a joint generator", "name one that `train joint-gan` wrote"
            )
        generator = build_generator(bundle.build["generator"])
        assert isinstance(generator, StyleGAN2Generator)
        fit_weights(generator, bundle.tensors, "generator", PREFIX)
        build = bundle.build
        return cls(generator.to(device), bundle.labels, build["temperature"], build["truncation_psi"])
