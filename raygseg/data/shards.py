"""Bookkeeping of a pair set: which shards there should be, which there are, and the manifest.

    OUTPUT/manifest.json                         what was asked for, totals, every shard
    OUTPUT/labels.json                           the label space
    OUTPUT/pairs/pairs-000000000500.parquet      rows 500.. ; named by first row, so any total can grow
    OUTPUT/stats/pairs-000000000500.json         its statistics, written after it: the shard is done

A shard is written whole, once, by "put unless it is there"; the manifest is written when generation
begins (with what was asked for) and again when all shards are done (with the totals).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from raygseg.data.object_store import (
    delete,
    delete_temporaries,
    exists,
    join,
    list_files,
    put_if_absent,
    read_bytes,
    write_bytes,
)
from raygseg.data.shard_stats import ShardStats, empty_stats, merge_stats
from raygseg.errors import DataError, FingerprintError, StorageError
from raygseg.labels import LabelSpace

SCHEMA_VERSION = 1
MANIFEST, LABELS, PAIRS, STATS = "manifest.json", "labels.json", "pairs", "stats"
Mode = Literal["resume", "overwrite", "extend"]


@dataclass(frozen=True)
class Shard:
    """Rows first_row .. first_row + rows - 1 of the set."""

    first_row: int
    rows: int

    @property
    def name(self) -> str:
        return f"pairs-{self.first_row:012d}"

    def pairs_uri(self, output: str) -> str:
        return join(output, PAIRS, f"{self.name}.parquet")

    def stats_uri(self, output: str) -> str:
        return join(output, STATS, f"{self.name}.json")


@dataclass(frozen=True)
class Manifest:
    """What a pair set is.

    Attributes:
        settings: everything that decides its rows (sampler, first seed, batch size, ...), JSON values.
        labels: the label space.
        resolution: of the pictures.
        totals: number of rows after each request, in order: [20000], then [20000, 50000] once extended.
        rows_per_shard: shards end at its multiples and at `totals`.
        complete: whether every shard is there; the following are then filled in.
        stats: of all rows together.
        shards: [first_row, rows, bytes, first 16 digits of sha256] for each.
        pairs_per_second: of the run that completed it (start-up apart).
    """

    settings: Mapping[str, Any]
    labels: LabelSpace
    resolution: int
    totals: tuple[int, ...]
    rows_per_shard: int
    complete: bool = False
    stats: ShardStats | None = None
    shards: tuple[tuple[int, int, int, str], ...] = field(default=(), repr=False)
    pairs_per_second: float = 0.0

    @property
    def num_pairs(self) -> int:
        return self.totals[-1]

    def planned(self) -> list[Shard]:
        """All shards in row order: cut at multiples of rows_per_shard and where a request ended."""
        shards, row = [], 0
        for total in self.totals:
            while row < total:
                end = min(total, (row // self.rows_per_shard + 1) * self.rows_per_shard)
                shards.append(Shard(row, end - row))
                row = end
        return shards

    def to_json(self) -> bytes:
        document = {
            "schema_version": SCHEMA_VERSION,
            "complete": self.complete,
            "num_pairs": self.num_pairs,
            "totals": list(self.totals),
            "rows_per_shard": self.rows_per_shard,
            "resolution": self.resolution,
            "settings": dict(self.settings),
            "labels": self.labels.to_dict(),
            "pairs_per_second": self.pairs_per_second,
            "stats": None if self.stats is None else _finite(self.stats.to_dict()),
        }
        # One line a shard: readable, and 10,000 shards stay below half a megabyte.
        lines = ",\n  ".join(json.dumps(list(s), separators=(",", ":")) for s in self.shards)
        return (json.dumps(document, indent=1)[:-2] + f',\n "shards": [\n  {lines}\n ]\n}}\n').encode()

    @classmethod
    def from_json(cls, content: bytes, where: str) -> Manifest:
        """Raises DataError naming the file."""
        try:
            raw = json.loads(content)
            if raw["schema_version"] != SCHEMA_VERSION:
                raise DataError(
                    f"{where}: schema version {raw['schema_version']}, this raygseg reads {SCHEMA_VERSION}",
                    "generate the pairs again, or use the raygseg that wrote them",
                )
            stats = raw["stats"]
            return cls(
                settings=raw["settings"],
                labels=LabelSpace.from_dict(raw["labels"], where),
                resolution=int(raw["resolution"]),
                totals=tuple(int(n) for n in raw["totals"]),
                rows_per_shard=int(raw["rows_per_shard"]),
                complete=bool(raw["complete"]),
                stats=None if stats is None else ShardStats.from_dict(stats),
                shards=tuple((int(s[0]), int(s[1]), int(s[2]), str(s[3])) for s in raw["shards"]),
                pairs_per_second=float(raw["pairs_per_second"]),
            )
        except (ValueError, KeyError, TypeError, IndexError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{where}: not a manifest of pairs ({error!r})", "generate the pairs again") from error


@dataclass(frozen=True)
class Plan:
    """What is still to do: `pending` shards, in order; `committed` are there with their statistics."""

    manifest: Manifest
    pending: tuple[Shard, ...]
    committed: tuple[Shard, ...]


def read_manifest(output: str) -> Manifest | None:
    """The manifest at the place, or None."""
    where = join(output, MANIFEST)
    return Manifest.from_json(read_bytes(where), where) if exists(where) else None


def plan(output: str, wanted: Manifest, mode: Mode) -> Plan:
    """Compare what is there with what is wanted and write the manifest that says so.

    One listing of the place, whatever is done already. `resume` goes on with the same request,
    `extend` also takes a larger number of pairs, `overwrite` deletes the old set first.

    Raises:
        FingerprintError: the place holds pairs of other settings; names the changed keys.
        DataError: it holds shards without a manifest.
    """
    if mode == "overwrite":
        clear(output)
    delete_temporaries(output)
    found = read_manifest(output)
    if found is None:
        if list_files(join(output, PAIRS), ".parquet"):
            raise DataError(f"{output}: holds shards but no manifest", "choose another output, or mode=overwrite")
        found = wanted = Manifest.from_json(wanted.to_json(), output)  # as it will be read back
        if not put_if_absent(join(output, MANIFEST), wanted.to_json()):
            found = read_manifest(output) or wanted  # another driver began at the same moment
    manifest = _continued(output, found, Manifest.from_json(wanted.to_json(), output), mode)
    there = {e.name.removesuffix(".parquet") for e in list_files(join(output, PAIRS), ".parquet")}
    there &= {e.name.removesuffix(".json") for e in list_files(join(output, STATS), ".json")}
    shards = manifest.planned()
    pending = tuple(s for s in shards if s.name not in there)
    manifest = replace(manifest, complete=manifest.complete and not pending)
    if manifest != found:
        write_bytes(join(output, MANIFEST), manifest.to_json())
    write_bytes(join(output, LABELS), (json.dumps(manifest.labels.to_dict(), indent=1) + "\n").encode())
    return Plan(manifest, pending, tuple(s for s in shards if s.name in there))


def _continued(output: str, found: Manifest, wanted: Manifest, mode: Mode) -> Manifest:
    """The manifest to go on with. Raises FingerprintError where `wanted` is another set."""
    changed = changed_keys(found, wanted)
    if changed:
        raise FingerprintError(
            f"{output} holds pairs of other settings: {'; '.join(changed)}",
            "choose another output, or mode=overwrite to replace them",
        )
    if wanted.num_pairs == found.num_pairs:
        return found
    if mode != "extend" or wanted.num_pairs < found.num_pairs:
        larger = wanted.num_pairs > found.num_pairs
        way = "mode=extend adds the missing ones" if larger else "mode=overwrite starts anew"
        raise FingerprintError(f"{output} holds num_pairs={found.num_pairs}, asked for {wanted.num_pairs}", way)
    return replace(found, totals=(*found.totals, wanted.num_pairs), complete=False)


def changed_keys(found: Manifest, wanted: Manifest) -> list[str]:
    """`key: old -> new` for every setting that differs, the label space and resolution included."""
    old = {**found.settings, "rows_per_shard": found.rows_per_shard, "resolution": found.resolution}
    new = {**wanted.settings, "rows_per_shard": wanted.rows_per_shard, "resolution": wanted.resolution}
    old, new = {**old, "labels": found.labels.to_dict()}, {**new, "labels": wanted.labels.to_dict()}
    return [f"{k}: {old.get(k)!r} -> {new.get(k)!r}" for k in sorted({*old, *new}) if old.get(k) != new.get(k)]


def complete(output: str, begun: Manifest, fresh: Mapping[int, ShardStats], pairs_per_second: float) -> Manifest:
    """Check that every planned shard is there and write the manifest with the totals.

    Args:
        begun: the manifest of the plan.
        fresh: statistics known already, by first row; those of other shards are taken from the
            manifest's totals where it has them, else read.
        pairs_per_second: to note down; 0 keeps what was noted.

    Raises:
        StorageError: a shard is missing or of another size than its statistics say.
    """
    noted = {s[0]: s for s in begun.shards}
    base = begun.stats
    if base is None or any(row in noted for row in fresh):  # a shard had been lost: count all again
        noted, base = {}, empty_stats(begun.labels.num_classes)
    shards = begun.planned()
    unread = [s for s in shards if s.first_row not in noted and s.first_row not in fresh]
    known = {**_read_stats(output, unread), **fresh}
    sizes = {e.name: e.size for e in list_files(join(output, PAIRS), ".parquet")}
    for row, stats in known.items():
        noted[row] = (row, stats.rows, stats.bytes, stats.sha256[:16])
    for shard in shards:
        if sizes.get(f"{shard.name}.parquet") != noted[shard.first_row][2]:
            raise StorageError(
                f"{shard.pairs_uri(output)}: missing or not {noted[shard.first_row][2]} bytes",
                f"delete it and {shard.stats_uri(output)}, then run the same command again",
            )
    manifest = replace(
        begun,
        complete=True,
        stats=merge_stats((known[row] for row in sorted(known)), base),
        shards=tuple(noted[s.first_row] for s in shards),
        pairs_per_second=pairs_per_second or begun.pairs_per_second,
    )
    write_bytes(join(output, MANIFEST), manifest.to_json())
    return manifest


def _read_stats(output: str, shards: Sequence[Shard]) -> dict[int, ShardStats]:
    with ThreadPoolExecutor(16) as pool:
        return dict(zip((s.first_row for s in shards), pool.map(lambda s: read_stats(output, s), shards), strict=True))


def read_stats(output: str, shard: Shard) -> ShardStats:
    """Statistics of one shard. Raises DataError naming the file that is not readable as such."""
    where = shard.stats_uri(output)
    try:
        return ShardStats.from_dict(json.loads(read_bytes(where)))
    except (ValueError, KeyError, TypeError) as error:
        message = f"{where}: not the statistics of a shard"
        raise DataError(message, "delete it and run the same command again") from error


def write_stats(output: str, shard: Shard, stats: ShardStats) -> None:
    write_bytes(shard.stats_uri(output), (json.dumps(_finite(stats.to_dict())) + "\n").encode())


def clear(output: str) -> None:
    """Delete a pair set's own files; the manifest first, so that half a set is never taken for a whole one."""
    delete(join(output, MANIFEST))
    for folder, suffix in ((STATS, ".json"), (PAIRS, ".parquet")):
        names = [e.name for e in list_files(join(output, folder), suffix) if e.name.startswith("pairs-")]
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(delete, [join(output, folder, name) for name in names]))
    delete(join(output, LABELS))


def _finite(document: dict[str, Any]) -> dict[str, Any]:
    """Infinite bounds (of no rows) as 0: JSON knows no infinity."""
    return {k: 0.0 if isinstance(v, float) and not math.isfinite(v) else v for k, v in document.items()}


def batches(shard: Shard, rows_per_shard: int, batch_size: int) -> Iterable[tuple[range, slice]]:
    """How a shard's rows are sampled: (rows to sample, which of those belong to the shard).

    Batches are cut from the full shard that ends at multiples of `rows_per_shard`, so that a row is
    sampled in the same company whether its shard is whole, the last, or begun by an extension.
    """
    start = shard.first_row // rows_per_shard * rows_per_shard
    end = shard.first_row + shard.rows
    for first in range(start, end, batch_size):
        rows = range(first, min(first + batch_size, start + rows_per_shard))
        kept = range(max(rows.start, shard.first_row), min(rows.stop, end))
        if kept:
            yield rows, slice(kept.start - rows.start, kept.stop - rows.start)
