"""Hinge, feature matching and R1 of pairs against numbers by hand (spec B5, C4-5)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from raygseg.methods.semanticgan.label_discriminator import Judgement, LabelDiscriminator
from raygseg.methods.semanticgan.losses import (
    hinge_discriminator_loss,
    hinge_generator_loss,
    pair_scores,
    paired_feature_loss,
    statistics_feature_loss,
)
from raygseg.methods.stylegan2.losses import r1_penalty


def judged(*scales: tuple[list[float], list[float]]) -> list[Judgement]:
    """(logits of one picture's two patches, a one-channel map of two pixels) a scale."""
    return [Judgement(torch.tensor(a).reshape(1, 1, 1, 2), [torch.tensor(b).reshape(1, 1, 1, 2)]) for a, b in scales]


def test_hinge() -> None:
    fake, real = (
        judged(([0.5, -3.0], [0, 0]), ([0.0, 0.0], [0, 0])),
        judged(([2.0, 0.5], [0, 0]), ([-1.0, 1.0], [0, 0])),
    )
    first = (0.5 / 2 + 1.5 / 2) / 2  # relu(1 - real): 0, 0.5; relu(1 + fake): 1.5, 0
    second = (2.0 / 2 + 1.0) / 2  # 2, 0; 1, 1
    assert float(hinge_discriminator_loss(fake, real)) == pytest.approx((first + second) / 2)
    assert float(hinge_generator_loss(fake)) == pytest.approx((1.25 + 0.0) / 2)


def test_feature_matching() -> None:
    fake, real = judged(([0, 0], [1.0, 3.0]), ([0, 0], [0.0, 0.0])), judged(([0, 0], [3.0, 1.0]), ([0, 0], [4.0, 4.0]))
    assert float(paired_feature_loss(fake, real)) == pytest.approx((2.0 + 4.0) / 2)
    # Means 2 and 2, deviations 1 and 1; means 0 and 4, deviations about 0.
    assert float(statistics_feature_loss(fake, real)) == pytest.approx((0.0 + 4.0 / 2) / 2, abs=1e-4)


def penalty(net: LabelDiscriminator, pairs: Tensor, batch_mean: bool) -> float:
    pairs = pairs.clone().requires_grad_(True)
    images, maps = pairs.split([3, 2], dim=1)
    return float(r1_penalty(pairs, pair_scores(net(images, maps), batch_mean), 10.0).detach())


def test_r1_of_pairs_is_invariant_to_the_batch_size() -> None:
    torch.manual_seed(0)
    net, pairs = LabelDiscriminator(5, width=4, scales=2), torch.randn(4, 5, 16, 16)
    each = [penalty(net, pairs[i : i + 1], False) for i in range(4)]
    assert penalty(net, pairs, False) == pytest.approx(sum(each) / 4, rel=1e-4)
    repeated = pairs[:1].expand(4, -1, -1, -1)
    assert penalty(net, repeated, False) == pytest.approx(each[0], rel=1e-4)
    # As released it shrinks with the square of the batch: 16 times at 4 (spec B11-3).
    assert penalty(net, repeated, False) / penalty(net, repeated, True) == pytest.approx(16, rel=1e-3)


def test_r1_of_a_linear_score_is_its_squared_norm() -> None:
    torch.manual_seed(0)
    weight, pairs = torch.randn(5, 8, 8), torch.randn(3, 5, 8, 8, requires_grad=True)
    scored = (pairs * weight).sum(dim=(1, 2, 3))
    assert float(r1_penalty(pairs, scored, 10.0).detach()) == pytest.approx(5 * float(weight.square().sum()), rel=1e-5)
