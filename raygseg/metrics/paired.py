"""Several segmenters on the same pictures: figures over draws, and whether two of them differ.

Counts are [N, D, K, K]: picture, draw (a segmenter trained on other labels or with another seed), truth,
prediction. A figure is computed for each draw from its one confusion matrix, then averaged over draws;
intervals resample the pictures, the same ones for every draw and segmenter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raygseg.labels import LabelSpace
from raygseg.metrics.bootstrap import bootstrap_intervals
from raygseg.metrics.confusion import class_iou, overlap_scores

Counts = NDArray[np.int64]
Ends = tuple[float, float]
DECIDING = "miou_foreground"


@dataclass(frozen=True)
class OverDraws:
    """One segmenter's figures on one set.

    Attributes:
        figures: see `metrics.confusion.overlap_scores`; means over draws.
        ends: 95 % intervals of the same; empty without resamples.
        draws: each draw's own foreground mIoU.
        iou: by class, mean over the draws in which the class is present; NaN where it never is.
        never_predicted: classes of the truth that no draw predicts.
    """

    figures: dict[str, float]
    ends: dict[str, Ends]
    draws: list[float]
    iou: dict[str, float]
    never_predicted: list[str]


def over_draws(counts: Counts, labels: LabelSpace, resamples: int, seed: int) -> OverDraws:
    """Figures of one segmenter from its counts [N, D, K, K]."""
    total = counts.sum(0)
    by_draw = overlap_scores(total, labels)
    ends = bootstrap_intervals(
        counts, lambda drawn: {n: v.mean(-1) for n, v in overlap_scores(drawn, labels).items()}, resamples, seed
    )
    with np.errstate(invalid="ignore"):
        present = ~np.isnan(class_iou(total))
        iou = np.nansum(class_iou(total), 0) / np.where(present.any(0), present.sum(0), np.nan)
    unseen = (total.sum((0, 2)) > 0) & (total.sum((0, 1)) == 0)
    return OverDraws(
        figures={name: float(values.mean()) for name, values in by_draw.items()},
        ends={name: (float(interval.low), float(interval.high)) for name, interval in ends.items()},
        draws=[float(value) for value in by_draw[DECIDING]],
        iou=dict(zip(labels.names, iou.tolist(), strict=True)),
        never_predicted=[name for name, gone in zip(labels.names, unseen.tolist(), strict=True) if gone],
    )


def difference(first: Counts, second: Counts, labels: LabelSpace, resamples: int, seed: int) -> tuple[float, Ends]:
    """First minus second in foreground mIoU, and its 95 % interval over the pictures they share."""

    def gap(both: NDArray[np.float64]) -> NDArray[np.float64]:
        scores = overlap_scores(both, labels)[DECIDING].mean(-1)
        return np.asarray(scores[..., 0] - scores[..., 1])

    both = np.stack([first, second], axis=1)
    ends = bootstrap_intervals(both, lambda drawn: {"gap": gap(drawn)}, resamples, seed)
    interval = ends.get("gap")
    found = float(gap(both.sum(0, dtype=np.float64)))
    return found, (float(interval.low), float(interval.high)) if interval is not None else (found, found)
