"""A generator's noise maps as unknowns of a projection (StyleGAN2, appendix D; RepurposeGAN spec 1.6).

Noise could draw any picture by itself, and its features would then say nothing. So the maps keep the mean and
the spread that they had, and what a photo would add to them, likeness of neighbouring pixels on every scale, is
penalised: the squared autocorrelation beyond that of the fixed noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from raygseg.interfaces import Generator, NoisyGenerator, Rendering

COARSEST = 8  # px: smaller maps have too few pixels to be told from a picture, and stay as they are


class NoiseMaps:
    """The unknown maps of `count` pictures, [count, 1, r, r] by noise input, from 8 px to the picture's size."""

    def __init__(self, generator: NoisyGenerator, count: int) -> None:
        fixed = dict(enumerate(generator.fixed_noise()))
        kept = {i: m.detach() for i, m in fixed.items() if COARSEST <= m.shape[-1] <= generator.resolution}
        self.maps = {i: m.expand(count, -1, -1, -1).clone().requires_grad_() for i, m in kept.items()}
        self._mean = {i: m.mean() for i, m in kept.items()}
        self._std = {i: m.std() for i, m in kept.items()}
        self._likeness = {i: neighbour_likeness(m) for i, m in kept.items()}

    def parameters(self) -> list[Tensor]:
        return list(self.maps.values())

    def penalty(self) -> Tensor:
        """[N]: squared difference of autocorrelations from the fixed noise's, summed over maps and scales."""
        parts = [(neighbour_likeness(m) - self._likeness[i]).square().sum(1) for i, m in self.maps.items()]
        return torch.stack(parts).sum(0)

    @torch.no_grad()
    def renormalise(self) -> None:
        """Give every map of every picture its mean and spread back."""
        for i, maps in self.maps.items():
            centred = maps - maps.mean((1, 2, 3), keepdim=True)
            spread = centred.std((1, 2, 3), keepdim=True).clamp_min(1e-8)
            maps.copy_(centred / spread * self._std[i] + self._mean[i])

    def found(self) -> dict[int, Tensor]:
        return {i: maps.detach() for i, maps in self.maps.items()}


def neighbour_likeness(maps: Tensor) -> Tensor:
    """[N, 1, r, r] -> [N, 2 * scales]: mean product of horizontal and of vertical neighbours on each scale.

    From one scale to the next 2 x 2 pixels are averaged and doubled, which leaves white noise white.
    """
    values = []
    while True:
        values += [(maps * maps.roll(1, axis)).mean((1, 2, 3)) for axis in (3, 2)]
        if maps.shape[-1] <= COARSEST:
            return torch.stack(values, dim=1)
        maps = F.avg_pool2d(maps, 2) * 2


def has_noise(generator: Generator) -> bool:
    """Whether the generator takes noise maps."""
    return isinstance(generator, NoisyGenerator)


def render_found(
    generator: Generator, ws: Tensor, noise: Mapping[int, Tensor] | None = None, layers: Sequence[str] = ()
) -> Rendering:
    """Picture and features of projected codes, with their noise maps where there are any, else the constant noise."""
    if not noise:
        return generator.render(ws, None, layers)
    assert isinstance(generator, NoisyGenerator), "noise maps were found with another generator"
    return generator.render(ws, None, layers, noise)
