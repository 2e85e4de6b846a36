"""Factor-two resampling with a 12-tap wavelet filter, as the adaptive augmentation wants it (spec A12).

A filter along an axis is a product with a banded matrix. A CPU makes one small convolution a channel of it otherwise,
which took two thirds of the augmentation's time; blocks of the band keep a matrix product busy instead.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Low-pass of the 12-tap least-asymmetric orthogonal wavelet (symlet 6).
SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
    0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
    -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
SUPPORT = len(SYM6) // 4
BLOCK = 64  # outputs of a product: enough for it, few enough that little outside the band is touched


class Band(NamedTuple):
    """A matrix whose row i holds gain * taps at the columns from 2 i - offset on: the same at every place."""

    offset: int
    gain: float

    def inputs(self, first: int, last: int, spread: bool) -> tuple[int, int]:
        """Which inputs reach outputs [first, last), the ends not cut: x @ matrix (spread) or x @ its transpose."""
        reach = len(SYM6) - 1
        if spread:
            return -((reach - first - self.offset) // 2), (last - 1 + self.offset) // 2 + 1
        return 2 * first - self.offset, 2 * (last - 1) - self.offset + reach + 1


# Zeros between samples, then the filter with gain 2, keeping 2 L of the result as `upfirdn` would; and (transposed) the
# flipped filter, every second sample, without the support of the padding.
ENLARGING = Band(len(SYM6) - 1 - (len(SYM6) + 1) // 2, 2.0)
HALVING = Band((len(SYM6) - 1) // 2 - 2 * SUPPORT, 1.0)


@functools.lru_cache(maxsize=32)
def _block(band: Band, spread: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[inputs, BLOCK]: what every block of outputs that begins at a multiple of BLOCK is made with."""
    low, high = band.inputs(0, BLOCK, spread)
    taps = torch.tensor(SYM6, dtype=torch.float64) * (band.gain / sum(SYM6))
    inputs, outputs = torch.arange(low, high)[:, None], torch.arange(BLOCK)[None]
    place = outputs - 2 * inputs + band.offset if spread else inputs - 2 * outputs + band.offset
    inside = (place >= 0) & (place < len(SYM6))
    values = torch.where(inside, taps[place.clamp(0, len(SYM6) - 1)], 0.0)
    return values.to(dtype=dtype, device=device)


class _Resampled(torch.autograd.Function):
    """Axis 3 or 2 of [N, C, H, W] times the banded matrix (spread) or its transpose, `length` outputs of it.

    The gradient is the product with the other of the two, to any order.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: int, band: Band, spread: bool, length: int) -> Tensor:
        ctx.told = axis, band, not spread, x.shape[axis]
        n, channels, height, width = x.shape
        x, block = x.contiguous(), _block(band, spread, x.dtype, x.device)
        rows, maps = x.view(-1, width), x.view(-1, height, width)
        result = x.new_empty((len(rows), length) if axis == 3 else (len(maps), length, width))
        for first in range(0, length, BLOCK):
            last = min(first + BLOCK, length)
            low, high = band.inputs(first, last, spread)
            top, bottom = max(low, 0), min(high, x.shape[axis])
            values = block[top - low : bottom - low, : last - first]
            if axis == 3:
                torch.mm(rows[:, top:bottom], values, out=result[:, first:last])
            else:
                result[:, first:last] = values.t().expand(len(maps), -1, -1) @ maps[:, top:bottom]
        return result.view(n, channels, height, length) if axis == 3 else result.view(n, channels, length, width)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return _Resampled.apply(gradients[0], *ctx.told), None, None, None, None


def _resampled(x: Tensor, axis: int, band: Band, spread: bool, length: int) -> Tensor:
    y: Tensor = _Resampled.apply(x, axis, band, spread, length)
    return y


def double(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C, 2H, 2W] with gain 4, zeros outside."""
    x = _resampled(x, 3, ENLARGING, True, 2 * x.shape[3])
    return _resampled(x, 2, ENLARGING, True, 2 * x.shape[2])


def halve(x: Tensor) -> Tensor:
    """[N, C, H, W] of even sizes -> [N, C, H / 2 - 2 SUPPORT, W / 2 - 2 SUPPORT]: without what padding reaches."""
    x = _resampled(x, 2, HALVING, False, x.shape[2] // 2 - 2 * SUPPORT)
    return _resampled(x, 3, HALVING, False, x.shape[3] // 2 - 2 * SUPPORT)
