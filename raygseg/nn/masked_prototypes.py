"""Masked means of feature maps and cosine scores against them (PANet spec 1.3, 1.4; also CAT's estimator 5.3c).

The published mean is over features enlarged to the mask's size. Bilinear enlargement is linear, so the same mean is one
over the cells with the weights that the transposed enlargement gives the mask: A_h^T m A_w. A map of
[C, H, W] is never made, which at stride 8 is 64 times the memory and the time.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

EMPTY = 1e-5  # added to a mask's area: an empty mask gives zeros
NORM_EPS = 1e-8


@functools.lru_cache(maxsize=64)
def resize_matrix(cells: int, pixels: int, align_corners: bool = False) -> Tensor:
    """[pixels, cells]: bilinear enlargement along one axis as a matrix, float32 on the CPU."""
    unit = torch.eye(cells)[None]
    return F.interpolate(unit, size=pixels, mode="linear", align_corners=align_corners)[0].T.contiguous()


def cell_weights(masks: Tensor, grid: tuple[int, int], align_corners: bool = False) -> Tensor:
    """[..., H, W] -> [..., h, w]: what each cell counts in a sum of enlarged features over the mask."""
    height, width = masks.shape[-2:]
    rows = resize_matrix(grid[0], height, align_corners).to(masks.device)
    columns = resize_matrix(grid[1], width, align_corners).to(masks.device)
    return rows.T @ masks.to(rows.dtype) @ columns


def masked_average(features: Tensor, masks: Tensor, align_corners: bool = False) -> Tensor:
    """MAP(F, m) = sum_u F(u) m(u) / (sum_u m(u) + 1e-5) with F enlarged bilinearly to the mask (spec 1.3).

    Args:
        features: [..., C, h, w]; half precision is brought to float32.
        masks: [..., H, W], binary (any dtype); the leading sizes are those of `features`.

    Returns:
        [..., C]; zeros for an empty mask.
    """
    working = torch.promote_types(features.dtype, torch.float32)
    weights = cell_weights(masks, (features.shape[-2], features.shape[-1]), align_corners).to(working)
    total = torch.einsum("...chw,...hw->...c", features.to(working), weights)
    area = masks.sum(dim=(-2, -1), dtype=working)
    return total / (area + EMPTY)[..., None]


def class_prototypes(fore: Tensor, back: Tensor) -> Tensor:
    """Means of per-picture means: [B, W, K, C] twice -> [B, 1 + W, C], row 0 the one background (spec 1.3)."""
    return torch.cat([back.mean(dim=(1, 2))[:, None], fore.mean(dim=2)], dim=1)


def unit(vectors: Tensor, dim: int) -> Tensor:
    """Divided by their norm; a zero vector stays zero, so that its cosine with anything is 0."""
    length: Tensor = vectors.norm(dim=dim, keepdim=True)
    return vectors / length.clamp_min(NORM_EPS)


def cosine_scores(features: Tensor, prototypes: Tensor, scale: float) -> Tensor:
    """scale * cos(F(u), p_j) (spec 1.4): [B, Q, C, h, w] and [B, P, C] -> [B, Q, P, h, w]."""
    return scale * torch.einsum("bqchw,bpc->bqphw", unit(features, 2), unit(prototypes, 2))


def enlarge_scores(scores: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """[..., P, h, w] -> [..., P, H, W], bilinear."""
    flat = scores.flatten(0, -4) if scores.ndim > 4 else scores
    wide = F.interpolate(flat, size=size, mode="bilinear", align_corners=align_corners)
    return wide.unflatten(0, scores.shape[:-3]) if scores.ndim > 4 else wide


def hard_masks(scores: Tensor) -> Tensor:
    """[B, Q, P, h, w] -> which prototype wins each cell, one-hot [B, Q, P, h, w], without a gradient (spec 1.5.1)."""
    winner = scores.detach().argmax(dim=2, keepdim=True)
    return torch.zeros_like(scores).scatter_(2, winner, 1.0)


def pooled_by(features: Tensor, masks: Tensor) -> Tensor:
    """Means over all queries' cells: [B, Q, C, h, w] by weights [B, Q, P, h, w] -> [B, P, C] (spec 1.5.2)."""
    total = torch.einsum("bqchw,bqphw->bpc", features, masks)
    return total / (masks.sum(dim=(1, 3, 4)) + EMPTY)[..., None]
