"""Losses of the label discriminator as plain functions (spec B5, B11-3, B11-7)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from raygseg.methods.semanticgan.label_discriminator import Judgement, scores

EPSILON = 1e-8


def hinge_discriminator_loss(fake: Sequence[Judgement], real: Sequence[Judgement]) -> Tensor:
    """[mean relu(1 - D(real)) + mean relu(1 + D(fake))] / 2 over patches, averaged over scales."""
    terms = [(F.relu(1 - r.logits).mean() + F.relu(1 + f.logits).mean()) / 2 for f, r in zip(fake, real, strict=True)]
    return torch.stack(terms).mean()


def hinge_generator_loss(fake: Sequence[Judgement]) -> Tensor:
    """-mean D(fake) over patches, averaged over scales."""
    return -torch.stack([judgement.logits.mean() for judgement in fake]).mean()


def paired_feature_loss(fake: Sequence[Judgement], real: Sequence[Judgement]) -> Tensor:
    """Mean absolute difference of each map of one pair and another, summed over layers, averaged over scales.

    As released, although the pairs have nothing to do with one another.
    """
    return _summed(fake, real, lambda f, r: (f - r.detach()).abs().mean())


def statistics_feature_loss(fake: Sequence[Judgement], real: Sequence[Judgement]) -> Tensor:
    """As `paired_feature_loss`, of each channel's mean and standard deviation over batch and pixels."""

    def difference(f: Tensor, r: Tensor) -> Tensor:
        return (_moments(f) - _moments(r.detach())).abs().mean()

    return _summed(fake, real, difference)


def _moments(maps: Tensor) -> Tensor:
    """[2, C]: mean and standard deviation of maps [N, C, H, W]."""
    variance, mean = torch.var_mean(maps, dim=(0, 2, 3), correction=0)
    return torch.stack([mean, (variance + EPSILON).sqrt()])


def _summed(
    fake: Sequence[Judgement], real: Sequence[Judgement], difference: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    terms = [
        difference(f, r)
        for ours, theirs in zip(fake, real, strict=True)
        for f, r in zip(ours.features, theirs.features, strict=True)
    ]
    return torch.stack(terms).sum() / len(fake)


def pair_scores(judgements: Sequence[Judgement], batch_mean: bool) -> Tensor:
    """What R1 differentiates the sum of: each pair's own score [N], or, as released, the batch's mean [1].

    The second makes the squared gradient 1 / N^2 of the first (spec B11-3).
    """
    own = scores(judgements)
    return own.mean(dim=0, keepdim=True) if batch_mean else own
