"""Latent projection: the w+ whose picture looks like a given photo (RepurposeGAN spec 1.6).

Starts at the mean w, or at an encoder's guess, and follows the gradient of a perceptual distance plus a
squared error to w+, by Adam; in the last share of the steps the noise maps are unknowns too. The codes are
whitened: w+ = mean + std * (common + own), `common` shared by all modulated steps and `own` one a step, kept
near zero by a weak penalty, so that the result stays where the generator has learnt its features.
Losses are kept apart by picture: a batch gives what its pictures give alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from raygseg.errors import DataError
from raygseg.interfaces import Generator, NoisyGenerator
from raygseg.nn.noise_maps import NoiseMaps, render_found
from raygseg.nn.schedules import cosine_decay
from raygseg.nn.unit_distance import unit_square_distance

Progress = Callable[[int, int, float], None]  # (step, steps, mean loss)
LATENT_SAMPLES = 512  # for the mean and spread of w
MAP_FLOOR = 1e-6


class FeatureNetwork(Protocol):
    """Pictures [N, 3, R, R] in [-1, 1] to feature maps by name (`backbones.vgg16.VGG16Features`)."""

    def __call__(self, images: Tensor) -> dict[str, Tensor]: ...


class PerceptualDistance:
    """LPIPS-style distance: unit-length feature vectors, squared differences, mean over valid pixels, sum over maps.

    It has no learnt weights and is not the published LPIPS.

    Args:
        network: whose features.
        name: of the network, for every output that states a distance.
    """

    def __init__(self, network: FeatureNetwork, name: str = "") -> None:
        self.network, self.name = network, name or type(network).__name__

    def describe(self, images: Tensor) -> dict[str, Tensor]:
        """Unit-length feature maps of pictures [N, 3, R, R] in [-1, 1]."""
        return {name: F.normalize(_single(maps), dim=1, eps=MAP_FLOOR) for name, maps in self.network(images).items()}

    def between(self, images: Tensor, target: dict[str, Tensor], valid: Tensor) -> Tensor:
        """[N]: distance of pictures to described targets; valid [N, 1, R, R] in 0..1."""
        total = images.new_zeros(len(images))
        for name, maps in self.network(images).items():
            weight = F.adaptive_avg_pool2d(valid, maps.shape[-1])
            total = total + masked_mean(unit_square_distance(_single(maps), target[name], MAP_FLOOR), weight)
        return total


def _single(maps: Tensor) -> Tensor:
    """Half precision brought to float32; double stays."""
    return maps.to(torch.promote_types(maps.dtype, torch.float32))


def masked_mean(values: Tensor, weight: Tensor) -> Tensor:
    """[N, C, H, W] and [N, 1, H, W] -> [N]: mean over channels and weighted pixels."""
    return (values.mean(1, keepdim=True) * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp_min(MAP_FLOOR)


@dataclass(frozen=True)
class ProjectionPlan:
    """How long and by what loss.

    Attributes:
        steps, lr: Adam in units of the spread of w; 10 % ramp up, cosine down to 5 %.
        own_lr_share: learning rate of the per-step part against the common part.
        squared_error: weight of the mean squared error beside the perceptual distance.
        anchor: weight of the mean squared whitened code (both parts).
        noise_share: of the steps, at the end, in which noise maps are unknowns too; without effect on a
            generator that takes no noise maps.
        noise_lr: Adam in units of the noise's spread. noise_penalty: weight of `NoiseMaps.penalty`.
    """

    steps: int = 60
    lr: float = 0.18
    own_lr_share: float = 0.5
    squared_error: float = 1.0
    anchor: float = 1e-3
    noise_share: float = 0.2
    noise_lr: float = 0.1
    noise_penalty: float = 10.0

    @property
    def noise_from(self) -> int:
        """The first step with unknown noise."""
        return self.steps - round(self.noise_share * self.steps)


@dataclass(frozen=True)
class Projection:
    """What was found for N pictures.

    Attributes:
        ws: [N, num_ws, w_dim].
        distances, squared_errors: [N], perceptual distance and mean squared error at the end.
        anchors: [N], mean squared whitened code. start_distances: [N], of the mean picture.
        noise: maps [N, 1, r, r] by noise input; empty where the constant noise was left as it is.
    """

    ws: Tensor
    distances: Tensor
    squared_errors: Tensor
    anchors: Tensor = field(default_factory=lambda: torch.zeros(0))
    start_distances: Tensor = field(default_factory=lambda: torch.zeros(0))
    noise: Mapping[int, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ws)

    def rows(self, rows: slice | Sequence[int]) -> Projection:
        """Some of the pictures."""
        at = rows if isinstance(rows, slice) else list(rows)
        tensors: dict[str, Any] = {name: t[at] if len(t) else t for name, t in self.tensors().items()}
        return Projection(**tensors, noise={i: maps[at] for i, maps in self.noise.items()})

    def tensors(self) -> dict[str, Tensor]:
        """Everything but the noise, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "noise"}

    @classmethod
    def joined(cls, parts: Sequence[Projection]) -> Projection:
        """Several projections of one generator under one plan as one."""
        named = [part.tensors() for part in parts]
        tensors: dict[str, Any] = {name: torch.cat([part[name] for part in named]) for name in named[0]}
        return cls(**tensors, noise={i: torch.cat([part.noise[i] for part in parts]) for i in parts[0].noise})


class LatentSpread(NamedTuple):
    """mean, std: [w_dim] of w."""

    mean: Tensor
    std: Tensor


def latent_spread(generator: Generator, samples: int = LATENT_SAMPLES) -> LatentSpread:
    """Mean and standard deviation of w over seeds 0 .. samples - 1."""
    with torch.no_grad():
        w = generator.latents(range(samples))[:, 0]
    return LatentSpread(w.mean(0), w.std(0))


