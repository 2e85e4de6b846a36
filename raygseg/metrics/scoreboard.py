"""Every score of a segmenter on a labelled set, gathered picture by picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raygseg.labels import LabelMap, LabelSpace
from raygseg.metrics.bootstrap import Interval, bootstrap_intervals
from raygseg.metrics.boundary import BoundaryAgreement, boundary_scores
from raygseg.metrics.confusion import Confusion, class_dice, class_iou, overlap_scores

Ends = tuple[float, float]
PART_IOU = "iou of each part"


@dataclass(frozen=True)
class PartScore:
    """One class's figures over the whole set; NaN where it is absent or intervals were not asked for.

    Attributes:
        name: of the class.
        iou, iou_low, iou_high: with the ends of its 95 % interval.
        dice, boundary_f: see `metrics.confusion`, `metrics.boundary`.
        truth_share, predicted_share: share of the labelled pixels.
        remark: "absent", "never predicted", "not in the truth" or empty.
    """

    name: str
    iou: float
    iou_low: float
    iou_high: float
    dice: float
    boundary_f: float
    truth_share: float
    predicted_share: float
    remark: str


class Mistake(NamedTuple):
    """Pixels of class `truth` that were called `prediction`, and their share of that class."""

    truth: str
    prediction: str
    pixels: int
    share: float


@dataclass(frozen=True)
class Scores:
    """What `Scoreboard.scores` gives.

    Attributes:
        figures: mIoU with and without background, weighted IoU both ways, Dice, boundary F, accuracy.
        intervals: ends of the 95 % percentile intervals of the same figures.
        parts: one row a class, in class order.
        mistakes: the largest off-diagonal entries of the confusion matrix.
        confusion: [K, K] pixels, rows truth.
    """

    figures: dict[str, float]
    intervals: dict[str, Ends]
    parts: list[PartScore]
    mistakes: list[Mistake]
    confusion: NDArray[np.int64]

    def parts_with(self, remark: str) -> list[str]:
        """Names of the classes so remarked."""
        return [part.name for part in self.parts if part.remark == remark]


class Scoreboard:
    """Adds up confusions and boundary counts, and keeps each picture's for the intervals.

    Memory is 8 K (K + 4) bytes a picture; no pixels are kept.
    """

    def __init__(self, labels: LabelSpace, boundary_tolerance: float) -> None:
        self.labels = labels
        self.confusion = Confusion(labels)
        self.boundary = BoundaryAgreement(labels, boundary_tolerance)
        self._confusions: list[NDArray[np.int64]] = []
        self._boundaries: list[NDArray[np.int64]] = []

    def __len__(self) -> int:
        return len(self._confusions)

    def add(self, truth: LabelMap, prediction: LabelMap) -> float:
        """Count one picture [H, W]; its own foreground mIoU (pixel accuracy where it has no foreground)."""
        counts = self.confusion.update(truth, prediction)
        self._confusions.append(counts)
        self._boundaries.append(self.boundary.update(truth, prediction))
        own = overlap_scores(counts, self.labels)
        score = float(own["miou_foreground"])
        return float(own["pixel_accuracy"]) if math.isnan(score) else score

    def scores(self, resamples: int, seed: int, mistakes: int = 8) -> Scores:
        """All figures; intervals from `resamples` bootstrap resamples of the pictures (0: none)."""
        overlap = bootstrap_intervals(
            self._stacked(self._confusions),
            lambda c: {**overlap_scores(c, self.labels), PART_IOU: class_iou(c)},
            resamples,
            seed,
        )
        edges = bootstrap_intervals(
            self._stacked(self._boundaries), lambda c: boundary_scores(c, self.labels), resamples, seed
        )
        part_ends = overlap.pop(PART_IOU, None)
        intervals = {name: (float(i.low), float(i.high)) for name, i in {**overlap, **edges}.items()}
        return Scores(
            figures={**self.confusion.scores(), **self.boundary.scores()},
            intervals=intervals,
            parts=self._parts(part_ends),
            mistakes=self._mistakes(mistakes),
            confusion=self.confusion.counts,
        )

    def _stacked(self, counts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
        return np.stack(counts) if counts else np.zeros((0, 1, 1), np.int64)

    def _parts(self, ends: Interval | None) -> list[PartScore]:
        k = self.labels.num_classes
        low, high = ends if ends is not None else (np.full(k, np.nan), np.full(k, np.nan))
        counts, total = self.confusion.counts, max(1, int(self.confusion.counts.sum()))
        figures = (class_iou(counts), low, high, class_dice(counts), self.boundary.f)
        table = np.stack([*figures, counts.sum(1) / total, counts.sum(0) / total], axis=1).tolist()
        remarks = dict.fromkeys(self.confusion.absent, "absent")
        remarks |= dict.fromkeys(self.confusion.never_predicted, "never predicted")
        remarks |= dict.fromkeys(self.confusion.not_in_truth, "not in the truth")
        return [
            PartScore(name, iou, start, end, dice, edge, true, predicted, remarks.get(name, ""))
            for name, (iou, start, end, dice, edge, true, predicted) in zip(self.labels.names, table, strict=True)
        ]

    def _mistakes(self, count: int) -> list[Mistake]:
        counts = self.confusion.counts.copy()
        np.fill_diagonal(counts, 0)
        order = np.argsort(-counts, axis=None, kind="stable")[:count]
        names, totals = self.labels.names, self.confusion.pixels
        rows = [divmod(int(i), len(names)) for i in order]
        return [
            Mistake(names[t], names[p], int(counts[t, p]), float(counts[t, p] / totals[t]))
            for t, p in rows
            if counts[t, p]
        ]
