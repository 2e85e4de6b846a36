"""Fused hypercolumns: a linear reading of all layers of a generator without ever building the stack.

A hypercolumn resizes every layer's maps to one grid and concatenates them over channels: 4,864
channels at 256 px, 1.2 GiB a picture. Resizing is linear and acts on each channel alone, so a first
1x1 convolution commutes with it (RepurposeGAN spec 1.3):

    W concat_l(R_l(f_l)) + b  =  sum_l R_l(W_l f_l) + b

Each layer is therefore projected to a few channels at its own resolution, then resized and summed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from raygseg.interfaces import FeatureLayer

CHUNK_BYTES = 4 << 20  # of output enlarged at a time: stays in the second-level cache


def resize_map(maps: Tensor, resolution: int, corners: bool = True) -> Tensor:
    """[N, C, r, r] -> [N, C, resolution, resolution]: bilinear up, area average down.

    corners: enlarging puts the outermost samples on the corners (align_corners), as published for
    generators; False keeps pixel centres in place, as the maps of a network that pools a picture lie.
    """
    if maps.shape[-1] == resolution:
        return maps
    if maps.shape[-1] > resolution:
        return functional.interpolate(maps, size=resolution, mode="area")
    return functional.interpolate(maps, size=resolution, mode="bilinear", align_corners=corners)


def _pixel_columns(maps: Tensor) -> Tensor:
    """[N, C, r, r] -> [N, C, r * r] without copying, also of channels_last maps (a transposed view)."""
    if maps.is_contiguous():
        return maps.flatten(2)
    return maps.permute(0, 2, 3, 1).flatten(1, 2).transpose(1, 2)


class _AddEnlarged(torch.autograd.Function):
    """total += sum of the small maps, each enlarged; in place, a few channels at a time.

    Enlarging a few channels at a time keeps the intermediate in cache instead of writing a full-size
    map a layer; the gradient of each small map is the transposed bilinear resize.
    """

    @staticmethod
    def forward(ctx: Any, total: Tensor, corners: bool, *small: Tensor) -> Tensor:
        ctx.mark_dirty(total)
        ctx.corners = corners
        ctx.small_shapes = [maps.shape for maps in small]
        resolution = total.shape[-1]
        chunk = max(1, CHUNK_BYTES // (total[:, :1].numel() * total.element_size()))
        for first in range(0, total.shape[1], chunk):
            part = total[:, first : first + chunk]
            for maps in small:
                part.add_(resize_map(maps[:, first : first + chunk], resolution, corners))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0].contiguous()
        size = list(grad.shape[-2:])
        transposed = torch.ops.aten.upsample_bilinear2d_backward
        enlarged = (
            transposed(grad, size, list(shape), ctx.corners) if needed else None
            for shape, needed in zip(ctx.small_shapes, ctx.needs_input_grad[2:], strict=True)
        )
        return grad, None, *enlarged


class FusedHypercolumn(nn.Module):
    """A 1x1 convolution over the hypercolumn of `layers`. {name: [N, C_l, r_l, r_l]} -> [N, width, R, R].

    Equal to resizing, concatenating and convolving (up to rounding), at the cost of the layers' own
    grids. Maps larger than R are averaged down first and then projected, smaller ones projected
    first and then enlarged, so that every multiply is paid at the smaller of the two grids; layers
    that share a grid add up there and are enlarged once.

    Channels can be standardised: (f - mean) / std is affine, hence folded into W and b.

    Args:
        layers: the generator's taps, in the order of the stack's channels.
        width: output channels d.
        resolution: R, the stack's grid.
        corners: how maps are enlarged, see `resize_map`.
    """

    mean: Tensor
    inverse_std: Tensor

    def __init__(self, layers: Sequence[FeatureLayer], width: int, resolution: int, corners: bool = True) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.resolution, self.corners = resolution, corners
        channels = sum(layer.channels for layer in self.layers)
        self.weight = nn.Parameter(torch.randn(width, channels) * math.sqrt(2.0 / channels))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("inverse_std", torch.ones(channels))

    @property
    def in_channels(self) -> int:
        """Channels of the stack that is never built."""
        return self.weight.shape[1]

    def standardise(self, mean: Tensor, std: Tensor, floor: float = 1e-4) -> None:
        """Read each channel as (f - mean) / max(std, floor * largest std). mean, std: [sum of C_l]."""
        self.mean.copy_(mean)
        self.inverse_std.copy_(1.0 / std.clamp_min(floor * float(std.max())))

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        with torch.autocast(self.weight.device.type, enabled=False):
            weight = self.weight * self.inverse_std
            bias = self.bias - weight @ self.mean
            grids = self._project(features, weight)
            total = grids.pop(self.resolution, None)
            if total is None:
                batch = next(iter(features.values())).shape[0]
                total = weight.new_zeros(batch, weight.shape[0], self.resolution, self.resolution)
            out: Tensor = _AddEnlarged.apply(total, self.corners, *grids.values()) if grids else total
            return out.add_(bias[:, None, None])

    def _project(self, features: Mapping[str, Tensor], weight: Tensor) -> dict[int, Tensor]:
        """{r: [N, width, r, r]}: W_l f_l, summed over the layers whose grid is r <= R."""
        sums: dict[int, Tensor] = {}
        first = 0
        for layer in self.layers:
            maps = features[layer.name]
            assert maps.shape[1:] == (layer.channels, layer.resolution, layer.resolution), layer.name
            grid = min(layer.resolution, self.resolution)
            maps = _pixel_columns(resize_map(maps, grid))
            columns = weight[:, first : first + layer.channels].to(maps.dtype).expand(maps.shape[0], -1, -1)
            first += layer.channels
            if maps.dtype == weight.dtype and grid in sums:
                sums[grid].baddbmm_(columns, maps)
            else:  # 16-bit maps: multiplied as they are, summed in the weights' precision
                product = torch.bmm(columns, maps).to(weight.dtype)
                sums[grid] = sums[grid].add_(product) if grid in sums else product
        return {grid: total.unflatten(2, (grid, grid)) for grid, total in sums.items()}


def channel_statistics(
    batches: Iterable[Mapping[str, Tensor]], layers: Sequence[FeatureLayer]
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel over pictures and pixels, in the stack's order.

    Every layer is measured on its own grid. batches: feature maps by layer name, of equally many
    pictures each; one batch is held at a time.
    """
    mean, square, count = torch.zeros(()), torch.zeros(()), 0
    for features in batches:
        maps = [features[layer.name].detach().double() for layer in layers]
        mean = mean + torch.cat([m.mean(dim=(0, 2, 3)) for m in maps])
        square = square + torch.cat([m.square().mean(dim=(0, 2, 3)) for m in maps])
        count += 1
    mean, square = mean / count, square / count
    return mean.float(), (square - mean.square()).clamp_min(0.0).sqrt().float()
