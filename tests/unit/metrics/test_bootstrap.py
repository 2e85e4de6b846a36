"""Bootstrap intervals: what they cover, that seeds and blocks decide nothing else."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from raygseg.labels import LabelSpace
from raygseg.metrics import bootstrap
from raygseg.metrics.bootstrap import bootstrap_intervals, resampled_counts
from raygseg.metrics.confusion import class_iou, overlap_scores, pixel_accuracy

LABELS = LabelSpace(("background", "part"))


def pictures(count: int, right: float, seed: int, pixels: int = 50) -> NDArray[np.int64]:
    """[N, 2, 2] counts of pictures whose share of right pixels varies around `right`."""
    rng = np.random.default_rng(seed)
    shares = np.clip(rng.normal(right, 0.1, count), 0, 1)
    hits = rng.binomial(pixels, shares)
    return np.stack([np.array([[pixels, 0], [pixels - h, h]]) for h in hits])


def part_recall(counts: NDArray[np.float64]) -> Mapping[str, NDArray[np.float64]]:
    return {"recall": counts[..., 1, 1] / counts[..., 1, :].sum(-1)}


def test_interval_covers_the_true_value_about_as_often_as_it_says() -> None:
    covered = 0
    for trial in range(120):
        interval = bootstrap_intervals(pictures(40, 0.6, trial), part_recall, 300, seed=trial)["recall"]
        covered += bool(interval.low <= 0.6 <= interval.high)
    assert 102 <= covered <= 120  # 95 % of 120 is 114; 102 is more than four deviations below


def test_interval_narrows_with_more_pictures_as_the_square_root() -> None:
    def width(count: int) -> float:
        interval = bootstrap_intervals(pictures(count, 0.6, 3), part_recall, 1000, seed=1)["recall"]
        return float(interval.high - interval.low)

    assert width(50) / width(800) == pytest.approx(4, rel=0.35)


def test_interval_is_that_of_the_textbook_loop() -> None:
    counts = pictures(30, 0.7, 9)
    drawn = []
    for i in range(200):
        rows = bootstrap.numpy_rng(4, "bootstrap", i).integers(0, 30, 30)
        drawn.append(float(pixel_accuracy(counts[rows].sum(0))))
    interval = bootstrap_intervals(counts, lambda c: overlap_scores(c, LABELS), 200, seed=4)["pixel_accuracy"]
    np.testing.assert_allclose([interval.low, interval.high], np.percentile(drawn, [2.5, 97.5]), rtol=1e-12)


def test_block_size_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = pictures(20, 0.5, 2)
    whole = np.concatenate(list(resampled_counts(counts, 50, seed=7)))
    monkeypatch.setattr(bootstrap, "WEIGHTS_AT_ONCE", 20 * 7)
    blocks = list(resampled_counts(counts, 50, seed=7))
    assert len(blocks) == 8
    np.testing.assert_array_equal(np.concatenate(blocks), whole)
    assert (whole.sum((1, 2)) == counts.sum()).all()
    assert not np.array_equal(whole, np.concatenate(list(resampled_counts(counts, 50, seed=8))))


def test_per_class_intervals_skip_resamples_without_the_class(recwarn: pytest.WarningsRecorder) -> None:
    counts = np.zeros((5, 3, 3), np.int64)
    counts[:, 0, 0] = 10
    counts[0, 1, 1], counts[0, 1, 0] = 3, 1
    interval = bootstrap_intervals(counts, lambda c: {"iou": class_iou(c)}, 200, seed=0)["iou"]
    assert interval.low.shape == (3,)
    assert interval.low[1] == interval.high[1] == pytest.approx(3 / 4)
    assert np.isnan(interval.low[2])
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


def test_no_resamples_no_intervals() -> None:
    assert bootstrap_intervals(pictures(5, 0.5, 0), part_recall, 0, seed=0) == {}
    assert bootstrap_intervals(np.zeros((0, 2, 2)), part_recall, 10, seed=0) == {}
