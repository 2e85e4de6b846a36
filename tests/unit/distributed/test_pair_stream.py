from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raygseg.data.pair_set import PairSet
from raygseg.data.sources import open_labelled
from raygseg.distributed.pair_stream import ChunkPlan, PairStream, file_reader
from raygseg.errors import ConfigError, DataError
from tests.unit.distributed.written_pairs import LABELS, SIDE, run, write_pairs


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> PairSet:
    return write_pairs(tmp_path_factory.mktemp("pairs"))


def seeds(stream: PairStream, first: int, count: int) -> list[int]:
    return [int(s) for s in stream.micro_batch(first, count)["images"][:, 0, 0, 0]]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 5), st.integers(0, 3))
def test_an_epoch_shows_every_row_once(rows: list[int], chunk_shards: int, epoch: int) -> None:
    plan, total = ChunkPlan(rows, chunk_shards, seed=4), sum(rows)
    shown: Counter[tuple[int, int]] = Counter()
    for number in range(epoch * total, (epoch + 1) * total):
        chunk, place = plan.locate(number)
        shards = plan.shards(chunk)
        assert len(shards) <= chunk_shards
        table = [(shard, row) for shard in shards for row in range(rows[shard])]
        shown[table[plan.row_order(chunk, len(table))[place]]] += 1
    assert shown == Counter((shard, row) for shard in range(len(rows)) for row in range(rows[shard]))


def test_epochs_have_their_own_orders(pairs: PairSet) -> None:
    stream = PairStream(run(), pairs)
    first, second = seeds(stream, 0, 50), seeds(stream, 50, 50)
    assert sorted(first) == sorted(second) == list(range(50)) and first != second
    assert first != list(range(50))
    assert seeds(PairStream(run(seed=2), pairs), 0, 50) != first


def test_what_is_shown_follows_from_the_position_alone(pairs: PairSet) -> None:
    """However the sequence is cut, wherever it is entered, also backwards."""
    whole = seeds(PairStream(run(), pairs), 0, 180)
    stream = PairStream(run(), pairs)
    assert [s for first in range(0, 180, 12) for s in seeds(stream, first, 12)] == whole
    for first in (150, 3, 77, 14, 99):
        assert seeds(PairStream(run(), pairs), first, 9) == whole[first : first + 9]
        assert seeds(stream, first, 9) == whole[first : first + 9]


def test_two_workers_read_what_one_reads(pairs: PairSet) -> None:
    whole = seeds(PairStream(run(), pairs), 0, 96)
    workers = [PairStream(run(), pairs), PairStream(run(), pairs)]
    shared = [s for step in range(0, 96, 8) for w in (0, 1) for s in seeds(workers[w], step + 4 * w, 4)]
    assert shared == whole


def test_pictures_and_probabilities_belong_together(pairs: PairSet) -> None:
    batch = PairStream(run(), pairs).micro_batch(0, 20)
    assert batch["images"].shape == (20, 3, SIDE, SIDE) and batch["images"].dtype == torch.uint8
    assert torch.allclose(batch["probabilities"].sum(1), torch.ones(20, SIDE, SIDE))
    assert torch.equal(batch["probabilities"].argmax(1)[:, 0, 0], batch["images"][:, 0, 0, 0].long() % 3)


def test_each_chunk_is_read_once(pairs: PairSet) -> None:
    read: list[int] = []

    def counting(shards: list[int]) -> Any:
        for shard, table in zip(shards, file_reader(pairs)(shards), strict=True):
            read.append(shard)
            yield table

    stream = PairStream(run(), pairs, read=counting)
    for first in range(0, 48, 4):
        stream.micro_batch(first, 4)
    assert max(Counter(read).values()) <= 2  # the epoch's last chunk has the next epoch's first fetched behind it
    stream = PairStream(run(), pairs, read=counting)
    read.clear()
    stream.micro_batch(40, 4)
    assert len(read) <= 3 * 2  # entered late: nothing before that chunk is read


def test_the_quality_cut_replaces_uncertain_rows_by_certain_ones(pairs: PairSet) -> None:
    stream = PairStream(run(uncertainty_cut=0.3), pairs)
    shown = seeds(stream, 0, 50)
    assert {seed % 10 for seed in shown} == set(range(7))
    assert max(Counter(shown).values()) == 2 and len(set(shown)) == 35
    assert seeds(PairStream(run(uncertainty_cut=0.3), pairs), 31, 8) == shown[31:39]


def test_a_chunk_of_which_nothing_passes_is_an_error(pairs: PairSet) -> None:
    stream = PairStream(run(), pairs)
    stream.threshold = -1.0
    with pytest.raises(DataError, match="no pair of a chunk passes"):
        stream.micro_batch(0, 4)


def test_pairs_of_another_resolution_are_resized(pairs: PairSet) -> None:
    batch = PairStream(run(resolution=4), pairs).micro_batch(0, 4)
    assert batch["images"].shape == (4, 3, 4, 4) and batch["probabilities"].shape == (4, 3, 4, 4)
    assert torch.allclose(batch["probabilities"].sum(1), torch.ones(4, 4, 4))
    assert [int(s) for s in batch["images"][:, 0, 0, 0]] == seeds(PairStream(run(), pairs), 0, 4)


def test_labelled_pictures_are_mixed_in_evenly(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path, count=20)
    object.__setattr__(pairs.manifest, "labels", open_labelled("toy://default?count=3&seed=0", SIDE).labels)
    labelled = open_labelled("toy://default?count=3&seed=0", SIDE)
    stream = PairStream(run(labelled="toy", labelled_share=0.25), pairs, labelled)
    batch = stream.micro_batch(8, 8)
    sums = batch["probabilities"].sum(1)
    hard = (batch["probabilities"].amax(1) == 1).flatten(1).all(1)
    assert hard.tolist() == [False, False, False, True] * 2
    assert torch.allclose(sums, torch.ones_like(sums))
    shown = [int(s) for s in batch["images"][~hard][:, 0, 0, 0]]
    assert shown == seeds(PairStream(run(), pairs), 6, 6)  # the pairs' own sequence has no gaps
    again = PairStream(run(labelled="toy", labelled_share=0.25), pairs, labelled)
    parts = [again.micro_batch(first, 2)["images"] for first in range(8, 16, 2)]
    assert torch.equal(torch.cat(parts), batch["images"])


def test_both_sources_without_a_share_are_refused(pairs: PairSet) -> None:
    labelled = open_labelled("toy://default?count=3&seed=0", SIDE)
    with pytest.raises(ConfigError, match="labelled_share"):
        PairStream(run(labelled="toy"), pairs, labelled)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path, count=16)
    lost = pairs.shard_uris[1]
    Path(lost).unlink()
    with pytest.raises(Exception, match=Path(lost).name):
        PairStream(run(), pairs).micro_batch(0, 16)


def test_void_pixels_of_labelled_pictures_have_no_probability(pairs: PairSet) -> None:
    class Voids:
        resolution, labels = SIDE, LABELS

        def __len__(self) -> int:
            return 1

        def read(self, index: int) -> Any:
            import numpy as np

            label_map = np.ones((SIDE, SIDE), np.uint8)
            label_map[0] = 255
            return np.zeros((SIDE, SIDE, 3), np.uint8), label_map

    batch = PairStream(run(labelled="x", labelled_share=0.5), pairs, Voids()).micro_batch(0, 2)  # type: ignore[arg-type]
    assert batch["probabilities"][1].sum(0)[:, 0].tolist() == [0] + [1] * (SIDE - 1)
