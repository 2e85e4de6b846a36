"""The two losses of PANet: the query by the support's prototypes, the support by the query's (spec 1.4, 1.5)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from raygseg.nn.masked_prototypes import cosine_scores, enlarge_scores, hard_masks, pooled_by

VOID = 255


def segmentation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over the pixels that are not void, a mean within each episode, then over episodes.

    [B, Q, 1 + W, H, W], [B, Q, H, W] -> scalar. The number of episodes in a call therefore changes nothing.
    """
    return pixel_means(logits, labels).mean()


def alignment_loss(
    query_features: Tensor,
    scores: Tensor,
    support_features: Tensor,
    fore: Tensor,
    back: Tensor,
    scale: float,
    align_corners: bool = False,
) -> Tensor:
    """PAR: the support segmented by prototypes of the query's own prediction (spec 1.5).

    The prediction is a hard mask and passes no gradient; the features under it do. A way that is
    predicted nowhere adds 0.

    Args:
        query_features: [B, Q, C, h, w].
        scores: [B, Q, 1 + W, h, w] before enlargement.
        support_features: [B, W, K, C, h, w].
        fore, back: [B, W, K, H, W].
        scale: of the cosine.

    Returns:
        Scalar: the sum over ways and shots of binary cross-entropies / (W K), a mean over episodes.
    """
    ways, shots = support_features.shape[1:3]
    masks = hard_masks(scores)
    found = masks.sum(dim=(1, 3, 4))[:, 1:] > 0  # [B, W]
    own = pooled_by(query_features, masks)  # [B, 1 + W, C]
    pairs = torch.stack([own[:, :1].expand(-1, ways, -1), own[:, 1:]], dim=2)  # [B, W, 2, C]
    binary = cosine_scores(support_features.flatten(0, 1), pairs.flatten(0, 1), scale)  # [B W, K, 2, h, w]
    logits = enlarge_scores(binary, (fore.shape[-2], fore.shape[-1]), align_corners)
    means = pixel_means(logits.flatten(0, 1)[:, None], support_targets(fore, back).flatten(0, 2)[:, None])
    each = means.unflatten(0, (-1, ways, shots))
    return torch.where(found[..., None], each, 0.0).sum(dim=(1, 2)).mean() / (ways * shots)


def support_targets(fore: Tensor, back: Tensor) -> Tensor:
    """[...] masks -> 1 on the foreground, 0 on the background (which wins where both are set), else void."""
    target = torch.full(fore.shape, VOID, dtype=torch.int64, device=fore.device)
    return target.masked_fill(fore > 0, 1).masked_fill(back > 0, 0)


def pixel_means(logits: Tensor, labels: Tensor) -> Tensor:
    """[B, Q, P, H, W], [B, Q, H, W] -> [B]: mean cross-entropy over what is not void; 0 where all is."""
    target = labels.long()
    losses = F.cross_entropy(logits.flatten(0, 1), target.flatten(0, 1), ignore_index=VOID, reduction="none")
    count = (target != VOID).sum(dim=(1, 2, 3))
    total: Tensor = losses.unflatten(0, labels.shape[:2]).sum(dim=(1, 2, 3))
    return total / count.clamp_min(1)
