"""Pictures and label maps by position, decoded on demand or once; what was skipped is on record.

A set stands on `Rows`: something with names that gives picture i and label map i. Bad rows are found
in one pre-flight pass that decodes everything in threads, counted by reason, listed and left out;
what that pass decoded stays in one uint8 array when it fits in CACHE_LIMIT bytes.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from raygseg.data.picture_files import ClassMap, Picture
from raygseg.errors import DataError
from raygseg.labels import LabelSpace

CACHE_LIMIT = 1 << 30  # bytes of decoded pictures (and label maps) that a set may keep
Progress = Callable[[int, int], None]  # (done, of how many)


class Rows(Protocol):
    """Where the pictures of a set come from. Reading may be called from several threads."""

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def checked(self) -> bool:
        """True where every row is good by construction."""
        ...

    def picture(self, row: int, resolution: int | None) -> Picture: ...

    def labelled(self, row: int, resolution: int | None) -> tuple[Picture, ClassMap]: ...

    def identity(self, rows: Sequence[int]) -> Mapping[str, Any]:
        """Cheap JSON facts that decide the content of these rows: names and sizes, not pixels."""
        ...


@runtime_checkable
class Blocked(Protocol):
    """Rows that are read in blocks."""

    @property
    def encoded_bytes(self) -> int:
        """Of all rows, as stored."""
        ...

    def blocks(self) -> list[NDArray[np.int64]]:
        """Rows by block."""
        ...

    def prefetch(self, blocks: Sequence[int]) -> None:
        """Begin to read blocks."""
        ...


class BadFile(tuple[str, str]):
    """(name, reason)."""

    __slots__ = ()

    def __new__(cls, name: str, reason: str) -> BadFile:
        return super().__new__(cls, (name, reason))

    @property
    def kind(self) -> str:
        """The reason without its particulars, for counting."""
        return self[1].partition(":")[0]


@dataclass(frozen=True)
class ScanReport:
    """What the pre-flight pass found: `total` rows, `bad` ones by (name, reason)."""

    total: int
    bad: tuple[BadFile, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """How many bad rows by kind of reason."""
        return dict(Counter(b.kind for b in self.bad))

    def write_csv(self, path: str | Path) -> None:
        """One line a bad file: name, reason."""
        with open(path, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("name", "reason"))
            writer.writerows(self.bad)

    def __str__(self) -> str:
        parts = ", ".join(f"{count} {kind}" for kind, count in sorted(self.counts.items()))
        return f"{self.total - len(self.bad)} of {self.total} usable" + (f" (skipped: {parts})" if parts else "")


def usable_threads() -> int:
    """As many as this process has processors, at most 8."""
    return max(1, min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))


class _Set:
    """Rows in a fixed order, of which some are kept."""

    def __init__(self, rows: Rows, kept: Sequence[int], resolution: int | None, report: ScanReport) -> None:
        self._rows, self._kept = rows, np.asarray(kept, dtype=np.int64)
        self.resolution, self.report = resolution, report

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def names(self) -> list[str]:
        """File or row names in the order of `read`."""
        return [self._rows.names[i] for i in self._kept]

    def _identity(self) -> dict[str, Any]:
        rows = self._rows.identity([int(i) for i in self._kept])
        return {"rows": rows, "resolution": self.resolution, "set": type(self).__name__}


class PictureSet(_Set):
    """Unlabelled pictures, all squashed to one square.

    `set.read(i)` is uint8 [R, R, 3]; `set.report` says what was skipped.
    """

    resolution: int

    def __init__(
        self, rows: Rows, kept: Sequence[int], resolution: int, report: ScanReport, cache_limit: int = CACHE_LIMIT
    ) -> None:
        super().__init__(rows, kept, resolution, report)
        self._cache = _Cache((resolution, resolution, 3), len(rows.names), cache_limit)
        self._block_numbers: list[int] = []

    @property
    def nbytes(self) -> int:
        """Size of the whole set decoded."""
        return len(self) * self.resolution * self.resolution * 3

    def read(self, index: int) -> Picture:
        """uint8 [R, R, 3] RGB, the caller's own."""
        row = int(self._kept[index])
        kept = self._cache.get(row)
        if kept is not None:
            return kept
        picture = self._rows.picture(row, self.resolution)
        self._cache.put(row, picture)
        return picture

    def blocks(self, least_bytes: int) -> tuple[list[NDArray[np.int64]], int]:
        """Positions that are read together, and their mean size in bytes, where the encoded set is larger than that.

        No blocks where pictures are read one by one or the set is smaller.
        """
        rows = self._rows
        if not isinstance(rows, Blocked) or rows.encoded_bytes <= least_bytes:
            return [], 0
        position = np.full(len(rows.names), -1, dtype=np.int64)
        position[self._kept] = np.arange(len(self._kept))
        found = [(number, position[block]) for number, block in enumerate(rows.blocks())]
        self._block_numbers = [number for number, block in found if (block >= 0).any()]
        return [block[block >= 0] for _, block in found if (block >= 0).any()], rows.encoded_bytes // len(found)

    def prefetch(self, blocks: Sequence[int]) -> None:
        """Begin to read some of `blocks`."""
        if isinstance(self._rows, Blocked):
            self._rows.prefetch([self._block_numbers[block] for block in blocks])

    def original(self, index: int) -> Picture:
        """uint8 [H, W, 3] RGB at its own size."""
        return self._rows.picture(int(self._kept[index]), None)

    def as_array(self, limit: int = 4 * CACHE_LIMIT) -> NDArray[np.uint8]:
        """uint8 [N, R, R, 3]. Raises DataError above `limit` bytes: read one by one then."""
        if self.nbytes > limit:
            raise DataError(
                f"{len(self)} pictures at {self.resolution} px take {self.nbytes:,} bytes, more than {limit:,}",
                "read them one by one, or lower the resolution or the limit of pictures",
            )
        array = np.empty((len(self), self.resolution, self.resolution, 3), dtype=np.uint8)
        with ThreadPoolExecutor(usable_threads()) as pool:
            for index, picture in enumerate(pool.map(self.read, range(len(self)))):
                array[index] = picture
        return array

    def subset(self, indices: Sequence[int]) -> PictureSet:
        """The pictures at these positions, in this order."""
        return self.checked(self._kept[list(indices)].tolist(), self.report)

    def checked(self, kept: Sequence[int], report: ScanReport) -> PictureSet:
        """The same rows less those that `scan` refused; what it decoded is shared."""
        chosen = PictureSet(self._rows, kept, self.resolution, report, 0)
        chosen._cache = self._cache
        return chosen


