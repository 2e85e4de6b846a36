"""The squared distance of two feature vectors' directions at every pixel, in the fewest passes over the maps.

|a / |a| - b|^2 for unit b is |a|^2 / n^2 + |b|^2 - 2 a.b / n with n = max(|a|, floor), so that no normalised map and
no difference is ever written; its gradient to a is one combination of a and b. On a CPU these maps are larger than
its caches, and passes over them were a tenth of a projection's step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def unit_square_distance(maps: Tensor, target: Tensor, floor: float) -> Tensor:
    """[N, 1, H, W]: squared distances of maps [N, C, H, W], divided by their length, to unit maps of that shape.

    Gradients go to `maps` only, and once. Exact but for rounding, which is some 1e-7 of a distance of 1.
    """
    out: Tensor = _UnitSquareDistance.apply(maps, target.detach(), floor)
    return out


class _UnitSquareDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, target: Tensor, floor: float) -> Tensor:
        length = torch.linalg.vector_norm(maps, dim=1, keepdim=True)
        divisor = length.clamp_min(floor)
        dot = (maps * target).sum(1, keepdim=True)
        ctx.save_for_backward(maps, target, length, dot)
        ctx.floor = floor
        own = torch.linalg.vector_norm(target, dim=1, keepdim=True)
        squares: Tensor = (length / divisor).square() + own.square() - 2 * dot / divisor
        return squares.clamp_min(0)  # rounding

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        maps, target, length, dot = ctx.saved_tensors
        divisor = length.clamp_min(ctx.floor)
        # Above the floor the length has a gradient of its own, which leaves only what is across the vector.
        along = torch.where(length > ctx.floor, dot / divisor, torch.ones_like(dot)) / divisor.square()
        return torch.addcmul(maps * (2 * gradient * along), target, 2 * gradient / divisor, value=-1), None, None
