"""How far one set of pictures is from another, told by the features of some network.

Everything starts from `FeatureStatistics`, which any number of workers make of their share and which
add up. Names say whose features they are (FID-VGG16): figures of different networks, picture
sizes or counts do not compare, nor with published ones, which use one particular Inception.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raygseg.errors import DataError
from raygseg.seeding import numpy_rng

Features = NDArray[np.float32]  # [N, D]
BLOCK = 2048  # rows of a distance matrix held at once


@dataclass(frozen=True)
class FeatureStatistics:
    """Moments of all rows, and some rows themselves, for the metrics that need them.

    Attributes:
        count: rows seen.
        total: [D] float64, sum of rows.
        outer: [D, D] float64, sum of outer products.
        kept: [M, D] float32, rows kept.
    """

    count: int
    total: NDArray[np.float64]
    outer: NDArray[np.float64]
    kept: Features

    @classmethod
    def of(cls, features: Features, keep: int | None = None) -> FeatureStatistics:
        """Of [N, D] features; the first `keep` rows are kept (None: all)."""
        exact = features.astype(np.float64)
        return cls(len(features), exact.sum(0), exact.T @ exact, features[:keep].astype(np.float32))

    def __add__(self, other: FeatureStatistics) -> FeatureStatistics:
        kept = np.concatenate([self.kept, other.kept])
        return FeatureStatistics(self.count + other.count, self.total + other.total, self.outer + other.outer, kept)

    @property
    def mean(self) -> NDArray[np.float64]:
        return self.total / self.count

    @property
    def covariance(self) -> NDArray[np.float64]:
        """[D, D], unbiased."""
        mean = self.mean
        return (self.outer - self.count * np.outer(mean, mean)) / max(1, self.count - 1)


def merged(parts: list[FeatureStatistics]) -> FeatureStatistics:
    """Their sum, in the order given. DataError where there are none."""
    if not parts:
        raise DataError("no pictures to compare", "name a source that holds pictures")
    return reduce(lambda a, b: a + b, parts)


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), the FID of the features (spec A14).

    The trace of the root is the sum of the roots of the eigenvalues of S1^(1/2) S2 S1^(1/2), which is
    symmetric: no complex numbers, and no failure where a covariance has not full rank.
    """
    if min(a.count, b.count) < 2:
        raise DataError(f"{min(a.count, b.count)} picture cannot be compared", "give at least two of each side")
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    between = np.linalg.eigvalsh(root @ b.covariance @ root)
    trace = np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.sqrt(np.clip(between, 0, None)).sum()
    return float(np.square(a.mean - b.mean).sum() + trace)


class KernelDistance(NamedTuple):
    """Mean over subsets, and its standard error."""

    value: float
    error: float


def kernel_distance(
    a: Features, b: Features, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> KernelDistance:
    """KID: squared MMD with the kernel (x.y / D + 1)^3, unbiased, over random subsets (spec A14).

    Args:
        a, b: [N, D] and [M, D]. Subsets have at most N and M rows.
    """
    size = min(subset_size, len(a), len(b))
    if size < 2:
        raise DataError(f"{size} picture cannot be compared", "give at least two of each side")
    values = []
    for i in range(subsets):
        rng = numpy_rng(seed, "kid", i)
        x = a[rng.choice(len(a), size, replace=False)].astype(np.float64)
        y = b[rng.choice(len(b), size, replace=False)].astype(np.float64)
        values.append(_unbiased_mmd(x, y))
    return KernelDistance(float(np.mean(values)), float(np.std(values) / np.sqrt(len(values))))


def _unbiased_mmd(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    n, dimensions = int(x.shape[0]), int(x.shape[1])

    def kernel(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray((p @ q.T / dimensions + 1) ** 3)

    within = float(sum(k.sum() - np.trace(k) for k in (kernel(x, x), kernel(y, y))))
    return within / (n * (n - 1)) - 2.0 * float(kernel(x, y).mean())


class PrecisionRecall(NamedTuple):
    """precision: share of the generated that lie among the real; recall: of the real among the generated."""

    precision: float
    recall: float


def precision_recall(real: Features, fake: Features, neighbours: int = 3) -> PrecisionRecall:
    """Kynkaanniemi et al. 2019: a point is covered if it is nearer to some point of the other set than that
    point's k-th neighbour in its own set (k = 3, spec A14)."""
    if min(len(real), len(fake)) <= neighbours:
        raise DataError(f"fewer than {neighbours + 1} pictures on one side", "compare more pictures")
    return PrecisionRecall(_covered(fake, real, neighbours), _covered(real, fake, neighbours))


def _covered(points: Features, others: Features, neighbours: int) -> float:
    radii = np.concatenate(
        [np.partition(_squared(part, others), neighbours, axis=1)[:, neighbours] for part in _blocks(others)]
    )  # the nearest of all is the point itself
    inside = [(_squared(part, others) <= radii[None]).any(axis=1) for part in _blocks(points)]
    return float(np.concatenate(inside).mean())


def _blocks(rows: Features) -> list[Features]:
    return [rows[i : i + BLOCK] for i in range(0, len(rows), BLOCK)]


def _squared(a: Features, b: Features) -> NDArray[np.float64]:
    """[N, M] squared distances."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    squares = np.square(x).sum(1)[:, None] + np.square(y).sum(1)[None]
    return np.asarray(np.maximum(squares - 2 * (x @ y.T), 0.0))
