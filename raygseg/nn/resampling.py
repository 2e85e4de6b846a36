"""Factor-two resampling with the [1, 3, 3, 1] FIR filter (spec A2).

Everything can be differentiated any number of times.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@functools.lru_cache(maxsize=32)
def _kernel(taps: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    row = torch.tensor(taps, dtype=torch.float64)
    square = torch.outer(row, row)
    return (square / square.sum()).to(dtype=dtype, device=device)


def fir_kernel(dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
    """The 4 x 4 low-pass kernel: outer([1, 3, 3, 1]) / 64."""
    return _kernel((1.0, 3.0, 3.0, 1.0), dtype, torch.device(device))


class _Depthwise(torch.autograd.Function):
    """The same symmetric k x k kernel over every channel.

    Its gradient is the same filter with k - 1 - padding zeros, to any order. Left to itself autograd would, in
    double backward, also make the gradient of the constant kernel: one small convolution a channel.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, padding: int) -> Tensor:
        ctx.kernel, ctx.padding = kernel, padding
        return F.conv2d(x, kernel.expand(x.shape[1], 1, *kernel.shape), padding=padding, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        padding = ctx.kernel.shape[0] - 1 - ctx.padding
        return _Depthwise.apply(gradients[0], ctx.kernel, padding), None, None


def _depthwise(x: Tensor, kernel: Tensor, padding: int) -> Tensor:
    y: Tensor = _Depthwise.apply(x, kernel, padding)
    return y


def fir_filter(x: Tensor, padding: int, gain: float = 1.0) -> Tensor:
    """Depthwise FIR over [N, C, H, W] with `padding` zeros on every side."""
    return _depthwise(x, fir_kernel(x.dtype, x.device) * gain, padding)


def upsample(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C, 2H, 2W]: zero-stuffing, then the FIR with gain 4 and padding (2, 1).

    The four phases of that filter are (1, 3)/4 and (3, 1)/4 on each axis, which is bilinear
    interpolation of the zero-padded map: far cheaper than filtering stuffed zeros.
    """
    padded = F.pad(x, (1, 1, 1, 1))
    double = F.interpolate(padded, scale_factor=2, mode="bilinear", align_corners=False)
    return double[:, :, 2:-2, 2:-2]


def downsample(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C, H/2, W/2]: the FIR with padding (1, 1), then every second sample.

    [1, 3, 3, 1] = [1, 2, 1] * [1, 1], so it is a 3 x 3 binomial and an average over pairs; the
    backward pass of a strided depthwise convolution costs about ten times as much on a CPU.
    """
    return F.avg_pool2d(_depthwise(x, _kernel((1.0, 2.0, 1.0), x.dtype, x.device), 1), 2)


def conv_up(x: Tensor, weight: Tensor) -> Tensor:
    """3 x 3 convolution that doubles the size: transposed, stride 2 (2H + 1), then the FIR, gain 4, padding (1, 1)."""
    grown = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
    return fir_filter(grown, 1, gain=4.0)


def conv_down(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """3 x 3 convolution that halves the size: the FIR with padding (2, 2) (H + 1), then stride 2."""
    return F.conv2d(fir_filter(x, 2), weight, bias, stride=2)
