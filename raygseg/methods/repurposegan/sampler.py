"""A generator with a label head draws labelled pictures (auto-shot, spec 1.7)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from raygseg.bundle import Bundle
from raygseg.errors import CheckpointError, ConfigError
from raygseg.interfaces import Generator, Pairs
from raygseg.labels import LabelSpace
from raygseg.methods.repurposegan.heads import LabelHead
from raygseg.methods.repurposegan.uncertainty import image_score
from raygseg.nn.stored_weights import fit_weights

METHOD = "repurposegan"
HEAD_BYTES = 256 << 20  # of projected features that a forward pass of the head may hold
Box = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


class GeneratorHeadSampler:
    """Implements `interfaces.PairSampler`: picture and features come from the same forward pass.

    Args:
        generator: frozen, in evaluation mode.
        head: reads the generator's features.
        labels: the head's classes.
        truncation_psi: 1 for none.
        resolution: side of the pairs; 0 for the (cropped) picture's own. Pictures are area-averaged to it,
            probabilities too, so that a pixel's label is the mixture of what it covers.
        crop: left, top, right, bottom as shares of the side: what to keep of the generator's picture.
            It must be square and fall on whole pixels.
    """

    def __init__(
        self,
        generator: Generator,
        head: LabelHead,
        labels: LabelSpace,
        truncation_psi: float = 1.0,
        resolution: int = 0,
        crop: Box = WHOLE,
    ) -> None:
        if head.num_classes != labels.num_classes:
            raise ConfigError(
                f"the head has {head.num_classes} classes, the label space {labels.num_classes}",
                "use the labels.json that the head was trained with",
            )
        self.generator, self.head, self.labels = generator, head.eval().requires_grad_(False), labels
        self.truncation_psi, self.crop = truncation_psi, _checked(crop)
        whole = _pixels(crop, generator.resolution)[2]
        self.resolution = resolution or whole
        if self.resolution > whole:
            raise ConfigError(
                f"pairs of {self.resolution} px cannot be cut from {whole} px of the generator's picture",
                "lower the resolution or widen the crop",
            )
        _pixels(crop, head.resolution)

    @torch.no_grad()
    def sample(self, seeds: Sequence[int]) -> Pairs:
        """Pairs of the seeds, in order; `seed` decides latent and per-layer noise."""
        per_picture = 4 * self.head.project.weight.shape[0] * self.head.resolution**2
        chunk = max(1, HEAD_BYTES // per_picture)
        parts = [self._sample(seeds[i : i + chunk]) for i in range(0, len(seeds), chunk)]
        return Pairs(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _sample(self, seeds: Sequence[int]) -> Pairs:
        ws = self.generator.latents(seeds, self.truncation_psi)
        rendering = self.generator.render(ws, seeds, self.head.layer_names)
        opinion = self.head.predict(rendering.features)
        images = to_uint8(resample(_cut(rendering.images, self.crop), self.resolution))
        probabilities = resample(_cut(opinion.probabilities, self.crop), self.resolution)
        if self.head.members > 1:
            scores = image_score(_cut(opinion.js, self.crop))
        else:
            scores = opinion.js.new_zeros(len(seeds))
        return Pairs(images, probabilities, scores)

    def to_bundle(
        self, generator_build: Mapping[str, Any], config: Mapping[str, Any] | None = None, **facts: Any
    ) -> Bundle:
        """The sampler as a bundle: both networks' weights, and how to build them.

        Args:
            generator_build: what the callable given to `from_bundle` needs to build the generator.
            config: the training configuration, for the record.
            facts: metrics and fingerprints, for the card.
        """
        networks: dict[str, nn.Module] = {"generator": _module(self.generator), "head": self.head}
        tensors = {
            f"{name}.{key}": tensor for name, net in networks.items() for key, tensor in net.state_dict().items()
        }
        build = {
            "method": METHOD,
            "generator": dict(generator_build),
            "head": self.head.build,
            "truncation_psi": self.truncation_psi,
            "resolution": self.resolution,
            "crop": list(self.crop),
        }
        return Bundle("sampler", build, tensors, self.labels, config or {}, facts)

    @classmethod
    def from_bundle(
        cls, bundle: Bundle, build_generator: Callable[[Mapping[str, Any]], Generator], device: str = "cpu"
    ) -> GeneratorHeadSampler:
        """Rebuild from a bundle. CheckpointError where it is of another kind or its weights do not fit."""
        if bundle.kind != "sampler" or bundle.build.get("method") != METHOD or bundle.labels is None:
            raise CheckpointError(
                f"the bundle is a {bundle.kind}, not a generator with a label head", "name one that `train head` wrote"
            )
        build = bundle.build
        generator, head = build_generator(build["generator"]), LabelHead(**build["head"])
        for name, net in (("generator", _module(generator)), ("head", head)):
            fit_weights(net, bundle.tensors, name, f"{name}.")
            net.eval().requires_grad_(False).to(device)
        crop = build["crop"]
        box: Box = (crop[0], crop[1], crop[2], crop[3])
        return cls(generator, head, bundle.labels, build["truncation_psi"], build["resolution"], box)


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] (clamped) -> uint8 [0, 255], rounded to nearest."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def resample(maps: Tensor, resolution: int) -> Tensor:
    """[N, C, S, S] -> [N, C, resolution, resolution]: area average down, bilinear up."""
    if maps.shape[-1] == resolution:
        return maps
    if maps.shape[-1] > resolution:
        return functional.interpolate(maps, size=resolution, mode="area")
    return functional.interpolate(maps, size=resolution, mode="bilinear", align_corners=False)


def _module(generator: Generator) -> nn.Module:
    assert isinstance(generator, nn.Module)
    return generator


def _checked(crop: Box) -> Box:
    left, top, right, bottom = crop
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ConfigError(f"crop {crop} is not left < right, top < bottom within 0..1", "e.g. 0.25 0.25 0.75 0.75")
    return crop


def _pixels(crop: Box, resolution: int) -> tuple[int, int, int]:
    """(left, top, side) in pixels of a grid. ConfigError where the box is not square or cuts pixels."""
    edges = [edge * resolution for edge in crop]
    left, top, right, bottom = (round(edge) for edge in edges)
    if any(abs(edge - round(edge)) > 1e-6 for edge in edges) or right - left != bottom - top:
        raise ConfigError(
            f"crop {crop} is not a square of whole pixels at {resolution} px",
            "use multiples of 1 / (the coarser of picture and stack resolution)",
        )
    return left, top, right - left


def _cut(maps: Tensor, crop: Box) -> Tensor:
    left, top, side = _pixels(crop, maps.shape[-1])
    return maps[..., top : top + side, left : left + side]
