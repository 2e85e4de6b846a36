"""GroupNorm (Wu and He 2018) whose gradient is quick on the CPU too.

There the library's backward pass over channels-last maps takes ten times its forward pass. The gradient is affine
in the incoming gradient and the input, with a factor a channel and picture:

    dx = dy (w r) + x c + d,   c = (m sum(dy w) - sum(dy w x)) r^3 / M,   d = -c m - sum(dy w) r / M

with m and r the mean and the inverse deviation of a group of M values, sums over the group.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

ROW = 256  # values of a row from which on broadcasting is quick


class GroupNorm(nn.GroupNorm):
    """As `nn.GroupNorm`, same parameters; differentiable once on the CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, H, W], same shape, memory format and type out."""
        if input.device.type != "cpu" or not torch.is_grad_enabled():
            return functional.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)
        out: Tensor = _GroupNorm.apply(input, self.weight, self.bias, self.num_groups, self.eps)
        return out


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        count, channels, height, width = x.shape
        own = weight.to(x.dtype), bias.to(x.dtype)  # the library wants one type
        out, mean, rstd = torch.native_group_norm(x, *own, count, channels, height * width, groups, eps)
        ctx.save_for_backward(x, weight, mean.float(), rstd.float())
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, mean, rstd = ctx.saved_tensors
        count, groups = mean.shape
        each = x.shape[1] // groups  # channels of a group
        size = each * x.shape[2] * x.shape[3]
        with_x, alone = (_sums(maps).view(count, groups, each) for maps in (gradient * x, gradient))
        factors = weight.float().view(1, groups, each)
        summed, summed_x = (alone * factors).sum(2), (with_x * factors).sum(2)
        slope = (mean * summed - summed_x) * rstd**3 / size
        offset = -slope * mean - summed * rstd / size
        grown = _affine(gradient, (factors * rstd[..., None]).flatten(1), x, _each(slope, each), _each(offset, each))
        of_weight = ((with_x - alone * mean[..., None]) * rstd[..., None]).sum(0).flatten()
        return grown, of_weight.to(weight.dtype), alone.sum(0).flatten().to(weight.dtype), None, None


def _sums(maps: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C] over the pixels: along rows in the maps' type, then in float32."""
    return maps.sum(3).float().sum(2)


def _each(values: Tensor, channels: int) -> Tensor:
    """[N, groups] -> [N, C]."""
    return values[..., None].expand(-1, -1, channels).flatten(1)


def _affine(y: Tensor, scale: Tensor, x: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    """y scale + x slope + offset, with coefficients [N, C] for maps [N, C, H, W]."""
    count, channels, height, width = x.shape
    lasting = x.is_contiguous(memory_format=torch.channels_last) and y.is_contiguous(memory_format=torch.channels_last)
    if not lasting:
        wide = (values.to(x.dtype)[..., None, None] for values in (scale, slope, offset))
        return torch.addcmul(next(wide) * y, x, next(wide)) + next(wide)
    # Several pixels make one row: coefficients that repeat over a short row are broadcast eight times as slowly.
    pixels = math.gcd(height * width, max(1, ROW // channels))
    rows = (maps.permute(0, 2, 3, 1).reshape(count, -1, pixels * channels) for maps in (y, x))
    scale, slope, offset = (v.to(x.dtype).repeat(1, pixels)[:, None] for v in (scale, slope, offset))
    first, second = rows
    out = torch.addcmul(offset, second, slope).addcmul_(first, scale)
    return out.view(count, height, width, channels).permute(0, 3, 1, 2)
