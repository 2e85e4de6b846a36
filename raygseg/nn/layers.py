"""Equalised-learning-rate layers and the StyleGAN2 activation (spec A2)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from raygseg.nn import half
from raygseg.nn.resampling import conv_down, downsample

SQRT2 = math.sqrt(2.0)


def leaky_relu_in_place(x: Tensor) -> Tensor:
    """Leaky ReLU (slope 0.2), overwriting its argument.

    The activation's gain sqrt(2) is not here: leaky ReLU is positively homogeneous, so callers scale
    the weights and the bias before it instead, which spares a pass over the maps each way.
    """
    return F.leaky_relu(x, 0.2, inplace=True)


def kernel_for(x: Tensor, weight: Tensor) -> Tensor:
    """`weight` in the precision and memory layout of the maps `x`.

    A convolution would change the layout itself, but forget it and do so again in every backward pass.
    """
    last = x.is_contiguous(memory_format=torch.channels_last)
    return weight.to(x.dtype, memory_format=torch.channels_last if last else torch.preserve_format)


def recomputed(function: Callable[..., Any], *arguments: Any) -> Any:
    """function(*arguments), whose inner activations are dropped and computed again in the backward pass.

    The function must not draw random numbers. Gradients of any order are those of a plain call.
    """
    if not torch.is_grad_enabled():
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)


class EqualLinear(nn.Module):
    """Linear layer whose weights are N(0, 1) / m and scaled by m / sqrt(in_features) when used.

    Args:
        lr_multiplier: m; 0.01 in the mapping network.
        activate: leaky ReLU times sqrt(2) after the bias.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias_init: float = 0.0,
        lr_multiplier: float = 1.0,
        activate: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), bias_init))
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        gain = SQRT2 if self.activate else 1.0
        y = F.linear(x, self.weight * (self.weight_gain * gain), self.bias * (self.bias_gain * gain))
        return leaky_relu_in_place(y) if self.activate else y


class EqualConv(nn.Module):
    """Convolution with N(0, 1) weights scaled by 1 / sqrt(in * k^2); optionally halving the size.

    A 1 x 1 down-convolution filters and decimates first, which is the cheaper order.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        down: bool = False,
        bias: bool = True,
        activate: bool = True,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.weight_gain = 1.0 / math.sqrt(in_channels * kernel * kernel)
        self.kernel, self.down, self.activate = kernel, down, activate

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        bound_gain, gain = gain, gain * SQRT2 if self.activate else gain
        weight = kernel_for(x, self.weight * (self.weight_gain * gain))
        bias = None if self.bias is None else (self.bias * gain).to(x.dtype)
        if self.down and self.kernel == 1:
            y = F.conv2d(downsample(x), weight, bias)
        elif self.down:
            y = conv_down(x, weight, bias)
        else:
            y = F.conv2d(x, weight, bias, padding=self.kernel // 2)
        return half.bounded(leaky_relu_in_place(y), x.dtype, bound_gain) if self.activate else y
