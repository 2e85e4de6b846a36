"""Overlap scores of few-shot episodes (PANet spec 1.10): counts are summed over a run before any ratio.

Counts are [..., 1 + N, 3]: row 0 the background, then N classes; true positives, false positives, false negatives.
They add up, so it does not matter who counted which episodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from raygseg.metrics.bootstrap import Interval, bootstrap_intervals
from raygseg.metrics.confusion import Scores, mean_present, safe_ratio

FalsePositives = Literal["counted", "present"]
FIGURES = ("miou", "binary_iou")


def query_confusion(truth: NDArray[np.uint8], answer: NDArray[np.uint8], ways: int) -> NDArray[np.int64]:
    """[1 + W, 1 + W] pixels of one query, rows truth; truth above `ways` (void) is left out."""
    assert truth.shape == answer.shape, (truth.shape, answer.shape)
    valid = truth <= ways
    pairs = truth[valid].astype(np.int64) * (ways + 1) + answer[valid]
    return np.bincount(pairs, minlength=(ways + 1) ** 2).reshape(ways + 1, ways + 1).astype(np.int64)


def class_counts(
    confusions: NDArray[np.int64], ways: NDArray[np.integer[Any]], classes: int, false_positives: FalsePositives
) -> NDArray[np.int64]:
    """[E, 1 + N, 3] of episodes.

    Args:
        confusions: [E, Q, 1 + W, 1 + W], rows truth.
        ways: [E, W] which of the N classes each way is.
        false_positives: present leaves out those of what the query's truth lacks, as the released code does.
    """
    hits = np.diagonal(confusions, axis1=-2, axis2=-1)
    truth, predicted = confusions.sum(-1), confusions.sum(-2)
    false = predicted - hits
    if false_positives == "present":
        false = np.where(truth > 0, false, 0)
    by_way = np.stack([hits, false, truth - hits], axis=-1).sum(1)  # [E, 1 + W, 3]
    counts = np.zeros((len(confusions), 1 + classes, 3), np.int64)
    counts[:, 0] = by_way[:, 0]
    rows = np.arange(len(confusions))[:, None]
    np.add.at(counts, (rows, 1 + ways.astype(np.int64)), by_way[:, 1:])
    return counts


def iou(counts: NDArray[Any]) -> Scores:
    """TP / (TP + FP + FN) of [..., 3]; NaN where nothing was counted."""
    return safe_ratio(counts[..., 0], counts.sum(-1))


def figures(counts: NDArray[Any]) -> dict[str, Scores]:
    """miou: mean over classes, without background; binary_iou: mean of background and all classes as one."""
    foreground = counts[..., 1:, :].sum(-2)
    return {
        "miou": mean_present(iou(counts[..., 1:, :])),
        "binary_iou": mean_present(np.stack([iou(counts[..., 0, :]), iou(foreground)], axis=-1)),
    }


@dataclass(frozen=True)
class RunScores:
    """Figures of several runs of equally many episodes.

    Attributes:
        mean, std: over runs, by figure; std is 0 for one run.
        by_run: [R] of each figure.
        interval: 95 % bootstrap over episodes, of the mean over runs; empty without resamples.
        class_iou: [N] mean over runs; NaN for classes that no episode shows.
    """

    mean: Mapping[str, float]
    std: Mapping[str, float]
    by_run: Mapping[str, list[float]]
    interval: Mapping[str, tuple[float, float]]
    class_iou: Scores


def run_scores(runs: Sequence[NDArray[np.int64]], resamples: int, seed: int) -> RunScores:
    """Scores of runs [E, 1 + N, 3] each."""
    stacked = np.stack(runs, axis=1)  # [E, R, 1 + N, 3]
    by_run = figures(stacked.sum(0))
    intervals = bootstrap_intervals(stacked, _means, resamples, seed)
    return RunScores(
        {name: float(values.mean()) for name, values in by_run.items()},
        {name: float(values.std(ddof=1)) if len(values) > 1 else 0.0 for name, values in by_run.items()},
        {name: [float(v) for v in values] for name, values in by_run.items()},
        {name: _ends(interval) for name, interval in intervals.items()},
        mean_present(np.moveaxis(iou(stacked.sum(0)[:, 1:]), 0, -1)),
    )


def run_difference(
    runs: Sequence[NDArray[np.int64]], others: Sequence[NDArray[np.int64]], resamples: int, seed: int
) -> dict[str, tuple[float, float, float]]:
    """(difference, low, high) of each figure, `runs` minus `others` on the same episodes, 95 %.

    Both are resampled together, so what is hard about an episode cancels.
    """
    stacked = np.stack([np.stack(runs, axis=1), np.stack(others, axis=1)], axis=1)  # [E, 2, R, 1 + N, 3]

    def difference(counts: NDArray[np.float64]) -> dict[str, Scores]:
        mine, theirs = _means(counts[:, 0]), _means(counts[:, 1])
        return {name: mine[name] - theirs[name] for name in FIGURES}

    found = difference(stacked.sum(0, keepdims=True).astype(np.float64))
    intervals = bootstrap_intervals(stacked, difference, resamples, seed)
    nothing = (float("nan"), float("nan"))
    ends = {name: _ends(intervals[name]) if name in intervals else nothing for name in FIGURES}
    return {name: (float(found[name][0]), *ends[name]) for name in FIGURES}


def _means(counts: NDArray[np.float64]) -> dict[str, Scores]:
    """[b, R, 1 + N, 3] -> means over runs [b]."""
    return {name: values.mean(-1) for name, values in figures(counts).items()}


def _ends(interval: Interval) -> tuple[float, float]:
    return float(interval.low), float(interval.high)
