"""What is known of a shard without opening it, in a form that adds up over shards."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa


class ScoreHistogram:
    """Counts of float32 scores in bins of equal relative width (below 0.8 %), mergeable for any range.

    A bin is the upper 16 bits of the score's bit pattern, made monotonic: all floats that agree in
    sign, exponent and the first 7 bits of the mantissa.
    """

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self.counts: dict[int, int] = dict(counts or {})

    @classmethod
    def of(cls, scores: NDArray[np.float32]) -> ScoreHistogram:
        bits = np.ascontiguousarray(scores + np.float32(0.0), dtype=np.float32).view(np.uint32)
        ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
        bins, counts = np.unique(ordered >> 16, return_counts=True)
        return cls({int(b): int(c) for b, c in zip(bins, counts, strict=True)})

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def add(self, other: ScoreHistogram) -> None:
        for key, count in other.counts.items():
            self.counts[key] = self.counts.get(key, 0) + count

    def quantile(self, fraction: float) -> float:
        """The largest score of the bin in which that share of the rows is reached."""
        wanted, seen = fraction * self.total, 0
        for key in sorted(self.counts):
            seen += self.counts[key]
            if seen >= wanted - 1e-9:
                return self._upper(key)
        return math.inf

    def cut(self, fraction: float) -> float:
        """The threshold t with rows of score <= t kept and at most `fraction` of the rows left out."""
        left, allowed = 0, fraction * self.total + 1e-9
        for key in sorted(self.counts, reverse=True):
            left += self.counts[key]
            if left > allowed:
                return self._upper(key)
        return -math.inf

    @staticmethod
    def _upper(key: int) -> float:
        """The largest float of the bin."""
        ordered = np.uint32((key << 16) | 0xFFFF)
        bits = ordered & np.uint32(0x7FFFFFFF) if ordered >> 31 else ~ordered
        return float(np.array([bits], dtype=np.uint32).view(np.float32)[0])


@dataclass(frozen=True)
class ShardStats:
    """One shard, or many merged.

    Attributes:
        first_row, rows: which rows of the set (first_row is of no meaning after a merge).
        class_pixels: pixels of each class in the masks.
        score_bins: `ScoreHistogram.counts`; JSON keys are text.
        score_sum, score_min, score_max: of the scores.
        bytes: size of the Parquet file.
        seconds: sampling, encoding and writing.
        sha256: of the Parquet file; empty after a merge.
        host: the machine that wrote it.
    """

    first_row: int
    rows: int
    class_pixels: tuple[int, ...]
    score_bins: Mapping[str, int]
    score_sum: float
    score_min: float
    score_max: float
    bytes: int
    seconds: float
    sha256: str = ""
    host: str = ""
    finished: float = field(default_factory=time.time)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"mean_score": self.score_sum / max(self.rows, 1), "score_quantiles": self.quantiles()}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> ShardStats:
        """Read what `to_dict` wrote. Raises KeyError or TypeError where it is something else."""
        names = cls.__dataclass_fields__
        values = {name: raw[name] for name in names}
        values["class_pixels"] = tuple(int(n) for n in values["class_pixels"])
        return cls(**values)

    @property
    def histogram(self) -> ScoreHistogram:
        return ScoreHistogram({int(k): int(v) for k, v in self.score_bins.items()})

    def quantiles(self) -> dict[str, float]:
        """Scores at 5, 25, 50, 75 and 95 % of the rows."""
        histogram = self.histogram
        return {str(q): histogram.quantile(q / 100) for q in (5, 25, 50, 75, 95)} if self.rows else {}


def shard_stats(
    table: pa.Table, content: bytes, first_row: int, num_classes: int, seconds: float, host: str
) -> ShardStats:
    """Statistics of a shard's table and of the Parquet bytes it became."""
    scores = table.column("score").to_numpy().astype(np.float32)
    pixels = np.zeros(256, dtype=np.int64)
    for cell in table.column("top2_classes").to_pylist():
        both = np.frombuffer(cell, dtype=np.uint8)
        pixels += np.bincount(both[: both.size // 2], minlength=256)
    bins = ScoreHistogram.of(scores).counts
    return ShardStats(
        first_row=first_row,
        rows=table.num_rows,
        class_pixels=tuple(int(n) for n in pixels[:num_classes]),
        score_bins={str(k): v for k, v in bins.items()},
        score_sum=float(scores.astype(np.float64).sum()),
        score_min=float(scores.min()) if len(scores) else math.inf,
        score_max=float(scores.max()) if len(scores) else -math.inf,
        bytes=len(content),
        seconds=seconds,
        sha256=hashlib.sha256(content).hexdigest(),
        host=host,
    )


def empty_stats(num_classes: int) -> ShardStats:
    return ShardStats(0, 0, (0,) * num_classes, {}, 0.0, math.inf, -math.inf, 0, 0.0, finished=0.0)


def merge_stats(parts: Iterable[ShardStats], start: ShardStats) -> ShardStats:
    """The statistics of all rows of `start` and `parts` together."""
    histogram = start.histogram
    pixels = np.asarray(start.class_pixels, dtype=np.int64)
    total = start
    for part in parts:
        histogram.add(part.histogram)
        pixels = pixels + np.asarray(part.class_pixels, dtype=np.int64)
        total = replace(
            total,
            rows=total.rows + part.rows,
            score_sum=total.score_sum + part.score_sum,
            score_min=min(total.score_min, part.score_min),
            score_max=max(total.score_max, part.score_max),
            bytes=total.bytes + part.bytes,
            seconds=total.seconds + part.seconds,
            finished=max(total.finished, part.finished),
        )
    bins = {str(k): v for k, v in histogram.counts.items()}
    return replace(total, class_pixels=tuple(int(n) for n in pixels), score_bins=bins, sha256="", host="")