class LabelledSet(_Set):
    """Pictures with their label maps; squashed to one square, or at their own sizes (`resolution=None`).

    `set.read(i)` is (uint8 [H, W, 3], uint8 [H, W]); `set.labels` names the classes.
    """

    def __init__(
        self,
        rows: Rows,
        kept: Sequence[int],
        resolution: int | None,
        report: ScanReport,
        labels: LabelSpace,
        cache_limit: int = CACHE_LIMIT,
    ) -> None:
        super().__init__(rows, kept, resolution, report)
        self.labels = labels
        side = resolution or 0
        # One array holds picture and label map as four channels.
        self._cache = _Cache((side, side, 4), len(rows.names), cache_limit if side else 0)

    def read(self, index: int) -> tuple[Picture, ClassMap]:
        """The picture uint8 [H, W, 3] and its label map uint8 [H, W]."""
        row = int(self._kept[index])
        kept = self._cache.get(row)
        if kept is not None:
            return np.ascontiguousarray(kept[..., :3]), np.ascontiguousarray(kept[..., 3])
        picture, class_map = self._rows.labelled(row, self.resolution)
        self._cache.put(row, np.concatenate([picture, class_map[..., None]], axis=-1) if self._cache.open else None)
        return picture, class_map

    def __iter__(self) -> Iterator[tuple[Picture, ClassMap]]:
        return (self.read(i) for i in range(len(self)))

    def subset(self, indices: Sequence[int]) -> LabelledSet:
        """The pictures at these positions, in this order."""
        return self.checked(self._kept[list(indices)].tolist(), self.report)

    def checked(self, kept: Sequence[int], report: ScanReport) -> LabelledSet:
        """The same rows less those that `scan` refused; what it decoded is shared."""
        chosen = LabelledSet(self._rows, kept, self.resolution, report, self.labels, 0)
        chosen._cache = self._cache
        return chosen


class _Cache:
    """One array over all rows, filled as rows are read; closed where it would exceed the limit.

    Two threads may fill the same row with the same pixels; `filled` is set after the pixels.
    """

    def __init__(self, shape: tuple[int, ...], rows: int, limit: int) -> None:
        size = rows * int(np.prod(shape))
        self.open = 0 < size <= limit
        self._array = np.empty((rows, *shape) if self.open else (0,), dtype=np.uint8)
        self._filled = np.zeros(rows if self.open else 0, dtype=bool)

    def get(self, row: int) -> NDArray[np.uint8] | None:
        if not self.open or not self._filled[row]:
            return None
        return np.array(self._array[row])

    def put(self, row: int, value: NDArray[np.uint8] | None) -> None:
        if self.open and value is not None:
            self._array[row] = value
            self._filled[row] = True


def scan(
    read: Callable[[int], object],
    names: Sequence[str],
    where: str,
    max_bad_fraction: float,
    progress: Progress | None = None,
) -> tuple[list[int], ScanReport]:
    """Read every row once in threads; the good rows and the report.

    Raises:
        DataError: more than `max_bad_fraction` of the rows are bad, or all are; names the first three.
    """

    def attempt(row: int) -> str:
        try:
            read(row)
        except DataError as error:
            return error.message
        return ""

    bad: dict[int, BadFile] = {}
    with ThreadPoolExecutor(usable_threads()) as pool:
        for row, reason in enumerate(pool.map(attempt, range(len(names)))):
            if reason:
                bad[row] = BadFile(names[row], reason)
            if progress is not None:
                progress(row + 1, len(names))
    report = ScanReport(len(names), tuple(bad.values()))
    if len(bad) > max_bad_fraction * len(names) or len(bad) == len(names):
        first = "; ".join(f"{name}: {reason}" for name, reason in report.bad[:3])
        raise DataError(
            f"{where}: {len(bad)} of {len(names)} files cannot be used ({report.counts}), e.g. {first}",
            f"mend or remove them, or raise max_bad_fraction (now {max_bad_fraction:g})",
        )
    return [row for row in range(len(names)) if row not in bad], report


def data_fingerprint(data: PictureSet | LabelledSet) -> str:
    """A cheap 16-digit hash of what the set holds: names, sizes, resolution, classes; not where it lies."""
    identity = data._identity()
    if isinstance(data, LabelledSet):
        identity["labels"] = data.labels.to_dict()
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
