"""One mergeable confusion matrix and every overlap score that follows from it.

Scores are of the data set, not means over pictures: counts are summed first (spec RepurposeGAN 1.9).
The functions take counts of shape [..., K, K] (rows truth, columns prediction), so that one call
scores a single matrix, all pictures, or all bootstrap resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raygseg.errors import DataError
from raygseg.labels import LabelMap, LabelSpace

Counts = NDArray[np.integer[Any]] | NDArray[np.floating[Any]]
Scores = NDArray[np.float64]


def confusion_counts(truth: LabelMap, prediction: LabelMap, labels: LabelSpace) -> NDArray[np.int64]:
    """[K, K] pixel counts of one picture: rows truth, columns prediction, void truth left out.

    Raises DataError when the shapes differ or an index is neither class nor (in the truth) void.
    """
    if truth.shape != prediction.shape:
        raise DataError(
            f"truth is {truth.shape} but the prediction is {prediction.shape}",
            "score a prediction at the size of its label map",
        )
    k = labels.num_classes
    truth, prediction = truth.ravel(), prediction.ravel()
    if labels.void is not None:
        valid = truth != labels.void
        if not valid.all():
            truth, prediction = truth[valid], prediction[valid]
    for name, indices in (("truth", truth), ("prediction", prediction)):
        if indices.size and not (int(indices.min()) >= 0 and int(indices.max()) < k):
            bad = int(indices.max()) if int(indices.max()) >= k else int(indices.min())
            raise DataError(
                f"{name}: class index {bad} is out of range (classes 0-{k - 1})",
                "fix the label map, or set 'void' in labels.json",
            )
    pairs = truth.astype(np.int64) * k + prediction
    return np.bincount(pairs, minlength=k * k).astype(np.int64).reshape(k, k)


def safe_ratio(numerator: NDArray[Any], denominator: NDArray[Any]) -> Scores:
    """numerator / denominator, NaN where the denominator is zero."""
    result = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    np.divide(numerator, denominator, out=result, where=denominator != 0)
    return result


def mean_present(scores: Scores, classes: Sequence[int] | None = None) -> Scores:
    """Mean over the last axis, NaN entries (absent classes) left out; NaN where nothing is present."""
    chosen = scores if classes is None else scores[..., list(classes)]
    present = ~np.isnan(chosen)
    return safe_ratio(np.where(present, chosen, 0.0).sum(-1), present.sum(-1))


def class_iou(counts: Counts) -> Scores:
    """[..., K]: TP / (TP + FP + FN); NaN where a class has neither truth nor prediction pixels."""
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    return safe_ratio(hits, counts.sum(-1) + counts.sum(-2) - hits)


def class_dice(counts: Counts) -> Scores:
    """[..., K]: 2 TP / (2 TP + FP + FN); NaN where absent."""
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    return safe_ratio(2 * hits, counts.sum(-1) + counts.sum(-2))


def weighted_iou(counts: Counts, classes: Sequence[int]) -> Scores:
    """[...]: sum of w_k IoU_k over `classes`, w_k the truth pixels of k among those of `classes`."""
    pixels = counts.sum(-1)[..., list(classes)].astype(np.float64)
    iou = np.nan_to_num(class_iou(counts)[..., list(classes)])
    return safe_ratio((pixels * iou).sum(-1), pixels.sum(-1))


def pixel_accuracy(counts: Counts) -> Scores:
    """[...]: share of labelled pixels that are right."""
    return safe_ratio(np.trace(counts, axis1=-2, axis2=-1), counts.sum((-1, -2)))


def foreground_classes(labels: LabelSpace) -> list[int]:
    """All class indices but the background's (all of them where there is no background)."""
    return [i for i in range(labels.num_classes) if i != labels.background]


def overlap_scores(counts: Counts, labels: LabelSpace) -> dict[str, Scores]:
    """Every figure that `evaluate` reports from counts [..., K, K], each of shape [...]."""
    every, foreground = list(range(labels.num_classes)), foreground_classes(labels)
    iou, dice = class_iou(counts), class_dice(counts)
    return {
        "miou": mean_present(iou),
        "miou_foreground": mean_present(iou, foreground),
        "weighted_iou": weighted_iou(counts, every),
        "weighted_iou_foreground": weighted_iou(counts, foreground),
        "dice": mean_present(dice),
        "dice_foreground": mean_present(dice, foreground),
        "pixel_accuracy": pixel_accuracy(counts),
    }


@dataclass
class Confusion:
    """K x K int64 pixel counts of any number of pictures; two halves of a data set add up with `+`.

    Attributes:
        labels: the classes; void pixels of the truth are never counted.
        counts: [K, K], rows truth, columns prediction.
    """

    labels: LabelSpace
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), np.int64))

    def __post_init__(self) -> None:
        k = self.labels.num_classes
        if self.counts.size == 0:
            self.counts = np.zeros((k, k), np.int64)
        assert self.counts.shape == (k, k), self.counts.shape

    def update(self, truth: LabelMap, prediction: LabelMap) -> NDArray[np.int64]:
        """Add pictures of any equal shape; gives back the counts [K, K] of just these."""
        added = confusion_counts(np.asarray(truth), np.asarray(prediction), self.labels)
        self.counts = self.counts + added
        return added

    def __add__(self, other: Confusion) -> Confusion:
        if other.labels.names != self.labels.names:
            raise DataError(
                f"confusions of different classes: {list(self.labels.names)} and {list(other.labels.names)}",
                "merge counts of the same label space only",
            )
        return Confusion(self.labels, self.counts + other.counts)

    @property
    def iou(self) -> Scores:
        """[K], NaN for absent classes."""
        return class_iou(self.counts)

    @property
    def dice(self) -> Scores:
        """[K], NaN for absent classes."""
        return class_dice(self.counts)

    @property
    def pixels(self) -> NDArray[np.int64]:
        """[K] labelled truth pixels a class."""
        return np.asarray(self.counts.sum(1), dtype=np.int64)

    @property
    def absent(self) -> list[str]:
        """Classes with neither truth nor prediction pixels: no figure includes them."""
        seen = self.counts.sum(0) + self.counts.sum(1)
        return [n for n, count in zip(self.labels.names, seen, strict=True) if count == 0]

    @property
    def never_predicted(self) -> list[str]:
        """Classes of the truth that were not predicted once."""
        return self._names((self.counts.sum(1) > 0) & (self.counts.sum(0) == 0))

    @property
    def not_in_truth(self) -> list[str]:
        """Classes predicted though no truth pixel has them; their IoU is 0 and counts."""
        return self._names((self.counts.sum(1) == 0) & (self.counts.sum(0) > 0))

    def scores(self) -> dict[str, float]:
        """The figures of `overlap_scores` as plain numbers (NaN where nothing is present)."""
        return {name: float(value) for name, value in overlap_scores(self.counts, self.labels).items()}

    def _names(self, chosen: NDArray[np.bool_]) -> list[str]:
        return [self.labels.names[i] for i in np.flatnonzero(chosen)]
