"""Read a pair set: its manifest, its shards, the quality cut, and the checksum of its content."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from raygseg.data.object_store import read_bytes
from raygseg.data.pairs import COLUMNS, seeds_of, stored_images, top_two
from raygseg.data.picture_files import decode_mask
from raygseg.data.shards import MANIFEST, Manifest, Shard, read_manifest
from raygseg.errors import DataError
from raygseg.labels import LabelSpace

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class PairSet:
    """Pairs that `generate` wrote.

    `shards` are in row order; `read(shard)` gives the rows of one.
    """

    uri: str
    manifest: Manifest

    @classmethod
    def open(cls, uri: str) -> PairSet:
        """Raises DataError where there is no manifest, or generation has not finished."""
        manifest = read_manifest(uri)
        if manifest is None:
            raise DataError(f"{uri}: no pair set ({MANIFEST} is missing)", "give the output of `raygseg generate`")
        if not manifest.complete:
            raise DataError(f"{uri}: generation has not finished", "run the same `raygseg generate` again: it goes on")
        return cls(uri, manifest)

    def __len__(self) -> int:
        return self.manifest.num_pairs

    @property
    def labels(self) -> LabelSpace:
        return self.manifest.labels

    @property
    def resolution(self) -> int:
        return self.manifest.resolution

    @property
    def shards(self) -> list[Shard]:
        return [Shard(first, rows) for first, rows, _, _ in self.manifest.shards]

    @property
    def shard_uris(self) -> list[str]:
        """The Parquet files in row order."""
        return [shard.pairs_uri(self.uri) for shard in self.shards]

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the settings and every shard's checksum."""
        content = json.dumps([dict(self.manifest.settings), self.manifest.shards], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def class_frequencies(self) -> list[float]:
        """Share of each class among all mask pixels; sums to 1."""
        assert self.manifest.stats is not None, "a complete manifest has statistics"
        pixels = np.asarray(self.manifest.stats.class_pixels, dtype=np.float64)
        return [float(f) for f in pixels / max(pixels.sum(), 1.0)]

    def score_cut(self, fraction: float) -> float:
        """Rows with score <= this are kept; at most `fraction` of all rows, the least certain, are left out.

        The threshold lies on a bin edge of the score histogram, so slightly fewer may go; rows of
        equal score stay together.
        """
        assert self.manifest.stats is not None, "a complete manifest has statistics"
        return self.manifest.stats.histogram.cut(fraction)

    def read(self, shard: Shard, columns: Sequence[str] = COLUMNS, uncertainty_cut: float = 0.0) -> pa.Table:
        """Rows of one shard, without those beyond the cut. Raises DataError naming a damaged file."""
        table = read_table(shard.pairs_uri(self.uri), columns)
        return keep_certain(table, self.score_cut(uncertainty_cut)) if uncertainty_cut > 0 else table

    def tables(self, uncertainty_cut: float = 0.0) -> Iterator[pa.Table]:
        """All shards, one at a time."""
        return (self.read(shard, uncertainty_cut=uncertainty_cut) for shard in self.shards)

    def checksum(self, progress: Callable[[int, int], None] | None = None) -> str:
        """Hex digest of the content of all rows: seed, picture and mask pixels, probabilities, score.

        Independent of the order of rows, of how they are spread over shards and of how pixels are
        encoded; a row that is missing, doubled or altered changes it.
        """
        total = 0
        for number, table in enumerate(self.tables(), start=1):
            total += sum(row_digests(table))
            if progress is not None:
                progress(number, len(self.shards))
        return f"{total % (1 << 128):032x}"


def read_table(uri: str, columns: Sequence[str] = COLUMNS) -> pa.Table:
    """A whole Parquet file of pairs. Raises DataError naming the file."""
    import pyarrow as pa
    from pyarrow import parquet

    content = read_bytes(uri)
    try:
        return parquet.ParquetFile(io.BytesIO(content)).read(columns=list(columns))
    except (pa.ArrowException, OSError, KeyError) as error:
        hint = "delete it and its file in stats/, and generate again"
        raise DataError(f"{uri}: cannot be read ({error})", hint) from error


def keep_certain(table: pa.Table, threshold: float) -> pa.Table:
    """The rows with score <= threshold."""
    return table.filter(np.asarray(table.column("score").to_numpy()) <= threshold)


def row_digests(table: pa.Table) -> list[int]:
    """A 128-bit number for the content of each row."""
    images, (classes, levels) = stored_images(table), top_two(table)
    scores = table.column("score").to_numpy().astype("<f4")
    digests = []
    for row, seed in enumerate(seeds_of(table)):
        digest = hashlib.blake2b(int(seed).to_bytes(8, "little", signed=True), digest_size=16)
        mask = decode_mask(table.column("mask")[row].as_py()["bytes"])
        for part in (images[row], mask, classes[row], levels[row], scores[row : row + 1]):
            digest.update(np.ascontiguousarray(part).tobytes())
        digests.append(int.from_bytes(digest.digest(), "little"))
    return digests
