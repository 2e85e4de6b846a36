"""How much an ensemble disagrees: the Jensen-Shannon score (spec 3.1)."""

from __future__ import annotations

from torch import Tensor

TOP_SHARE = 0.1


def entropy(probabilities: Tensor, dim: int) -> Tensor:
    """-sum p log p over `dim`, in nats; 0 log 0 = 0."""
    return -(probabilities * probabilities.clamp_min(1e-12).log()).sum(dim)


def jensen_shannon(members: Tensor) -> Tensor:
    """JS = H(mean_m p_m) - mean_m H(p_m). [N, M, K, H, W] -> [N, H, W], from 0 (all agree) to log M.

    Rounding can take equal members a hair below zero; the score is clamped there.
    """
    disagreement = entropy(members.mean(1), dim=1) - entropy(members, dim=2).mean(1)
    return disagreement.clamp_min(0.0)


def image_score(js: Tensor) -> Tensor:
    """Mean over the most uncertain tenth of the pixels (at least one). [N, H, W] -> [N]."""
    flat = js.flatten(1)
    count = max(1, round(TOP_SHARE * flat.shape[1]))
    return flat.topk(count, dim=1).values.mean(1)
