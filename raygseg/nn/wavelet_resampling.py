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
BLOCK = 64  # columns of a block: wide enough for the product, narrow enough that little outside the band is touched


class Block(NamedTuple):
    """Columns [first, last) of a banded matrix, of which only rows [top, bottom) differ from zero."""

    first: int
    last: int
    top: int
    bottom: int
    values: Tensor


def _taps() -> Tensor:
    taps = torch.tensor(SYM6, dtype=torch.float64)
    return taps / taps.sum()


def _placed(rows: int, columns: int, stride: int, offset: int, taps: Tensor) -> Tensor:
    """[rows, columns] with the taps of row i at columns from stride * i - offset; what falls outside is left out."""
    matrix = torch.zeros(rows, columns, dtype=torch.float64)
    for row in range(rows):
        start = stride * row - offset
        first, last = max(start, 0), min(start + len(taps), columns)
        matrix[row, first:last] = taps[first - start : last - start]
    return matrix


def _enlarging(length: int) -> Tensor:
    """[L, 2L]: zeros between samples, then the filter with gain 2; keeps 2L of the result as `upfirdn` would."""
    return _placed(length, 2 * length, 2, len(SYM6) - 1 - (len(SYM6) + 1) // 2, _taps() * 2.0)


def _halving(length: int) -> Tensor:
    """[L, L / 2 - 2 SUPPORT]: the flipped filter, then every second sample without the support of the padding."""
    offset = (len(SYM6) - 1) // 2 - 2 * SUPPORT
    return _placed(length // 2 - 2 * SUPPORT, length, 2, offset, _taps()).t()


@functools.lru_cache(maxsize=512)
def _blocks(length: int, enlarge: bool, transposed: bool, dtype: torch.dtype, device: torch.device) -> list[Block]:
    """The matrix of one axis, or its transpose, cut into blocks of columns."""
    matrix = _enlarging(length) if enlarge else _halving(length)
    matrix = matrix.t() if transposed else matrix
    blocks = []
    for first in range(0, matrix.shape[1], BLOCK):
        last = min(first + BLOCK, matrix.shape[1])
        rows = matrix[:, first:last].abs().sum(dim=1).nonzero()[:, 0]
        top, bottom = int(rows[0]), int(rows[-1]) + 1
        values = matrix[top:bottom, first:last].to(dtype=dtype, device=device).contiguous()
        blocks.append(Block(first, last, top, bottom, values))
    return blocks


class _Resampled(torch.autograd.Function):
    """The last axis (axis 3) or the one before it (2) of [N, C, H, W] times the banded matrix, or its transpose.

    The gradient is the product with the other of the two, to any order.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: int, length: int, enlarge: bool, transposed: bool) -> Tensor:
        ctx.told = axis, length, enlarge, transposed
        blocks = _blocks(length, enlarge, transposed, x.dtype, x.device)
        n, channels, height, width = x.shape
        x = x.contiguous()
        if axis == 3:
            result = x.new_empty(n, channels, height, blocks[-1].last)
            flat, rows = result.view(-1, blocks[-1].last), x.view(-1, width)
            for block in blocks:
                torch.mm(rows[:, block.top : block.bottom], block.values, out=flat[:, block.first : block.last])
            return result
        maps = x.view(-1, height, width)
        parts = [b.values.t().expand(len(maps), -1, -1) @ maps[:, b.top : b.bottom] for b in blocks]
        return torch.cat(parts, dim=1).view(n, channels, -1, width)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        axis, length, enlarge, transposed = ctx.told
        return _Resampled.apply(gradients[0], axis, length, enlarge, not transposed), None, None, None, None


def _resampled(x: Tensor, axis: int, enlarge: bool) -> Tensor:
    y: Tensor = _Resampled.apply(x, axis, x.shape[axis], enlarge, False)
    return y


def double(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C, 2H, 2W] with gain 4, zeros outside."""
    return _resampled(_resampled(x, 3, True), 2, True)


def halve(x: Tensor) -> Tensor:
    """[N, C, H, W] of even sizes -> [N, C, H / 2 - 2 SUPPORT, W / 2 - 2 SUPPORT]: without what padding reaches."""
    return _resampled(_resampled(x, 2, False), 3, False)
