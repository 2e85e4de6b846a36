"""Embedding: the codes and noise whose picture looks like a given one, and the labels of the same pass (spec B8).

Starts at the encoder's answer and follows, by Adam, the gradient of

    lp distance(x, G_x(w)) + l3 |x - G_x(w)|^2 + l2 |w - E(G_x(w))|^2 + ln noise(n)

to w in W+ and to the noise maps n. Unlike the released loop (B11-11, B11-12) it takes any number of pictures at
once with losses kept apart by picture, so that a batch gives what its pictures give alone; describes the targets
once; keeps no graph of the encoder; shrinks target and picture alike past 256 px; and begins with the constant
noise, so that the same picture has the same answer every time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from raygseg.interfaces import Generator, NoisyGenerator, Rendering
from raygseg.nn.noise_maps import NoiseMaps, render_found
from raygseg.nn.projection import LatentSpread, PerceptualDistance

Progress = Callable[[int, int, float], None]  # (step, steps, mean loss)
Encoder = Callable[[Tensor], Tensor]  # pictures [N, 3, R, R] to codes [N, num_ws, w_dim]
LARGEST = 256  # px at which pictures are compared
GAIN = 0.005  # share by which the distance must fall to count as progress


@dataclass(frozen=True)
class EmbeddingPlan:
    """How a picture is embedded.

    Attributes:
        steps: of Adam; 0: the encoder alone ("Ours-NO").
        start: the encoder's answer, or the mean w.
        lr: of codes, in units of the spread of w, and of noise; ramps up over `warm_up` of the steps and follows
            a half cosine down over the last `cool_down`.
        whiten: False gives lr and drift in w itself, as published.
        perceptual: weight of the distance. Without learnt weights VGG-16's is some 11 times LPIPS (measured on toy
            pictures), so that 0.1 stands for the published 1.
        squared_error, consistency, anchor: weights of the mean squares of x - G(w), w - E(G(w)) and w - start.
        consistency_every: steps between two looks of the encoder at the picture; 1 is published.
        noise: whether the noise maps are unknowns too. noise_penalty: weight of their likeness to a picture.
        drift_cap: largest root mean square of (w - start), in the units of lr; 0: none. Guards what the encoder
            saw against an optimisation that leaves the generator's domain.
        noise_draws: label maps are the mean over so many seeded draws of the noise; 0: those of the noise found.
        patience: steps without progress of the distance after which a picture is left as it is; 0: never.
    """

    steps: int = 100
    start: Literal["encoder", "mean"] = "encoder"
    lr: float = 0.1
    warm_up: float = 0.05
    cool_down: float = 0.25
    whiten: bool = True
    perceptual: float = 0.1
    squared_error: float = 0.1
    consistency: float = 1e-3
    consistency_every: int = 4
    anchor: float = 0.0
    noise: bool = True
    noise_penalty: float = 100.0
    drift_cap: float = 0.0
    noise_draws: int = 0
    patience: int = 0

    def rate(self, number: int) -> float:
        """Share of the learning rate at step `number`; never 0, as that of the first step was (B11-11)."""
        up = min(1.0, (number + 1) / max(self.warm_up * self.steps, 1.0))
        left = min(1.0, (1 - number / self.steps) / max(self.cool_down, 1e-9))
        return up * (0.5 - 0.5 * math.cos(math.pi * left))


@dataclass(frozen=True)
class Embedding:
    """What was found for N pictures.

    Attributes:
        ws: [N, num_ws, w_dim]. noise: maps [N, 1, r, r] by noise input, empty where they were not unknowns.
        label_logits: [N, C, R, R] of the same pass. images: [N, 3, R, R].
        distances, squared_errors: [N], at the end. start_distances: [N], of the start.
        drift: [N], root mean square of w - start. steps: [N], how many each picture took.
    """

    ws: Tensor
    label_logits: Tensor
    images: Tensor
    distances: Tensor
    squared_errors: Tensor
    start_distances: Tensor
    drift: Tensor
    steps: Tensor
    noise: Mapping[int, Tensor] = field(default_factory=dict)


def compared(images: Tensor) -> Tensor:
    """Pictures at the size at which they are compared: their own, at most 256 px (area average)."""
    return F.adaptive_avg_pool2d(images, LARGEST) if images.shape[-1] > LARGEST else images


class Target:
    """Pictures to be found, described once."""

    def __init__(self, distance: PerceptualDistance, images: Tensor) -> None:
        self.distance, self.images = distance, compared(images)
        self.valid = torch.ones_like(self.images[:, :1])
        with torch.no_grad():
            self.description = distance.describe(self.images)

    def compare(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[N] perceptual distances and [N] mean squared errors of pictures [N, 3, R, R]."""
        small = compared(images)
        return self.distance.between(small, self.description, self.valid), (small - self.images).square().mean(
            (1, 2, 3)
        )


