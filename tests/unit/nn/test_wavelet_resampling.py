"""The banded products against the filters written out, and against finite differences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raygseg.nn.wavelet_resampling import SUPPORT, SYM6, double, halve

TAPS = torch.tensor(SYM6, dtype=torch.float64) / sum(SYM6)
SIZES = [(14, 16), (46, 30), (150, 132)]  # one block, some, and blocks that end in the middle


def maps(height: int, width: int) -> Tensor:
    rng = torch.Generator().manual_seed(height)
    return torch.randn(2, 3, height, width, generator=rng, dtype=torch.float64)


def filtered(x: Tensor, taps: Tensor) -> Tensor:
    """Full convolution along both axes."""
    channels, reach = x.shape[1], len(taps) - 1
    row = taps.flip(0).reshape(1, 1, 1, -1).expand(channels, 1, 1, -1)
    x = F.conv2d(F.pad(x, (reach, reach, 0, 0)), row, groups=channels)
    return F.conv2d(F.pad(x, (0, 0, reach, reach)), row.transpose(2, 3), groups=channels)


@pytest.mark.parametrize("size", SIZES)
def test_double_is_stuffing_zeros_and_filtering(size: tuple[int, int]) -> None:
    x = maps(*size)
    stuffed = torch.zeros(2, 3, 2 * size[0], 2 * size[1], dtype=torch.float64)
    stuffed[:, :, ::2, ::2] = x
    before = (len(SYM6) + 1) // 2  # zeros in front; len - 1 of them would keep the whole result
    cut = len(SYM6) - 1 - before
    whole = 4 * filtered(stuffed, TAPS)
    expected = whole[:, :, cut : cut + 2 * size[0], cut : cut + 2 * size[1]]
    torch.testing.assert_close(double(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_halve_is_filtering_and_dropping_and_undoes_double(size: tuple[int, int]) -> None:
    x = maps(*size)
    torch.testing.assert_close(
        halve(double(x)), x[:, :, SUPPORT : size[0] - SUPPORT, SUPPORT : size[1] - SUPPORT], rtol=0, atol=1e-6
    )
    whole = filtered(x, TAPS.flip(0))
    start = len(SYM6) - 1 - ((len(SYM6) - 1) // 2 - 2 * SUPPORT)
    rows, columns = (n // 2 - 2 * SUPPORT for n in size)
    expected = whole[:, :, start : start + 2 * rows : 2, start : start + 2 * columns : 2]
    torch.testing.assert_close(halve(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("function", [double, halve])
def test_gradients_of_first_and_second_order(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(1, 2, 14, 16, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, (x,))
    assert torch.autograd.gradgradcheck(lambda z: function(z).square(), (x,))
