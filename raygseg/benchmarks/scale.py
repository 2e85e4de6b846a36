"""Planner, manifest and listing at full size: ten million rows in ten thousand shards on a real S3.

The sampler is a stand-in (every picture is empty) so that rows cost nothing; shards are real Parquet files
with a real schema and row groups, each with its statistics beside it. Each step runs in a process of its own,
so that its peak memory is its own. What is wanted: plan and resume decision under 60 s and 1 GiB.
"""

from __future__ import annotations

import functools
import io
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from raygseg.benchmarks.support.s3_server import BUCKET, s3_server
from raygseg.data.object_store import is_s3, join, list_files, put_if_absent, read_bytes
from raygseg.data.pair_set import PairSet
from raygseg.data.pairs import pair_schema, table_bytes
from raygseg.data.shard_stats import shard_stats
from raygseg.data.shards import PAIRS, Manifest, Shard, complete, plan, write_stats
from raygseg.errors import DataError, TrainingError
from raygseg.labels import LabelSpace

SECONDS, MIB = 60.0, 1024.0  # what planning may take
CLASSES = LabelSpace(("background", "part"))
WRITERS = 16
_CODE = "import sys; from raygseg.benchmarks.scale import step; step(*sys.argv[1:])"


def run(rows: int = 10_000_000, rows_per_shard: int = 1000, missing: int = 100, place: str = "") -> dict[str, Any]:
    """Write the set less `missing` shards, plan, write those, plan again, complete, read back.

    Args:
        rows: of the set; `rows_per_shard` of them in each file.
        missing: shards that a driver left undone when it was killed.
        place: where to write, left there afterwards; empty: a SeaweedFS of its own on loopback.

    Raises:
        TrainingError: the planner misjudged what is there.
        MissingEnvironmentError: no server.
    """
    if rows < 1 or rows_per_shard < 1 or not 0 <= missing <= -(-rows // rows_per_shard):
        raise DataError("rows and rows_per_shard must be 1 or more, missing at most the number of shards", "mend them")
    if place:
        return _all_steps(place, rows, rows_per_shard, missing, dict(os.environ))
    with s3_server() as environment:
        return _all_steps(f"s3://{BUCKET}/scale", rows, rows_per_shard, missing, environment)


def _all_steps(place: str, rows: int, per_shard: int, missing: int, environment: Mapping[str, str]) -> dict[str, Any]:
    def do(name: str) -> dict[str, Any]:
        words = [sys.executable, "-c", _CODE, name, place, str(rows), str(per_shard), str(missing)]
        done = subprocess.run(words, env=dict(environment), capture_output=True, text=True, check=False)
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"code {done.returncode}"
            raise TrainingError(f"step {name} failed: {last}", "run it with place=FOLDER to look at what is there")
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result

    written, resumed, filled, ended, read = map(do, ("write", "plan", "fill", "complete", "read"))
    return {
        "rows": rows,
        "shards": written["shards"],
        "missing": resumed["pending"],
        "store": "S3" if is_s3(place) else "disk",
        "plan": resumed,
        "complete": ended,
        "read": read,
        "written_seconds": round(written["seconds"] + filled["seconds"], 1),
        "bytes": read.pop("bytes"),
        "within": resumed["seconds"] <= SECONDS and resumed["peak_mib"] <= MIB,
    }


# --- steps, each in a process of its own ---------------------------------------------------------


def step(name: str, place: str, rows: str, rows_per_shard: str, missing: str) -> None:
    """Run one step and print its figures as a line of JSON."""
    wanted = Manifest({"sampler": "stand-in"}, CLASSES, 1, (int(rows),), int(rows_per_shard))
    shards = wanted.planned()
    left_out = set(random.Random(0).sample(range(len(shards)), int(missing)))
    began, cpu = time.perf_counter(), time.process_time()
    figures = _STEPS[name](place, wanted, shards, left_out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    timed = {"seconds": round(time.perf_counter() - began, 2), "cpu_seconds": round(time.process_time() - cpu, 2)}
    sys.stdout.write(json.dumps({**figures, **timed, "peak_mib": round(peak, 1)}) + "\n")


def _write(place: str, wanted: Manifest, shards: list[Shard], left_out: set[int]) -> dict[str, Any]:
    """The manifest, then every shard but those left out."""
    plan(place, wanted, "resume")
    _put(place, [shard for index, shard in enumerate(shards) if index not in left_out])
    return {"shards": len(shards)}


def _plan(place: str, wanted: Manifest, shards: list[Shard], left_out: set[int]) -> dict[str, Any]:
    """What a driver does before anything else: read the manifest, list, decide."""
    began = time.perf_counter()
    listed = len(list_files(join(place, PAIRS), ".parquet"))
    listing = time.perf_counter() - began
    todo = plan(place, wanted, "resume")
    pending = [shard.first_row for shard in todo.pending]
    if pending != [shards[index].first_row for index in sorted(left_out)] or listed + len(pending) != len(shards):
        raise TrainingError(f"{len(pending)} shards are pending, {len(left_out)} were left out", "the planner is wrong")
    return {"pending": len(pending), "one_listing_seconds": round(listing, 2)}


def _fill(place: str, wanted: Manifest, shards: list[Shard], left_out: set[int]) -> dict[str, Any]:
    _put(place, [shards[index] for index in sorted(left_out)])
    return {}


def _complete(place: str, wanted: Manifest, shards: list[Shard], left_out: set[int]) -> dict[str, Any]:
    """Read the statistics of every shard and write the manifest with the totals."""
    todo = plan(place, wanted, "resume")
    if todo.pending:
        raise TrainingError(f"{len(todo.pending)} shards are pending in a whole set", "the planner is wrong")
    manifest = complete(place, todo.manifest, {}, 0.0)
    if manifest.stats is None or manifest.stats.rows != wanted.num_pairs:
        raise TrainingError("the manifest's totals are wrong", "see its stats")
    return {}


def _read(place: str, wanted: Manifest, shards: list[Shard], left_out: set[int]) -> dict[str, Any]:
    """Open the set as training does, and look into the footers of ten shards."""
    from pyarrow import parquet

    found = PairSet.open(place)
    for uri, shard in list(zip(found.shard_uris, found.shards, strict=True))[:: max(1, len(shards) // 10)]:
        footer = parquet.ParquetFile(io.BytesIO(read_bytes(uri))).metadata
        seeds = footer.row_group(0).column(footer.num_columns - 1).statistics
        if footer.num_rows != shard.rows or seeds.min != shard.first_row:
            raise TrainingError(f"{uri}: not the rows of {shard.name}", "the writer is wrong")
    stats = found.manifest.stats
    return {"bytes": stats.bytes if stats else 0}


_STEPS = {"write": _write, "plan": _plan, "fill": _fill, "complete": _complete, "read": _read}


def _put(place: str, shards: list[Shard]) -> None:
    with ThreadPoolExecutor(WRITERS) as pool:
        for _ in pool.map(lambda shard: _put_shard(place, shard), shards):
            pass


def _put_shard(place: str, shard: Shard) -> None:
    """One shard of empty pictures, by the writer's own way: put unless it is there, then its statistics."""
    import pyarrow as pa

    seeds = pa.array(np.arange(shard.first_row, shard.first_row + shard.rows, dtype=np.int64))
    table = pa.table([*_empty_columns(shard.rows), seeds], schema=pair_schema())
    content = table_bytes(table)
    put_if_absent(shard.pairs_uri(place), content)
    stats = shard_stats(table, content, shard.first_row, CLASSES.num_classes, 0.0, "here")
    write_stats(place, shard, stats)


@functools.lru_cache(maxsize=4)
def _empty_columns(count: int) -> list[Any]:
    """All columns but the seeds."""
    import pyarrow as pa

    pictures = pa.array([{"bytes": b"", "path": ""}] * count, pair_schema().field("image").type)
    maps = pa.array([b"\0\0"] * count, pa.binary())
    return [pictures, pictures, maps, maps, pa.array(np.full(count, 0.5, dtype=np.float32))]
