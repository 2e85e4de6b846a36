"""Modulated convolution without per-sample weights (spec A4, non-fused form)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raygseg.nn.layers import EqualLinear
from raygseg.nn.resampling import conv_up


def demodulation(weight: Tensor, styles: Tensor) -> Tensor:
    """[N, O] factors 1 / sqrt(sum (W s)^2 + 1e-8).

    The sum over inputs and taps is a matrix product of s^2 [N, I] with the summed squares of
    W [O, I, k, k]; the [N, O, I, k, k] tensor of modulated weights is never built.
    """
    energy = weight.square().sum(dim=(2, 3))
    return (styles.square() @ energy.t() + 1e-8).rsqrt()


def modulated_conv(x: Tensor, weight: Tensor, styles: Tensor, *, demodulate: bool = True, up: bool = False) -> Tensor:
    """Scale the input channels by the styles, convolve with shared weights, scale the outputs.

    Args:
        x: [N, I, H, W] in the working precision.
        weight: [O, I, k, k] fp32.
        styles: [N, I] fp32.
    """
    y = x * styles.to(x.dtype)[:, :, None, None]
    kernel = weight.to(x.dtype)
    y = conv_up(y, kernel) if up else F.conv2d(y, kernel, padding=weight.shape[2] // 2)
    if demodulate:
        y = y * demodulation(weight, styles).to(x.dtype)[:, :, None, None]
    return y


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
        y = modulated_conv(x, self.weight, self.affine(w), up=self.up)
        noise = self.noise_const if noise is None else noise
        y = y + (noise * self.noise_strength).to(y.dtype)
        y = y + self.bias.to(y.dtype)[:, None, None]
        return F.leaky_relu(y, 0.2) * math.sqrt(2.0)


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
        y = modulated_conv(x, self.weight, self.affine(w) * self.weight_gain, demodulate=False)
        return y.float() + self.bias[:, None, None]
