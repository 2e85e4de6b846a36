"""Figures over draws are those of each draw's own matrix; the gap's interval is that of paired pictures."""

from __future__ import annotations

import math

import numpy as np
import pytest

from raygseg.labels import LabelSpace
from raygseg.metrics.confusion import overlap_scores
from raygseg.metrics.paired import difference, over_draws
from raygseg.seeding import numpy_rng

LABELS = LabelSpace(("background", "wheel", "door", "roof"))


def counts(pictures: int, draws: int, right: float, purpose: str = "counts") -> np.ndarray:
    """Random confusion counts in which `roof` never occurs; `right` of the pixels lie on the diagonal."""
    rng = numpy_rng(0, purpose)
    found = np.zeros((pictures, draws, 4, 4), np.int64)
    for i, d in np.ndindex(pictures, draws):
        truth = rng.integers(0, 3, 400)
        guess = np.where(rng.random(400) < right, truth, rng.integers(0, 3, 400))
        np.add.at(found[i, d], (truth, guess), 1)
    return found


def test_figures_are_means_of_the_draws() -> None:
    found = counts(6, 3, 0.7)
    result = over_draws(found, LABELS, 0, 0)
    each = [float(overlap_scores(found[:, d].sum(0), LABELS)["miou_foreground"]) for d in range(3)]
    assert result.draws == pytest.approx(each)
    assert result.figures["miou_foreground"] == pytest.approx(np.mean(each))
    assert math.isnan(result.iou["roof"]) and not math.isnan(result.iou["door"])
    assert result.ends == {} and result.never_predicted == []


def test_a_class_that_no_draw_predicts_is_named() -> None:
    found = counts(4, 2, 0.7)
    found[..., 2] = 0
    found[:, :, 2, 0] += 50
    assert over_draws(found, LABELS, 0, 0).never_predicted == ["door"]


def test_a_clear_gap_excludes_zero_and_none_is_none() -> None:
    good, bad = counts(12, 2, 0.9, "good"), counts(12, 2, 0.5, "bad")
    gap, (low, high) = difference(bad, good, LABELS, 300, 0)
    assert low < gap < high < 0
    assert gap == pytest.approx(
        over_draws(bad, LABELS, 0, 0).figures["miou_foreground"]
        - over_draws(good, LABELS, 0, 0).figures["miou_foreground"]
    )
    assert difference(good, good, LABELS, 50, 0) == (0.0, (0.0, 0.0))