class _Unknowns:
    """Codes and noise of a batch, their optimiser, and which pictures are still at work."""

    def __init__(self, generator: Generator, start: Tensor, scale: Tensor, plan: EmbeddingPlan) -> None:
        self.plan, self.start, self.scale = plan, start, scale
        self.offset = torch.zeros_like(start).requires_grad_()
        self.noise: NoiseMaps | None = None
        if plan.noise and isinstance(generator, NoisyGenerator):
            self.noise = NoiseMaps(generator, len(start))
        self.leaves = [self.offset] + ([] if self.noise is None else self.noise.parameters())
        self.adam = torch.optim.Adam(self.leaves, lr=plan.lr, betas=(0.9, 0.999))
        self.best = start.new_full((len(start),), math.inf)
        self.idle = torch.zeros(len(start), dtype=torch.long, device=start.device)
        self.steps = torch.zeros_like(self.idle)

    @property
    def ws(self) -> Tensor:
        return self.start + self.scale * self.offset

    @property
    def maps(self) -> Mapping[int, Tensor]:
        return {} if self.noise is None else self.noise.maps

    def penalty(self) -> Tensor | float:
        """[N]: what codes and noise cost by themselves."""
        far = (self.ws - self.start).square().mean((1, 2)) if self.plan.anchor else 0.0
        return self.plan.anchor * far + (
            self.plan.noise_penalty * self.noise.penalty() if self.noise is not None else 0.0
        )

    def drift(self) -> Tensor:
        """[N]: root mean square of the offset."""
        return self.offset.detach().square().mean((1, 2)).sqrt()

    def watch(self, distances: Tensor) -> bool:
        """Note which pictures make progress; True while any is at work."""
        better = distances < self.best * (1 - GAIN)
        self.best = torch.where(better, distances, self.best)
        self.idle = torch.where(better, 0, self.idle + 1)
        return not self.plan.patience or bool((self.idle < self.plan.patience).any())

    @torch.no_grad()
    def step(self, number: int) -> None:
        """Move by Adam, within the cap; pictures whose patience is over stay where they are."""
        before = [leaf.clone() for leaf in self.leaves] if self.plan.patience else []
        self.adam.param_groups[0]["lr"] = self.plan.lr * self.plan.rate(number)
        self.adam.step()
        self.adam.zero_grad()
        if self.noise is not None:
            self.noise.renormalise()
        if self.plan.drift_cap:
            self.offset.mul_((self.plan.drift_cap / self.drift().clamp_min(1e-12)).clamp_max(1.0)[:, None, None])
        over = (self.idle >= self.plan.patience) & (self.plan.patience > 0)
        for leaf, old in zip(self.leaves, before, strict=False):
            leaf.copy_(torch.where(over.view(-1, *[1] * (leaf.ndim - 1)), old, leaf))
        self.steps += (~over).long()


def embed(
    generator: Generator,
    encoder: Encoder,
    distance: PerceptualDistance,
    images: Tensor,
    plan: EmbeddingPlan,
    spread: LatentSpread,
    progress: Progress | None = None,
) -> Embedding:
    """Find pictures [N, 3, R, R] in [-1, 1] in the generator, which has a label branch.

    Args:
        generator, encoder: frozen, in evaluation mode. spread: mean and deviation of the generator's w.
    """
    target = Target(distance, images)
    with torch.no_grad():
        mean = spread.mean.expand(len(images), generator.num_ws, -1)
        start = encoder(images) if plan.start == "encoder" else mean.clone()
        first = generator.render(start)
        begun = target.compare(first.images)[0]
    if plan.steps == 0:
        return _found(target, start, first, begun, None)
    scale = spread.std.clamp_min(1e-6) if plan.whiten else torch.ones_like(spread.std)
    unknown = _Unknowns(generator, start, scale, plan)
    echo: Tensor | None = None
    for number in range(plan.steps):
        rendered = render_found(generator, unknown.ws, unknown.maps).images
        apart, error = target.compare(rendered)
        loss = plan.perceptual * apart + plan.squared_error * error + unknown.penalty()
        if plan.consistency:
            if echo is None or number % plan.consistency_every == 0:
                with torch.no_grad():
                    echo = encoder(rendered)
            loss = loss + plan.consistency * (unknown.ws - echo).square().mean((1, 2))
        if not unknown.watch(apart.detach()):
            break
        loss.sum().backward()
        unknown.step(number)
        if progress is not None:
            progress(number + 1, plan.steps, float(loss.detach().mean()))
    with torch.no_grad():
        rendering = render_found(generator, unknown.ws, unknown.maps)
        return _found(target, unknown.ws.detach(), rendering, begun, unknown)


def _found(target: Target, ws: Tensor, rendering: Rendering, begun: Tensor, unknown: _Unknowns | None) -> Embedding:
    """Measured at the end."""
    assert rendering.label_logits is not None, "the generator has no label branch"
    apart, error = target.compare(rendering.images)
    none = torch.zeros(len(ws), device=ws.device)
    drift, steps = (none, none.long()) if unknown is None else (unknown.drift(), unknown.steps)
    noise = {} if unknown is None or unknown.noise is None else unknown.noise.found()
    return Embedding(ws, rendering.label_logits, rendering.images, apart, error, begun, drift, steps, noise)
