from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raygseg.data import shards
from raygseg.data.shard_stats import ScoreHistogram
from raygseg.data.shards import Manifest, Shard, batches, plan
from raygseg.errors import DataError, FingerprintError
from raygseg.labels import LabelSpace

LABELS = LabelSpace(("background", "left_arm", "right_arm"), swaps=((1, 2),))
SETTINGS = {"sampler": "abc", "first_seed": 0, "batch_size": 8, "image_format": "png"}


def wanted(num_pairs: int, rows_per_shard: int = 20, **settings: object) -> Manifest:
    return Manifest({**SETTINGS, **settings}, LABELS, 16, (num_pairs,), rows_per_shard)


def commit(output: Path, shard: Shard) -> None:
    """Stand-ins for a written shard: planning looks at names only."""
    for file in (Path(shard.pairs_uri(str(output))), Path(shard.stats_uri(str(output)))):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")


totals = st.lists(st.integers(1, 300), min_size=1, max_size=4, unique=True).map(lambda t: tuple(sorted(t)))


@given(totals, st.integers(1, 50))
def test_shards_cover_every_row_once_and_are_named_by_it(asked: tuple[int, ...], rows: int) -> None:
    planned = replace(wanted(1, rows), totals=asked).planned()
    covered = [row for s in planned for row in range(s.first_row, s.first_row + s.rows)]
    assert covered == list(range(asked[-1]))
    assert all(s.first_row // rows == (s.first_row + s.rows - 1) // rows for s in planned)
    assert [s.name for s in planned] == sorted({s.name for s in planned})


@given(totals, st.integers(1, 50), st.integers(1, 20))
def test_a_row_is_sampled_in_the_same_company_however_the_set_grew(
    asked: tuple[int, ...], rows: int, batch: int
) -> None:
    def company(manifest: Manifest) -> dict[int, range]:
        found = {}
        for shard in manifest.planned():
            for sampled, kept in batches(shard, rows, batch):
                assert len(sampled) <= batch
                for row in sampled[kept]:
                    assert row not in found
                    found[row] = sampled
        return found

    grown, at_once = company(replace(wanted(1, rows), totals=asked)), company(wanted(asked[-1], rows))
    assert grown == at_once
    assert sorted(grown) == list(range(asked[-1]))


def test_the_manifest_survives_its_file() -> None:
    manifest = replace(wanted(45), shards=((0, 20, 999, "ab" * 8), (20, 20, 5, "cd" * 8)), pairs_per_second=12.5)
    assert Manifest.from_json(manifest.to_json(), "m") == manifest
    with pytest.raises(DataError, match=r"m.json: not a manifest"):
        Manifest.from_json(b'{"schema_version": 1}', "m.json")
    with pytest.raises(DataError, match="schema version 9"):
        Manifest.from_json(manifest.to_json().replace(b'"schema_version": 1', b'"schema_version": 9'), "m.json")


def test_ten_thousand_shards_make_a_small_manifest() -> None:
    many = tuple((500 * i, 500, 4_000_000 + i, "0123456789abcdef") for i in range(10_000))
    assert len(replace(wanted(5_000_000, 500), shards=many).to_json()) < 500_000


def test_only_missing_shards_are_planned(tmp_path: Path) -> None:
    first = plan(str(tmp_path), wanted(95), "resume")
    assert [s.first_row for s in first.pending] == [0, 20, 40, 60, 80] and first.pending[-1].rows == 15
    commit(tmp_path, first.pending[1])
    Path(first.pending[2].pairs_uri(str(tmp_path))).write_text("written, but its statistics are not")
    Path(first.pending[3].stats_uri(str(tmp_path))).write_text("the shard was deleted")
    again = plan(str(tmp_path), wanted(95), "resume")
    assert [s.first_row for s in again.pending] == [0, 40, 60, 80]
    assert [s.first_row for s in again.committed] == [20]
    assert LabelSpace.load(tmp_path / "labels.json") == LABELS


def test_planning_lists_once_and_opens_no_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for shard in plan(str(tmp_path), wanted(2000), "resume").pending:
        commit(tmp_path, shard)
    listed, read = [], []
    real_list, real_read = shards.list_files, shards.read_bytes
    monkeypatch.setattr(shards, "list_files", lambda *a: listed.append(a) or real_list(*a))
    monkeypatch.setattr(shards, "read_bytes", lambda uri: read.append(uri) or real_read(uri))
    assert plan(str(tmp_path), wanted(2000), "resume").pending == ()
    assert len(listed) == 2 and read == [str(tmp_path / "manifest.json")]


@pytest.mark.parametrize(
    ("other", "key"),
    [
        (wanted(95, sampler="xyz"), "sampler: 'abc' -> 'xyz'"),
        (wanted(95, batch_size=9), "batch_size: 8 -> 9"),
        (wanted(95, 21), "rows_per_shard: 20 -> 21"),
        (replace(wanted(95), resolution=32), "resolution: 16 -> 32"),
        (replace(wanted(95), labels=LabelSpace(("background",))), "labels: "),
        (wanted(96), "num_pairs=95, asked for 96"),
        (wanted(94), "num_pairs=95, asked for 94"),
    ],
)
def test_another_set_in_the_same_place_is_refused(tmp_path: Path, other: Manifest, key: str) -> None:
    plan(str(tmp_path), wanted(95), "resume")
    before = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(FingerprintError) as caught:
        plan(str(tmp_path), other, "resume")
    assert key in str(caught.value) and str(tmp_path) in str(caught.value)
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_extending_keeps_what_is_there(tmp_path: Path) -> None:
    for shard in plan(str(tmp_path), wanted(50), "resume").pending:
        commit(tmp_path, shard)
    longer = plan(str(tmp_path), wanted(90), "extend")
    assert [(s.first_row, s.rows) for s in longer.pending] == [(50, 10), (60, 20), (80, 10)]
    assert longer.manifest.totals == (50, 90)
    # The extension itself can be resumed, by either word.
    for mode in ("resume", "extend"):
        assert plan(str(tmp_path), wanted(90), mode).pending == longer.pending
    with pytest.raises(FingerprintError, match="mode=overwrite starts anew"):
        plan(str(tmp_path), wanted(50), "extend")


def test_overwriting_deletes_its_own_files_only(tmp_path: Path) -> None:
    for shard in plan(str(tmp_path), wanted(50), "resume").pending:
        commit(tmp_path, shard)
    (tmp_path / "pairs/mine.txt").write_text("keep")
    anew = plan(str(tmp_path), wanted(30, sampler="xyz"), "overwrite")
    assert len(anew.pending) == 2 and not anew.committed
    assert sorted(p.name for p in tmp_path.rglob("*.*")) == ["labels.json", "manifest.json", "mine.txt"]


def test_shards_without_a_manifest_are_not_taken_over(tmp_path: Path) -> None:
    commit(tmp_path, Shard(0, 20))
    with pytest.raises(DataError, match="holds shards but no manifest"):
        plan(str(tmp_path), wanted(50), "resume")


@pytest.mark.s3
def test_planning_on_s3(s3_place: str) -> None:
    from raygseg.data import object_store

    first = plan(s3_place, wanted(50), "resume")
    for uri in (first.pending[1].pairs_uri(s3_place), first.pending[1].stats_uri(s3_place)):
        object_store.write_bytes(uri, b"{}")
    assert [s.first_row for s in plan(s3_place, wanted(50), "resume").pending] == [0, 40]
    assert json.loads(object_store.read_bytes(f"{s3_place}/manifest.json"))["num_pairs"] == 50


scores = st.lists(
    st.one_of(st.floats(-10, 10, width=32), st.floats(0, 2**-20, width=32), st.just(0.0)), min_size=1, max_size=200
)


@given(scores, st.floats(0, 1))
def test_the_cut_leaves_out_at_most_the_share_and_only_the_least_certain(values: list[float], share: float) -> None:
    array = np.array(values, dtype=np.float32)
    threshold = ScoreHistogram.of(array).cut(share)
    out = array > threshold
    assert out.mean() <= share + 1e-6
    if out.any() and not out.all():
        assert array[out].min() > array[~out].max()
    if share == 0:
        assert not out.any()


@given(scores, scores)
def test_histograms_add_up(first: list[float], second: list[float]) -> None:
    a, b = (np.array(v, dtype=np.float32) for v in (first, second))
    together = ScoreHistogram.of(a)
    together.add(ScoreHistogram.of(b))
    assert together.counts == ScoreHistogram.of(np.concatenate([a, b])).counts


def test_cuts_and_quantiles_are_close_to_the_exact_ones() -> None:
    values = np.random.default_rng(0).gamma(2.0, 0.01, 20_000).astype(np.float32)
    histogram = ScoreHistogram.of(values)
    for share in (0.05, 0.1, 0.5):
        assert abs((values > histogram.cut(share)).mean() - share) < 0.01
        assert histogram.quantile(1 - share) == pytest.approx(np.quantile(values, 1 - share), rel=0.01)
