"""Questions that a drill asks from the lab's desk, as a program of its own: one JSON line.

python -m raygseg.benchmarks.support.at_desk pairs s3://lab/pairs 50000
python -m raygseg.benchmarks.support.at_desk shards s3://lab/pairs
python -m raygseg.benchmarks.support.at_desk search s3://lab LAB/secrets
python -m raygseg.benchmarks.support.at_desk checkpoint s3://lab/run
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def pairs(place: str, rows: str) -> dict[str, Any]:
    """Rows, seeds that are missing or double, checksum."""
    from raygseg.data.pair_set import PairSet
    from raygseg.data.pairs import seeds_of

    found = PairSet.open(place)
    seeds = [int(seed) for table in found.tables() for seed in seeds_of(table)]
    missing, doubled = set(range(int(rows))) - set(seeds), len(seeds) - len(set(seeds))
    return {"rows": len(seeds), "missing": len(missing), "doubled": doubled, "checksum": found.checksum()}


def shards(place: str) -> dict[str, Any]:
    """Shards that are committed."""
    from raygseg.data import object_store

    return {"shards": len(object_store.list_files(object_store.join(place, "stats")))}


def search(bucket: str, folder: str) -> dict[str, Any]:
    """Objects that hold one of the secrets in a folder, as `KEY: SECRET`, and how much was read."""
    from raygseg.data import object_store

    known = {file.name: file.read_bytes() for file in sorted(Path(folder).iterdir())}
    found, read, objects = [], 0, object_store.list_files(bucket)
    for entry in objects:
        content = object_store.read_bytes(object_store.join(bucket, entry.name))
        read += len(content)
        found += [f"{entry.name}: {name}" for name, secret in known.items() if secret in content]
    return {"objects": len(objects), "mib": round(read / 2**20, 1), "found": found}


def checkpoint(place: str) -> dict[str, Any]:
    """Pictures seen by the newest whole checkpoint, after reading all of it."""
    from raygseg.engine.checkpoint import CheckpointFolder

    found = CheckpointFolder(place).latest()
    return {"nimg": 0 if found is None else found.facts["nimg"]}


if __name__ == "__main__":
    questions: dict[str, Callable[..., dict[str, Any]]] = {
        "pairs": pairs, "shards": shards, "search": search, "checkpoint": checkpoint,
    }  # fmt: skip
    answer = questions[sys.argv[1]](*sys.argv[2:])
    sys.stdout.write(json.dumps(answer) + "\n")
