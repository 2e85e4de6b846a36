"""Percentile intervals by resampling pictures (Efron 1979): how far a score would move on other pictures.

A resample draws N pictures with replacement, so its counts are a weighted sum of the per-picture
counts: one matrix product for many resamples. Intervals say nothing about training seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raygseg.seeding import numpy_rng

Statistic = Callable[[NDArray[np.float64]], Mapping[str, NDArray[np.float64]]]
WEIGHTS_AT_ONCE = 1 << 22


class Interval(NamedTuple):
    """Lower and upper end, same shape as the statistic (scalars as 0-d arrays)."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]


def resampled_counts(per_picture: NDArray[Any], resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """[N, ...] per-picture counts to blocks [b, ...] of resampled sums, `resamples` in all.

    Resample i depends on (seed, i) only, whatever the block size; float64 sums are exact up to 2^53 pixels.
    """
    count = per_picture.shape[0]
    flat = per_picture.reshape(count, -1).astype(np.float64)
    block = max(1, WEIGHTS_AT_ONCE // max(1, count))
    for first in range(0, resamples, block):
        weights = np.empty((min(block, resamples - first), count))
        for row in range(weights.shape[0]):
            drawn = numpy_rng(seed, "bootstrap", first + row).integers(0, count, count)
            weights[row] = np.bincount(drawn, minlength=count)
        yield (weights @ flat).reshape(-1, *per_picture.shape[1:])


def bootstrap_intervals(
    per_picture: NDArray[Any], statistic: Statistic, resamples: int, seed: int, confidence: float = 0.95
) -> dict[str, Interval]:
    """Percentile interval of each score that `statistic` gives.

    Args:
        per_picture: [N, ...] counts of each picture (confusions [N, K, K], boundary counts [N, 4, K]).
        statistic: counts [b, ...] to named scores [b] or [b, K].
        resamples: how many; 0 gives no intervals.
        seed: of the whole run.
        confidence: mass between the two ends.

    A class that is absent from a resample (NaN) is left out of that class's percentiles.
    """
    if resamples <= 0 or per_picture.shape[0] == 0:
        return {}
    drawn: dict[str, list[NDArray[np.float64]]] = {}
    for counts in resampled_counts(per_picture, resamples, seed):
        for name, values in statistic(counts).items():
            drawn.setdefault(name, []).append(values)
    ends = (50 * (1 - confidence), 50 * (1 + confidence))
    return {name: Interval(*_percentiles(np.concatenate(values), ends)) for name, values in drawn.items()}


def _percentiles(values: NDArray[np.float64], ends: tuple[float, float]) -> NDArray[np.float64]:
    """[b, ...] to [2, ...], NaN ignored; NaN where every resample is NaN."""
    columns = values.reshape(values.shape[0], -1)
    result = np.full((2, columns.shape[1]), np.nan)
    for i, column in enumerate(columns.T):
        present = column[~np.isnan(column)]
        if present.size:
            result[:, i] = np.percentile(present, ends)
    return result.reshape(2, *values.shape[1:])
