"""Class-balanced cross-entropy against soft targets over valid pixels (spec 1.5, 1.7)."""

from __future__ import annotations

import torch
from torch import Tensor

WEIGHT_RANGE = (0.5, 5.0)


def class_weights(shares: Tensor, power: float) -> Tensor:
    """weight_k = share_k^-power, clipped to [0.5, 5]; power 0 weighs all classes alike. [K] -> [K]."""
    if power == 0:
        return torch.ones_like(shares)
    return shares.clamp_min(1e-8).pow(-power).clamp(*WEIGHT_RANGE)


def soft_cross_entropy(logits: Tensor, targets: Tensor, valid: Tensor, weights: Tensor) -> Tensor:
    """- sum_k w_k t_k log p_k over valid pixels, divided by sum_k w_k t_k there. A scalar, in float32.

    Args:
        logits, targets: [N, K, H, W]; targets sum to 1 over K on valid pixels.
        valid: [N, H, W], 1 where the target counts.
        weights: [K].
    """
    weighted = targets * weights[:, None, None] * valid[:, None]
    total = (weighted * logits.float().log_softmax(1)).sum()
    return -total / weighted.sum().clamp_min(1e-8)


def class_shares(probabilities: Tensor, valid: Tensor) -> Tensor:
    """Share of each class over the valid pixels. [N, K, H, W], [N, H, W] -> [K]."""
    total = (probabilities * valid[:, None]).sum(dim=(0, 2, 3))
    return total / valid.sum().clamp_min(1.0)


def winner(maps: Tensor) -> Tensor:
    """[N, K, H, W] -> the largest channel, [N, H, W]; over channels that lie side by side, which is quicker."""
    return maps.permute(0, 2, 3, 1).contiguous().argmax(-1)
