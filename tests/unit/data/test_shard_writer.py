"""Writing and reading whole pair sets without Ray: the same parts that the actors run."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from raygseg.data import object_store, shard_writer
from raygseg.data.pair_set import PairSet
from raygseg.data.pairs import decode_pairs, top_two
from raygseg.data.shard_stats import ShardStats
from raygseg.data.shard_writer import Recording, ShardWriter, stats_from_text, stats_to_text
from raygseg.data.shards import Manifest, Mode, complete, plan
from raygseg.data.sources import open_labelled
from raygseg.errors import DataError, StorageError
from raygseg.interfaces import Pairs
from raygseg.labels import LabelSpace
from raygseg.seeding import torch_rng

LABELS = LabelSpace(("background", "a", "b", "c"))


class NoiseSampler:
    """Pairs that depend on their seed only; remembers the batches it was asked for."""

    labels = LABELS
    resolution = 8

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.thread = threading.get_ident()

    def sample(self, seeds: Sequence[int]) -> Pairs:
        assert threading.get_ident() == self.thread, "networks are used from one thread"
        self.batches.append(list(seeds))
        rngs = [torch_rng(seed, "noise") for seed in seeds]
        images = [torch.randint(0, 256, (3, 8, 8), generator=g, dtype=torch.uint8) for g in rngs]
        logits = [3 * torch.randn(4, 8, 8, generator=g) for g in rngs]
        scores = [torch.rand((), generator=g) ** 2 for g in rngs]
        return Pairs(torch.stack(images), torch.stack(logits).softmax(1), torch.stack(scores))


def wanted(num_pairs: int, first_seed: int = 0) -> Manifest:
    settings = {"sampler": "noise", "first_seed": first_seed, "batch_size": 8, "image_format": "png"}
    return Manifest(settings, LABELS, 8, (num_pairs,), 20)


def make(output: str, num_pairs: int, mode: Mode = "resume", first_seed: int = 0) -> NoiseSampler:
    """Generate in this thread."""
    sampler = NoiseSampler()
    todo = plan(output, wanted(num_pairs, first_seed), mode)
    with ShardWriter(sampler, Recording.of(output, todo.manifest)) as writer:
        fresh = {stats.first_row: stats for stats in writer.write(todo.pending)}
    complete(output, todo.manifest, fresh, 100.0)
    return sampler


@pytest.fixture(params=["disk", pytest.param("s3", marks=pytest.mark.s3)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "set") if request.param == "disk" else str(request.getfixturevalue("s3_place"))


def test_a_set_holds_every_seed_once_with_what_the_sampler_gave(place: str) -> None:
    make(place, 50, first_seed=1000)
    pairs = PairSet.open(place)
    assert len(pairs) == 50 and pairs.labels == LABELS and pairs.resolution == 8
    rows = [decode_pairs(table, 4) for table in pairs.tables()]
    assert [len(r.seeds) for r in rows] == [20, 20, 10]
    seeds = torch.cat([r.seeds for r in rows])
    assert seeds.tolist() == list(range(1000, 1050))
    truth = NoiseSampler().sample(seeds.tolist())
    assert torch.equal(torch.cat([r.images for r in rows]), truth.images)
    assert torch.equal(torch.cat([r.scores for r in rows]), truth.scores)
    likeliest = np.concatenate([top_two(table)[0][:, 0] for table in pairs.tables()])
    assert np.array_equal(likeliest, truth.probabilities.argmax(1).numpy())


def test_statistics_are_those_of_the_rows(tmp_path: Path) -> None:
    make(str(tmp_path), 50)
    truth = NoiseSampler().sample(range(50))
    stats = PairSet.open(str(tmp_path)).manifest.stats
    assert stats is not None and stats.rows == 50
    pixels = torch.bincount(truth.probabilities.argmax(1).flatten(), minlength=4)
    assert list(stats.class_pixels) == pixels.tolist()
    assert sum(PairSet.open(str(tmp_path)).class_frequencies()) == pytest.approx(1)
    assert stats.score_sum / 50 == pytest.approx(float(truth.scores.mean()), rel=1e-6)
    assert stats.score_max == pytest.approx(float(truth.scores.max()))
    assert stats.bytes == sum(f.stat().st_size for f in (tmp_path / "pairs").iterdir())
    shard = json.loads((tmp_path / "stats/pairs-000000000020.json").read_text())
    assert shard["rows"] == 20 and len(shard["sha256"]) == 64 and shard["host"]


def test_the_reader_cuts_the_least_certain(tmp_path: Path) -> None:
    make(str(tmp_path), 100)
    pairs, scores = PairSet.open(str(tmp_path)), NoiseSampler().sample(range(100)).scores.numpy()
    kept = np.concatenate([t.column("score").to_numpy() for t in pairs.tables(uncertainty_cut=0.25)])
    assert 75 <= len(kept) <= 78
    assert np.array_equal(np.sort(kept), np.sort(scores)[: len(kept)])
    assert sum(t.num_rows for t in pairs.tables()) == 100  # nothing was thrown away


def test_growing_and_resuming_give_the_rows_of_one_go(tmp_path: Path) -> None:
    make(str(tmp_path / "once"), 90)
    make(str(tmp_path / "grown"), 33)
    assert PairSet.open(str(tmp_path / "grown")).manifest.num_pairs == 33
    grown = make(str(tmp_path / "grown"), 90, "extend")
    assert min(min(batch) for batch in grown.batches) == 28  # row 33 was and is sampled with 28-35
    once, again = PairSet.open(str(tmp_path / "once")), PairSet.open(str(tmp_path / "grown"))
    assert again.checksum() == once.checksum()
    assert again.manifest.stats.class_pixels == once.manifest.stats.class_pixels
    assert again.manifest.stats.score_bins == once.manifest.stats.score_bins
    for victim in ("pairs/pairs-000000000040.parquet", "stats/pairs-000000000060.json"):
        (tmp_path / "grown" / victim).unlink()
    with_hole = make(str(tmp_path / "grown"), 90)
    assert {seed for batch in with_hole.batches for seed in batch} == set(range(40, 60))  # 60.. was only recounted
    mended = PairSet.open(str(tmp_path / "grown"))
    assert mended.checksum() == once.checksum()
    assert mended.manifest.stats.rows == 90 and mended.manifest.stats.class_pixels == once.manifest.stats.class_pixels


def test_the_checksum_sees_every_column_and_no_order(tmp_path: Path) -> None:
    import pyarrow as pa

    from raygseg.data.pair_set import row_digests
    from raygseg.data.pairs import encode_pairs

    pairs = NoiseSampler().sample(range(6))
    table = encode_pairs(pairs, range(6))
    digests = row_digests(table)
    assert len(set(digests)) == 6
    assert row_digests(table.take(pa.array([3, 1]))) == [digests[3], digests[1]]
    image, probabilities, scores = (part.clone() for part in pairs)
    image[2, 0, 0, 0] ^= 1
    assert [a == b for a, b in zip(row_digests(encode_pairs(pairs._replace(images=image), range(6))), digests)] == [
        True, True, False, True, True, True,
    ]  # fmt: skip
    probabilities[4] = probabilities[4].flip(0)
    scores[5] += 1e-6
    assert row_digests(encode_pairs(pairs._replace(probabilities=probabilities), range(6)))[4] != digests[4]
    assert row_digests(encode_pairs(pairs._replace(scores=scores), range(6)))[5] != digests[5]
    assert row_digests(encode_pairs(pairs, range(1, 7)))[0] != digests[0]


def test_an_unfinished_or_damaged_set_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pair set"):
        PairSet.open(str(tmp_path))
    plan(str(tmp_path), wanted(50), "resume")
    with pytest.raises(DataError, match="has not finished"):
        PairSet.open(str(tmp_path))
    make(str(tmp_path), 50)
    shard = tmp_path / "pairs/pairs-000000000020.parquet"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"pairs-000000000020.parquet: cannot be read"):
        PairSet.open(str(tmp_path)).checksum()


def test_a_shard_that_shrank_is_found_when_the_set_is_completed(tmp_path: Path) -> None:
    todo = plan(str(tmp_path), wanted(50), "resume")
    with ShardWriter(NoiseSampler(), Recording.of(str(tmp_path), todo.manifest)) as writer:
        fresh = {stats.first_row: stats for stats in writer.write(todo.pending)}
    shard = tmp_path / "pairs/pairs-000000000020.parquet"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(StorageError, match=r"pairs-000000000020.parquet: missing or not"):
        complete(str(tmp_path), todo.manifest, fresh, 1.0)


def test_two_writers_of_the_same_shards_agree(tmp_path: Path) -> None:
    """A killed driver's actors may still write while the next driver's do."""
    todo = plan(str(tmp_path), wanted(100), "resume")
    results: list[list[ShardStats]] = [[], []]

    def work(number: int) -> None:
        with ShardWriter(NoiseSampler(), Recording.of(str(tmp_path), todo.manifest)) as writer:
            results[number] = list(writer.write(todo.pending))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [s.sha256 for s in results[0]] == [s.sha256 for s in results[1]]
    complete(str(tmp_path), todo.manifest, {s.first_row: s for s in results[1]}, 1.0)
    make(str(tmp_path / "alone"), 100)
    assert PairSet.open(str(tmp_path)).checksum() == PairSet.open(str(tmp_path / "alone")).checksum()


def test_a_disk_that_fills_up_leaves_whole_shards_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = [7]  # files that still fit
    real = os.fsync

    def fsync(descriptor: int) -> None:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageError, match="No space left") as caught:
        make(str(tmp_path / "set"), 200)
    assert caught.value.exit_code == 1 and "run the same command again" in caught.value.hint
    there = sorted(p.name for p in (tmp_path / "set/pairs").iterdir())
    assert 1 <= len(there) < 10 and not any(name.endswith(".tmp") for name in there)
    room[0] = 10**9
    rest = make(str(tmp_path / "set"), 200)
    assert sum(len(batch) for batch in rest.batches) <= 200 - 20 * (len(there) - 1)
    make(str(tmp_path / "undisturbed"), 200)
    assert PairSet.open(str(tmp_path / "set")).checksum() == PairSet.open(str(tmp_path / "undisturbed")).checksum()


def test_a_foreign_file_under_a_shards_name_is_refused(tmp_path: Path) -> None:
    make(str(tmp_path / "other"), 20, first_seed=500)
    todo = plan(str(tmp_path / "set"), wanted(20), "resume")
    content = (tmp_path / "other/pairs/pairs-000000000000.parquet").read_bytes()
    object_store.write_bytes(todo.pending[0].pairs_uri(str(tmp_path / "set")), content)
    writer = ShardWriter(NoiseSampler(), Recording.of(str(tmp_path / "set"), todo.manifest))
    with writer, pytest.raises(DataError, match="holds other seeds than 0-19"):
        list(writer.write(todo.pending))


def test_sampling_goes_on_while_a_shard_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first shard's put waits for the second shard's first batch: without overlap it would never come."""
    sampled = threading.Event()
    real = shard_writer.put_if_absent

    def slow_put(uri: str, content: bytes) -> bool:
        if "000000000000" in uri:
            assert sampled.wait(20), "nothing was sampled while the shard was being written"
        return real(uri, content)

    class Watched(NoiseSampler):
        def sample(self, seeds: Sequence[int]) -> Pairs:
            if 20 in seeds:
                sampled.set()
            return super().sample(seeds)

    monkeypatch.setattr(shard_writer, "put_if_absent", slow_put)
    todo = plan(str(tmp_path), wanted(40), "resume")
    with ShardWriter(Watched(), Recording.of(str(tmp_path), todo.manifest)) as writer:
        assert [s.rows for s in writer.write(todo.pending)] == [20, 20]


