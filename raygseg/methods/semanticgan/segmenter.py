"""Segment pictures by embedding them into a generator that also draws labels (spec B8)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from raygseg.bundle import Bundle
from raygseg.errors import CheckpointError, ConfigError
from raygseg.interfaces import Generator
from raygseg.methods.semanticgan.embedding import Embedding, EmbeddingPlan, embed
from raygseg.methods.semanticgan.label_codec import LabelCodec
from raygseg.methods.student.segmenter import SquareSegmenter
from raygseg.nn.fpn_encoder import FPNEncoder
from raygseg.nn.half import compact
from raygseg.nn.projection import LatentSpread, PerceptualDistance, latent_spread
from raygseg.nn.stored_weights import fit_weights

METHOD = "semanticgan-embedding"
NETWORKS = ("generator", "encoder", "features")
BATCH = 16
LUMA = (0.299, 0.587, 0.114)


class EmbeddingSegmenter(SquareSegmenter):
    """Implements `interfaces.Segmenter`; what a picture gets does not depend on its batch.

    Args:
        generator: with a label branch, frozen, in evaluation mode.
        encoder: pictures to its codes.
        codec: the label branch's classes and temperature.
        distance: perceptual, for the optimisation.
        plan: of the embedding; may be exchanged at any time, `steps=0` is the encoder alone.
        batch_size: pictures an embedding.
    """

    def __init__(
        self,
        generator: Generator,
        encoder: FPNEncoder,
        codec: LabelCodec,
        distance: PerceptualDistance,
        plan: EmbeddingPlan,
        batch_size: int = BATCH,
    ) -> None:
        channels = getattr(generator, "label_channels", 0)
        if channels != codec.channels:
            raise ConfigError(
                f"the generator's label branch has {channels} channels, the classes need {codec.channels}",
                "use the labels.json that the generator was trained with",
            )
        super().__init__(codec.labels, generator.resolution, batch_size)
        self.generator, self.codec, self.distance, self.plan = generator, codec, distance, plan
        self.encoder = encoder.eval().requires_grad_(False)
        self._spread: LatentSpread | None = None

    def answer(self, images: Tensor) -> Embedding:
        """Embed pictures [N, 3, R, R] in [-1, 1], all at once."""
        if self._spread is None:
            self._spread = latent_spread(self.generator)
        shown = as_drawn(self.generator, images.to(self._spread.mean.device))
        with torch.enable_grad():
            return embed(self.generator, self.encoder, self.distance, shown, self.plan, self._spread)

    def probabilities(self, images: Tensor) -> Tensor:
        """[N, 3, R, R] in [-1, 1] -> [N, K, R, R], on the networks' device."""
        return torch.cat([self._labels(self.answer(part)) for part in images.split(self.batch_size)])

    @torch.no_grad()
    def _labels(self, found: Embedding) -> Tensor:
        """[N, K, R, R]: of the pass that was found, or the mean over noise draws (B11-12)."""
        draws = self.plan.noise_draws
        if not draws:
            return self.codec.probabilities(found.label_logits)
        total = torch.zeros(())
        for seed in range(draws):
            logits = self.generator.render(found.ws, [seed] * len(found.ws)).label_logits
            assert logits is not None
            total = total.to(logits) + self.codec.probabilities(logits) / draws
        return total

    # --- bundles ---------------------------------------------------------------------------------

    def to_bundle(self, generator_build: Mapping[str, Any], features_build: Mapping[str, Any], **facts: Any) -> Bundle:
        """The segmenter as a bundle: three networks, how to build them, and the plan.

        Args:
            generator_build, features_build: what the callables given to `from_bundle` need.
            facts: for the card.
        """
        networks = dict(zip(NETWORKS, (self.generator, self.encoder, self.distance.network), strict=True))
        tensors = {
            f"{name}.{key}": compact(tensor)
            for name, network in networks.items()
            for key, tensor in _module(network).state_dict().items()
        }
        build = {
            "method": METHOD,
            "generator": dict(generator_build),
            "encoder": self.encoder.build,
            "features": {**features_build, "name": self.distance.name},
            "temperature": self.codec.temperature,
            "plan": asdict(self.plan),
            "resolution": self.resolution,
        }
        return Bundle("segmenter", build, tensors, self.labels, {}, facts)

    @classmethod
    def from_bundle(
        cls,
        bundle: Bundle,
        build_generator: Callable[[Mapping[str, Any]], Generator],
        build_features: Callable[[Mapping[str, Any]], nn.Module],
        device: torch.device | str = "cpu",
    ) -> EmbeddingSegmenter:
        """Rebuild from a bundle. CheckpointError where it is of another kind or its weights do not fit."""
        if bundle.kind != "segmenter" or bundle.build.get("method") != METHOD or bundle.labels is None:
            raise CheckpointError(
                f"the bundle is a {bundle.kind}, not a segmenter by embedding",
                "name one that `train` made of an encoder",
            )
        build = bundle.build
        generator, encoder = build_generator(build["generator"]), FPNEncoder(**build["encoder"])
        features = build_features(build["features"])
        for name, network in zip(NETWORKS, (_module(generator), encoder, features), strict=True):
            fit_weights(network, bundle.tensors, name, f"{name}.")
            network.eval().requires_grad_(False).to(device)
        codec = LabelCodec(bundle.labels, build["temperature"])
        distance = PerceptualDistance(features, build["features"]["name"])
        return cls(generator, encoder, codec, distance, EmbeddingPlan(**build["plan"]))


def as_drawn(generator: Generator, images: Tensor) -> Tensor:
    """Pictures [N, 3, R, R] as the generator draws them: grey ones by their luma, in three equal channels."""
    if getattr(generator, "build", {}).get("image_channels", 3) == 3:
        return images
    weights = torch.tensor(LUMA, device=images.device).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True).expand(-1, 3, -1, -1)


def _module(network: object) -> nn.Module:
    assert isinstance(network, nn.Module)
    return network