class _Code:
    """The whitened unknowns of a batch and their optimiser."""

    def __init__(self, generator: Generator, start: Tensor, spread: LatentSpread, plan: ProjectionPlan) -> None:
        self.mean, self.std = spread
        white = (start - self.mean) / self.std.clamp_min(MAP_FLOOR)
        self.common = white.mean(1, keepdim=True).requires_grad_()
        self.own = (white - self.common.detach()).requires_grad_()
        self.plan = plan
        groups = [
            {"params": [self.common], "share": plan.lr},
            {"params": [self.own], "share": plan.lr * plan.own_lr_share},
        ]
        self.noise: NoiseMaps | None = None
        if plan.noise_from < plan.steps and isinstance(generator, NoisyGenerator):
            self.noise = NoiseMaps(generator, len(start))
            groups.append({"params": self.noise.parameters(), "share": plan.noise_lr})
        self.adam = torch.optim.Adam(groups, betas=(0.9, 0.99))

    @property
    def ws(self) -> Tensor:
        return self.mean + self.std * (self.common + self.own)

    def noise_at(self, number: int) -> Mapping[int, Tensor] | None:
        """The unknown maps where step `number` has any."""
        return self.noise.maps if self.noise is not None and number >= self.plan.noise_from else None

    def anchor(self) -> Tensor:
        """[N]: mean squared whitened code."""
        return (self.common + self.own).square().mean((1, 2))

    def penalty(self, number: int) -> Tensor | float:
        """[N]: weighted penalties of codes and noise."""
        of_noise = self.plan.noise_penalty * self.noise.penalty() if self.noise and self.noise_at(number) else 0.0
        return self.plan.anchor * self.anchor() + of_noise

    def step(self, number: int) -> None:
        plan, noise_from = self.plan, self.plan.noise_from
        ramp = min(1.0, (number + 1) / (0.1 * plan.steps))
        codes, noise = self.adam.param_groups[:2], self.adam.param_groups[2:]
        for group in codes:
            group["lr"] = group["share"] * ramp * cosine_decay(number, plan.steps, 0.05)
        for group in noise:
            group["lr"] = group["share"] * cosine_decay(number - noise_from, plan.steps - noise_from, 0.05)
        self.adam.step()
        self.adam.zero_grad()
        if self.noise is not None and self.noise_at(number):
            self.noise.renormalise()


def project(
    generator: Generator,
    distance: PerceptualDistance,
    images: Tensor,
    valid: Tensor | None = None,
    plan: ProjectionPlan = ProjectionPlan(),
    progress: Progress | None = None,
    start: Tensor | None = None,
    spread: LatentSpread | None = None,
) -> Projection:
    """Find w+ whose pictures look like `images`.

    Args:
        generator: differentiable. Whoever renders the result does it by `render_found`: constant noise but
            for the maps that were found.
        distance: the perceptual distance.
        images: [N, 3, R, R] in [-1, 1], R the generator's resolution.
        valid: [N, 1, R, R], 0 where the photo does not reach; all valid where it is None.
        start: [N, num_ws, w_dim] codes to start from, such as an encoder's; the mean w where it is None.
        spread: of the generator's w, where it is known already.

    Raises DataError where the sizes differ or a picture has no valid pixel.
    """
    valid = _checked(generator, images, valid)
    spread = spread or latent_spread(generator)
    mean = spread.mean.expand(len(images), generator.num_ws, -1)
    with torch.no_grad():
        target = distance.describe(images)
        begun = distance.between(generator.render(mean[:1]).images, target, valid)
    code = _Code(generator, mean if start is None else start, spread, plan)
    for number in range(plan.steps):
        rendered = render_found(generator, code.ws, code.noise_at(number)).images
        apart = distance.between(rendered, target, valid)
        error = masked_mean((rendered - images).square(), valid)
        loss = apart + plan.squared_error * error + code.penalty(number)
        loss.sum().backward()
        code.step(number)
        if progress is not None:
            progress(number + 1, plan.steps, float(loss.detach().mean()))
    with torch.no_grad():
        ws, noise = code.ws, {} if code.noise is None else code.noise.found()
        rendered = render_found(generator, ws, noise).images
        error = masked_mean((rendered - images).square(), valid)
        return Projection(ws, distance.between(rendered, target, valid), error, code.anchor(), begun, noise)


def _checked(generator: Generator, images: Tensor, valid: Tensor | None) -> Tensor:
    """The valid mask, all ones where there is none."""
    if images.shape[-2:] != (generator.resolution, generator.resolution):
        raise DataError(
            f"pictures are {images.shape[-1]}x{images.shape[-2]}, the generator draws {generator.resolution} px",
            "resize the pictures or build the generator at their size",
        )
    valid = torch.ones_like(images[:, :1]) if valid is None else valid.to(images)
    if empty := [i for i, row in enumerate(valid.flatten(1).sum(1).tolist()) if row == 0]:
        raise DataError(f"picture {empty[0]} has no valid pixel", "check its alignment")
    return valid


def reconstruct(generator: Generator, ws: Tensor, count: int = 4, noise: Mapping[int, Tensor] | None = None) -> Tensor:
    """Pictures [N, 3, R, R] of projected codes, `count` at a time; see `render_found`."""
    parts = []
    with torch.no_grad():
        for first in range(0, len(ws), count):
            rows = slice(first, first + count)
            maps = {i: m[rows] for i, m in (noise or {}).items()}
            parts.append(render_found(generator, ws[rows], maps).images)
    return torch.cat(parts)
