"""Query self-prototypes (SSP, Fan et al. 2022; PANet spec 2.2): sure cells of the query correct the prototypes.

Training-free here: a second pass at prediction. With several ways the sure foreground is looked for way by way, each
against all the rest.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raygseg.nn.masked_prototypes import cosine_scores, unit

SURE_FORE, SURE_BACK = 0.7, 0.6  # probabilities above which a cell is taken
FEWEST = 12  # where none is sure: the most probable ones
FORE_SUPPORT, BACK_SELF = 0.5, 0.3  # share of the support in the foreground, of the plain mean in the background
ADAPTIVE_SCALE = 2.0


def self_supported_scores(features: Tensor, prototypes: Tensor, scale: float) -> Tensor:
    """Scores of the second pass.

    Args:
        features: query maps [B, Q, C, h, w].
        prototypes: the support's, [B, 1 + W, C], row 0 the background.
        scale: of the cosine.

    Returns:
        [B, Q, 1 + W, h, w].
    """
    first = cosine_scores(features, prototypes, scale).softmax(dim=2)
    flat = features.flatten(3)  # [B, Q, C, n]
    sure = sure_cells(first.flatten(3))  # [B, Q, 1 + W, n]
    own = torch.einsum("bqcn,bqpn->bqpc", flat, sure) / sure.sum(-1, keepdim=True)
    fore = FORE_SUPPORT * prototypes[:, None, 1:] + (1 - FORE_SUPPORT) * own[:, :, 1:]
    adaptive = adaptive_background(flat, sure[:, :, 0])  # [B, Q, C, n]
    back = BACK_SELF * own[:, :, 0, :, None] + (1 - BACK_SELF) * adaptive
    unit_features = unit(flat, 2)
    back_scores = (unit_features * unit(back, 2)).sum(2, keepdim=True)
    fore_scores = torch.einsum("bqcn,bqpc->bqpn", unit_features, unit(fore, 3))
    found: Tensor = (scale * torch.cat([back_scores, fore_scores], dim=2)).unflatten(3, features.shape[-2:])
    return found


def sure_cells(probabilities: Tensor) -> Tensor:
    """[B, Q, 1 + W, n] -> 1 where a cell is sure of its class; the FEWEST most probable cells where none is."""
    bound = torch.full((probabilities.shape[2], 1), SURE_FORE, device=probabilities.device)
    bound[0] = SURE_BACK
    sure = (probabilities > bound).to(probabilities.dtype)
    best = probabilities.topk(min(FEWEST, probabilities.shape[3]), dim=3).indices
    instead = torch.zeros_like(sure).scatter_(3, best, 1.0)
    return torch.where(sure.sum(3, keepdim=True) > 0, sure, instead)


def adaptive_background(features: Tensor, sure: Tensor) -> Tensor:
    """For every cell the mean of the sure background cells, weighted by softmax(2 cos) with it.

    [B, Q, C, n], [B, Q, n] -> [B, Q, C, n].
    """
    near = torch.einsum("bqcn,bqcm->bqnm", unit(features, 2), unit(features, 2)) * ADAPTIVE_SCALE
    near = near.masked_fill(sure[:, :, None] == 0, -torch.inf).softmax(dim=3)
    return torch.einsum("bqnm,bqcm->bqcn", near, features)