def test_statistics_travel_as_text(tmp_path: Path) -> None:
    make(str(tmp_path), 20)
    stats = PairSet.open(str(tmp_path)).manifest.stats
    assert stats is not None and stats_from_text(stats_to_text(stats)) == stats


def test_a_pair_set_is_a_labelled_source(tmp_path: Path) -> None:
    make(str(tmp_path), 30)
    data = open_labelled(str(tmp_path), None)
    truth = NoiseSampler().sample([7])
    assert len(data) == 30 and data.labels == LABELS
    assert np.array_equal(data.read(7)[0], truth.images[0].permute(1, 2, 0).numpy())
    assert np.array_equal(data.read(7)[1], truth.probabilities[0].argmax(0).numpy())


def _opened(folder: Path) -> Iterator[tuple[str, list[int], np.ndarray]]:
    """(with what, seeds, mask of the first row) as other libraries read the shards."""
    import io

    import datasets
    import pandas
    import pyarrow.dataset
    from PIL import Image

    files = [str(f) for f in sorted((folder / "pairs").iterdir())]
    table = pyarrow.dataset.dataset(str(folder / "pairs")).to_table()
    first = Image.open(io.BytesIO(table.column("mask")[0].as_py()["bytes"]))
    yield "pyarrow", table.column("seed").to_pylist(), np.asarray(first)
    frame = pandas.read_parquet(folder / "pairs")
    yield "pandas", frame["seed"].tolist(), np.asarray(Image.open(io.BytesIO(frame["mask"][0]["bytes"])))
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(folder.parent / "cache"))
    assert loaded[0]["image"].size == (8, 8)
    yield "datasets", list(loaded["seed"]), np.asarray(loaded[0]["mask"])


def test_other_libraries_open_the_shards(tmp_path: Path) -> None:
    make(str(tmp_path / "set"), 30)
    truth = NoiseSampler().sample([0]).probabilities[0].argmax(0).numpy()
    for name, seeds, mask in _opened(tmp_path / "set"):
        assert sorted(seeds) == list(range(30)), name
        assert np.array_equal(mask, truth), name
