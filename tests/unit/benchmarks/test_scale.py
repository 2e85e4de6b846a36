"""The scale benchmark finds the shards that were left out, on disk; a planner that misses one is caught."""

from __future__ import annotations

from pathlib import Path

import pytest

from raygseg.benchmarks import scale
from raygseg.data.shards import Manifest, plan
from raygseg.errors import DataError, TrainingError


def test_steps_on_disk(tmp_path: Path) -> None:
    place = str(tmp_path / "set")
    wanted = Manifest({"sampler": "stand-in"}, scale.CLASSES, 1, (1050,), 100)
    shards, left_out = wanted.planned(), {3, 10}
    assert scale._write(place, wanted, shards, left_out) == {"shards": 11}
    assert scale._plan(place, wanted, shards, left_out)["pending"] == 2
    with pytest.raises(TrainingError, match="2 shards are pending in a whole set"):
        scale._complete(place, wanted, shards, left_out)
    with pytest.raises(TrainingError, match="were left out"):
        scale._plan(place, wanted, shards, {3, 9})
    scale._fill(place, wanted, shards, left_out)
    scale._complete(place, wanted, shards, left_out)
    assert scale._read(place, wanted, shards, left_out)["bytes"] > 0
    assert plan(place, wanted, "resume").manifest.complete


def test_wrong_settings() -> None:
    with pytest.raises(DataError):
        scale.run(rows=10, rows_per_shard=5, missing=3)
