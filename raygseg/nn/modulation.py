"""Modulated convolution without per-sample weights (spec A4, non-fused form)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raygseg.nn import half
from raygseg.nn.layers import SQRT2, EqualLinear, kernel_for, leaky_relu_in_place
from raygseg.nn.resampling import conv_up


def demodulation(weight: Tensor, styles: Tensor) -> Tensor:
    """[N, O] factors 1 / sqrt(sum (W s)^2 + 1e-8).

    The sum over inputs and taps is a matrix product of s^2 [N, I] with the summed squares of
    W [O, I, k, k]; the [N, O, I, k, k] tensor of modulated weights is never built.
    """
    energy = weight.square().sum(dim=(2, 3))
    return (styles.square() @ energy.t() + 1e-8).rsqrt()


def conv_of_scaled(x: Tensor, weight: Tensor, styles: Tensor, *, up: bool = False) -> Tensor:
    """Scale the input channels by the styles, then convolve with the shared weights; not demodulated.

    Args:
        x: [N, I, H, W] in the working precision.
        weight: [O, I, 3, 3] fp32.
        styles: [N, I] fp32.
    """
    y = x * styles.to(x.dtype)[:, :, None, None]
    kernel = kernel_for(x, weight)
    return conv_up(y, kernel) if up else F.conv2d(y, kernel, padding=1)


class StyledConv(nn.Module):
    """Modulated 3 x 3 convolution, noise, bias, activation."""

    noise_const: Tensor

    def __init__(self, in_channels: int, out_channels: int, w_dim: int, resolution: int, *, up: bool = False) -> None:
        super().__init__()
        self.affine = EqualLinear(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.resolution, self.up = resolution, up

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        """x [N, I, H, W], w [N, w_dim], noise [N, 1, R, R] or None for the constant buffer."""
        weight: Tensor = self.weight
        styles: Tensor = self.affine(w)
        if x.dtype == torch.float16:
            weight, styles = half.small(weight, styles)
        y = conv_of_scaled(x, weight, styles, up=self.up)
        # The activation's gain sits in the three small tensors; demodulation and noise are one pass.
        scale = demodulation(weight, styles) * SQRT2
        noise = (self.noise_const if noise is None else noise) * (self.noise_strength * SQRT2)
        y = torch.addcmul(noise.to(y.dtype), y, scale.to(y.dtype)[:, :, None, None])
        y.add_((self.bias * SQRT2).to(y.dtype)[:, None, None])
        return half.bounded(leaky_relu_in_place(y), x.dtype)


class ToImage(nn.Module):
    """Modulated 1 x 1 convolution to the output channels: no demodulation, no activation."""

    def __init__(self, in_channels: int, out_channels: int, w_dim: int) -> None:
        super().__init__()
        self.affine = EqualLinear(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.weight_gain = 1.0 / math.sqrt(in_channels)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """[N, I, H, W] -> [N, O, H, W] fp32: the picture is accumulated in fp32 (spec A11)."""
        # A kernel a sample, [N, O, I]: with three outputs that is far less than scaling x.
        kernels = self.weight[None, :, :, 0, 0] * (self.affine(w) * self.weight_gain)[:, None]
        flat = x.permute(0, 2, 3, 1).flatten(1, 2)  # [N, HW, I], a view of a channels-last map
        y = torch.bmm(flat, kernels.transpose(1, 2).to(x.dtype)).float() + self.bias
        y = half.bounded(y, x.dtype)
        image: Tensor = y.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
        return image
