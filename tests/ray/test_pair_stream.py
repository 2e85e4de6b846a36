from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raygseg.distributed.pair_stream import PairStream, file_reader, ray_reader
from raygseg.errors import DataError
from tests.unit.distributed.written_pairs import run, write_pairs

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.slow]


@pytest.mark.timeout(600)
def test_ray_data_gives_what_the_files_give(tmp_path: Path) -> None:
    """Over an epoch's end, and entered in the middle of an epoch; with many small shards in seeded order."""
    pairs = write_pairs(tmp_path, count=100, rows_per_shard=8)
    config = run(uncertainty_cut=0.2)
    by_file, by_ray = (PairStream(config, pairs, read=reader(pairs)) for reader in (file_reader, ray_reader))
    for first in (40, 80, 120):
        expected, found = by_file.micro_batch(first, 40), by_ray.micro_batch(first, 40)
        assert torch.equal(expected["images"], found["images"])
        assert torch.equal(expected["probabilities"], found["probabilities"])
    by_ray.close()
    assert PairStream(config, pairs)._read.__qualname__.startswith("ray_reader")  # the default where Ray runs


@pytest.mark.timeout(600)
def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path, count=16, rows_per_shard=8)
    damaged = Path(pairs.shard_uris[0])
    damaged.write_bytes(damaged.read_bytes()[:300])
    with pytest.raises(DataError, match=damaged.name):
        PairStream(run(), pairs, read=ray_reader(pairs)).micro_batch(0, 16)
