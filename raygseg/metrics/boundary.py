"""Boundary F: how well the outlines of each class agree, within a tolerance.

Csurka et al. (BMVC 2013): precision is the share of predicted boundary pixels that have a true
boundary pixel of the same class within the tolerance, recall the reverse, F their harmonic mean.
The four counts a class are summed over the data set before any division, so parts merge with `+`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raygseg.errors import DataError
from raygseg.labels import LabelMap, LabelSpace
from raygseg.metrics.confusion import foreground_classes, mean_present, safe_ratio

Mask = NDArray[np.bool_]
TRUTH, TRUTH_FOUND, PREDICTED, PREDICTED_RIGHT = range(4)
FAR = 1 << 20


def tolerance_radius(shape: tuple[int, int], tolerance: float) -> int:
    """Pixels: `tolerance` (share of the diagonal) rounded up, as BSDS and DAVIS do; 0 only for 0."""
    return math.ceil(tolerance * math.hypot(*shape) - 1e-9)


def boundary_mask(label_map: LabelMap, void: int | None = None) -> Mask:
    """[H, W]: pixels with a 4-neighbour of another class. Neither the frame nor void makes a boundary."""
    edges = np.zeros(label_map.shape, dtype=bool)
    for axis in (0, 1):
        first = np.take(label_map, range(label_map.shape[axis] - 1), axis)
        second = np.take(label_map, range(1, label_map.shape[axis]), axis)
        differs = first != second
        if void is not None:
            differs &= (first != void) & (second != void)
        view = np.moveaxis(edges, axis, 0)
        view[:-1] |= np.moveaxis(differs, axis, 0)
        view[1:] |= np.moveaxis(differs, axis, 0)
    return edges


def _row_distance(mask: Mask) -> NDArray[np.int64]:
    """[H, W]: columns to the nearest set pixel of the same row; FAR where the row has none."""
    columns = np.arange(mask.shape[1])
    left = np.maximum.accumulate(np.where(mask, columns, -FAR), axis=1)
    right = np.minimum.accumulate(np.where(mask, columns, FAR)[:, ::-1], axis=1)[:, ::-1]
    return np.asarray(np.minimum(np.minimum(columns - left, right - columns), FAR), dtype=np.int64)


def near(points: Mask, targets: Mask, radius: int) -> Mask:
    """[n]: for each set pixel of `points`, in raster order, whether a target lies within `radius`.

    Exact Euclidean distance, looked up at the points only: (2 radius + 1) gathers, no dilation.
    """
    rows, columns = np.nonzero(points)
    found = np.zeros(rows.size, dtype=bool)
    if not rows.size or not targets.any():
        return found
    distance = _row_distance(targets)
    for dy in range(-radius, radius + 1):
        source = rows + dy
        inside = (source >= 0) & (source < targets.shape[0])
        across = distance[np.clip(source, 0, targets.shape[0] - 1), columns]
        found |= inside & (across * across + dy * dy <= radius * radius)
    return found


def boundary_counts(truth: LabelMap, prediction: LabelMap, labels: LabelSpace, tolerance: float) -> NDArray[np.int64]:
    """[4, K] of one picture: true boundary pixels, those found, predicted ones, those right.

    Boundary pixels within the tolerance of void are left out: the true outline there is unknown.
    """
    if truth.shape != prediction.shape or truth.ndim != 2:
        raise DataError(
            f"truth is {truth.shape} but the prediction is {prediction.shape}",
            "score one picture at a time, at the size of its label map",
        )
    height, width = truth.shape
    radius = tolerance_radius((height, width), tolerance)
    counts = np.zeros((4, labels.num_classes), dtype=np.int64)
    judged = np.ones(truth.shape, dtype=bool)
    if labels.void is not None and (unknown := truth == labels.void).any():
        prediction = np.where(unknown, labels.void, prediction)
        judged = ~near(np.ones_like(unknown), unknown, radius).reshape(truth.shape)
    true_edges = boundary_mask(truth, labels.void)
    predicted_edges = boundary_mask(prediction, labels.void)
    present = np.union1d(truth[true_edges], prediction[predicted_edges])
    for k in (int(c) for c in present):
        true, predicted = true_edges & (truth == k), predicted_edges & (prediction == k)
        window = _window(true | predicted)
        true, predicted, judge = true[window], predicted[window], judged[window]
        counts[TRUTH, k] = (true & judge).sum()
        counts[TRUTH_FOUND, k] = near(true & judge, predicted, radius).sum()
        counts[PREDICTED, k] = (predicted & judge).sum()
        counts[PREDICTED_RIGHT, k] = near(predicted & judge, true, radius).sum()
    return counts


def _window(mask: Mask) -> tuple[slice, slice]:
    """Smallest window that holds all set pixels (there is one): distances inside it stay the same."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def class_boundary_f(counts: NDArray[Any]) -> NDArray[np.float64]:
    """[..., 4, K] counts to F [..., K]; NaN where a class has no boundary in truth nor prediction."""
    recall = np.nan_to_num(safe_ratio(counts[..., TRUTH_FOUND, :], counts[..., TRUTH, :]))
    precision = np.nan_to_num(safe_ratio(counts[..., PREDICTED_RIGHT, :], counts[..., PREDICTED, :]))
    score = np.nan_to_num(safe_ratio(2 * precision * recall, precision + recall))
    seen = counts[..., TRUTH, :] + counts[..., PREDICTED, :] > 0
    return np.where(seen, score, np.nan)


def boundary_scores(counts: NDArray[Any], labels: LabelSpace) -> dict[str, NDArray[np.float64]]:
    """Mean boundary F over all classes and over the foreground, from counts [..., 4, K]."""
    score = class_boundary_f(counts)
    return {
        "boundary_f": mean_present(score),
        "boundary_f_foreground": mean_present(score, foreground_classes(labels)),
    }


@dataclass
class BoundaryAgreement:
    """Summed boundary counts of any number of pictures.

    Attributes:
        labels: the classes.
        tolerance: share of each picture's diagonal.
        counts: [4, K] int64: true, found, predicted, right.
    """

    labels: LabelSpace
    tolerance: float = 0.01
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros((4, 0), np.int64))

    def __post_init__(self) -> None:
        if self.counts.size == 0:
            self.counts = np.zeros((4, self.labels.num_classes), np.int64)

    def update(self, truth: LabelMap, prediction: LabelMap) -> NDArray[np.int64]:
        """Add one picture [H, W]; gives back the counts [4, K] of just this one."""
        added = boundary_counts(np.asarray(truth), np.asarray(prediction), self.labels, self.tolerance)
        self.counts = self.counts + added
        return added

    def __add__(self, other: BoundaryAgreement) -> BoundaryAgreement:
        if (other.labels.names, other.tolerance) != (self.labels.names, self.tolerance):
            raise DataError(
                "boundary counts of different classes or tolerances cannot be merged",
                "score all parts with the same labels and tolerance",
            )
        return BoundaryAgreement(self.labels, self.tolerance, self.counts + other.counts)

    @property
    def f(self) -> NDArray[np.float64]:
        """[K], NaN where a class has no boundary at all."""
        return class_boundary_f(self.counts)

    def scores(self) -> dict[str, float]:
        return {name: float(value) for name, value in boundary_scores(self.counts, self.labels).items()}
