from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from raygseg.data import object_store as store
from raygseg.errors import StorageError


@pytest.fixture(params=["disk", pytest.param("s3", marks=pytest.mark.s3)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same tests hold on both kinds of place."""
    return str(tmp_path / "place") if request.param == "disk" else str(request.getfixturevalue("s3_place"))


def test_what_is_written_is_read_listed_and_deleted(place: str) -> None:
    names = ["a/one.parquet", "a/two.json", "three.parquet"]
    for name in names:
        store.write_bytes(store.join(place, name), name.encode())
    assert store.read_bytes(store.join(place, "a/one.parquet")) == b"a/one.parquet"
    assert [e.name for e in store.list_files(place)] == sorted(names)
    assert store.list_files(place, ".json") == [("a/two.json", len("a/two.json"))]
    assert store.exists(store.join(place, "three.parquet"))
    assert not store.exists(store.join(place, "a"))
    store.delete(store.join(place, "three.parquet"))
    store.delete(store.join(place, "three.parquet"))
    assert not store.exists(store.join(place, "three.parquet"))


def test_write_replaces_and_put_if_absent_does_not(place: str) -> None:
    uri = store.join(place, "file")
    assert store.put_if_absent(uri, b"first")
    assert not store.put_if_absent(uri, b"second")
    assert store.read_bytes(uri) == b"first"
    store.write_bytes(uri, b"third")
    assert store.read_bytes(uri) == b"third"


def test_of_many_writers_one_wins_and_the_file_is_whole(place: str) -> None:
    uri = store.join(place, "contested")
    contents = [bytes([i]) * 20_000 for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda c: store.put_if_absent(uri, c), contents))
    assert sum(won) == 1
    assert store.read_bytes(uri) == contents[won.index(True)]


def test_a_place_that_does_not_exist_lists_empty_and_reads_as_not_found(place: str) -> None:
    assert store.list_files(store.join(place, "nothing")) == []
    with pytest.raises(StorageError, match="nothing: not found") as caught:
        store.read_bytes(store.join(place, "nothing"))
    assert caught.value.hint


def test_arrow_reads_what_the_store_wrote(place: str) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table({"seed": [1, 2, 3]}), sink)
    store.write_bytes(store.join(place, "t.parquet"), sink.getvalue().to_pybytes())
    system, path = store.filesystem(store.join(place, "t.parquet"))
    assert parquet.read_table(path, filesystem=system).column("seed").to_pylist() == [1, 2, 3]


@pytest.mark.s3
def test_s3_errors_name_endpoint_and_cause(s3_place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match=os.environ["AWS_ENDPOINT_URL"]) as caught:
        store.list_files("s3://no-such-bucket-here/pairs")
    assert "bucket does not exist" in str(caught.value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match=r"secret key is wrong|keys are wrong"):
        store.put_if_absent(f"{s3_place}/key", b"x")
    with pytest.raises(StorageError, match="no bucket"):
        store.read_bytes("s3://")


def test_an_endpoint_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StorageError, match=r"127\.0\.0\.1:9") as caught:
        store.read_bytes("s3://lab/key")
    assert "nothing answers there" in caught.value.hint


def test_a_full_disk_is_named_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    for write in (store.write_bytes, store.put_if_absent):
        with pytest.raises(StorageError, match="No space left") as caught:
            write(str(tmp_path / "shard"), b"x" * 100)
        assert "disk is full" in caught.value.hint
        assert str(tmp_path / "shard") in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_put_if_absent_works_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(source: object, target: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    assert store.put_if_absent(str(tmp_path / "f"), b"one")
    assert not store.put_if_absent(str(tmp_path / "f"), b"two")
    assert (tmp_path / "f").read_bytes() == b"one"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_leftovers_of_killed_writers_are_hidden_and_removed(tmp_path: Path) -> None:
    store.write_bytes(str(tmp_path / "pairs" / "whole"), b"x")
    (tmp_path / "pairs" / ".half.123-ab.tmp").write_bytes(b"x")
    assert [e.name for e in store.list_files(str(tmp_path))] == ["pairs/whole"]
    assert store.delete_temporaries(str(tmp_path)) == 1
    assert [p.name for p in (tmp_path / "pairs").iterdir()] == ["whole"]
