"""Latent projection: the w+ whose picture looks like a given photo (RepurposeGAN spec 1.6).

Starts at the mean w and follows the gradient of a perceptual distance plus a squared error to w+, by Adam.
The unknowns are whitened: w+ = mean + std * (common + own), `common` shared by all modulated steps and
`own` one a step, kept near zero by a weak penalty, so that the result stays where the generator has
learnt its features. Losses are kept apart by picture: a batch gives what its pictures give alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from raygseg.errors import DataError
from raygseg.interfaces import Generator
from raygseg.nn.schedules import cosine_decay

Progress = Callable[[int, int, float], None]  # (step, steps, mean loss)
LATENT_SAMPLES = 512  # for the mean and spread of w
MAP_FLOOR = 1e-6


class FeatureNetwork(Protocol):
    """Pictures [N, 3, R, R] in [-1, 1] to feature maps by name (`backbones.vgg16.VGG16Features`)."""

    def __call__(self, images: Tensor) -> dict[str, Tensor]: ...


class PerceptualDistance:
    """LPIPS-style distance: unit-length feature vectors, squared differences, mean over valid pixels, sum over maps.

    It has no learnt weights and is not the published LPIPS.
    """

    def __init__(self, network: FeatureNetwork) -> None:
        self.network = network

    def describe(self, images: Tensor) -> dict[str, Tensor]:
        """Unit-length feature maps of pictures [N, 3, R, R] in [-1, 1]."""
        return {name: F.normalize(maps.float(), dim=1, eps=MAP_FLOOR) for name, maps in self.network(images).items()}

    def between(self, images: Tensor, target: dict[str, Tensor], valid: Tensor) -> Tensor:
        """[N]: distance of pictures to described targets; valid [N, 1, R, R] in 0..1."""
        total = images.new_zeros(len(images))
        for name, maps in self.describe(images).items():
            weight = F.adaptive_avg_pool2d(valid, maps.shape[-1])
            total = total + masked_mean((maps - target[name]).square().sum(1, keepdim=True), weight)
        return total


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
    """

    steps: int = 60
    lr: float = 0.18
    own_lr_share: float = 0.5
    squared_error: float = 1.0
    anchor: float = 1e-3


@dataclass(frozen=True)
class Projection:
    """ws: [N, num_ws, w_dim]. distances: [N] perceptual distance at the end. squared_errors: [N]."""

    ws: Tensor
    distances: Tensor
    squared_errors: Tensor


def latent_spread(generator: Generator, samples: int = LATENT_SAMPLES) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of w over seeds 0 .. samples - 1: two of [w_dim]."""
    with torch.no_grad():
        w = generator.latents(range(samples))[:, 0]
    return w.mean(0), w.std(0)


class _Code:
    """The whitened unknowns of a batch and their optimiser."""

    def __init__(self, generator: Generator, count: int, plan: ProjectionPlan) -> None:
        self.mean, self.std = latent_spread(generator)
        self.common = self.mean.new_zeros(count, 1, generator.w_dim).requires_grad_()
        self.own = self.mean.new_zeros(count, generator.num_ws, generator.w_dim).requires_grad_()
        self.plan = plan
        groups = [{"params": [self.common], "share": 1.0}, {"params": [self.own], "share": plan.own_lr_share}]
        self.adam = torch.optim.Adam(groups, lr=plan.lr, betas=(0.9, 0.99))

    @property
    def ws(self) -> Tensor:
        return self.mean + self.std * (self.common + self.own)

    def anchor(self) -> Tensor:
        """[N]: mean squared whitened code."""
        return (self.common + self.own).square().mean((1, 2))

    def step(self, number: int) -> None:
        ramp = min(1.0, (number + 1) / (0.1 * self.plan.steps))
        for group in self.adam.param_groups:
            group["lr"] = self.plan.lr * group["share"] * ramp * cosine_decay(number, self.plan.steps, 0.05)
        self.adam.step()
        self.adam.zero_grad()


def project(
    generator: Generator,
    distance: PerceptualDistance,
    images: Tensor,
    valid: Tensor | None = None,
    plan: ProjectionPlan = ProjectionPlan(),
    progress: Progress | None = None,
) -> Projection:
    """Find w+ whose pictures look like `images`.

    Args:
        generator: differentiable; its fixed noise is used, in the search and by whoever renders the result.
        distance: the perceptual distance.
        images: [N, 3, R, R] in [-1, 1], R the generator's resolution.
        valid: [N, 1, R, R], 0 where the photo does not reach; all valid where it is None.

    Raises DataError where the sizes differ or a picture has no valid pixel.
    """
    if images.shape[-2:] != (generator.resolution, generator.resolution):
        raise DataError(
            f"pictures are {images.shape[-1]}x{images.shape[-2]}, the generator draws {generator.resolution} px",
            "resize the pictures or build the generator at their size",
        )
    valid = torch.ones_like(images[:, :1]) if valid is None else valid.to(images)
    if empty := [i for i, row in enumerate(valid.flatten(1).sum(1).tolist()) if row == 0]:
        raise DataError(f"picture {empty[0]} has no valid pixel", "check its alignment")
    with torch.no_grad():
        target = distance.describe(images)
    code = _Code(generator, len(images), plan)
    for number in range(plan.steps):
        rendered = generator.render(code.ws).images
        apart = distance.between(rendered, target, valid)
        error = masked_mean((rendered - images).square(), valid)
        loss = apart + plan.squared_error * error + plan.anchor * code.anchor()
        loss.sum().backward()
        code.step(number)
        if progress is not None:
            progress(number + 1, plan.steps, float(loss.detach().mean()))
    return _measured(generator, distance, code.ws.detach(), images, target, valid)


@torch.no_grad()
def _measured(
    generator: Generator,
    distance: PerceptualDistance,
    ws: Tensor,
    images: Tensor,
    target: dict[str, Tensor],
    valid: Tensor,
) -> Projection:
    rendered = generator.render(ws).images
    error = masked_mean((rendered - images).square(), valid)
    return Projection(ws, distance.between(rendered, target, valid), error)


def reconstruct(generator: Generator, ws: Tensor, count: int = 4) -> Tensor:
    """Pictures [N, 3, R, R] of projected codes under the fixed noise, `count` at a time."""
    with torch.no_grad():
        parts: Sequence[Tensor] = [generator.render(part).images for part in ws.split(count)]
    return torch.cat(list(parts))
