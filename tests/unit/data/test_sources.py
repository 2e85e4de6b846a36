from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from raygseg.data import sources
from raygseg.data.picture_files import encode_png
from raygseg.data.sources import data_fingerprint, open_labelled, open_pictures
from raygseg.errors import DataError

CLASSES = ["background", "left_arm", "right_arm", "head"]


def _write_set(folder: Path, count: int = 12, size: int = 24) -> Path:
    """A labelled set whose picture i is grey 10 i and whose mask holds class i mod 4."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for i in range(count):
        (folder / f"images/p{i:02d}.png").write_bytes(encode_png(np.full((size, size, 3), 10 * i, np.uint8)))
        (folder / f"masks/p{i:02d}.png").write_bytes(encode_png(np.full((size, size), i % 4, np.uint8)))
    (folder / "labels.json").write_text(json.dumps({"classes": CLASSES}))
    return folder


def test_a_labelled_folder_reads_in_name_order(tmp_path: Path) -> None:
    data = open_labelled(str(_write_set(tmp_path / "set")), 16)
    assert data.names == [f"p{i:02d}.png" for i in range(12)]
    for i in (0, 5, 11):
        picture, class_map = data.read(i)
        assert picture.shape == (16, 16, 3) and (picture == 10 * i).all()
        assert class_map.shape == (16, 16) and (class_map == i % 4).all()
    assert data.labels.names == tuple(CLASSES)
    assert data.labels.swaps == ((1, 2),)  # names that differ in left and right only
    assert open_labelled(str(tmp_path / "set"), None).read(0)[1].shape == (24, 24)


def test_pictures_anywhere_below_but_no_masks(tmp_path: Path) -> None:
    folder = _write_set(tmp_path / "set")
    (folder / "more/deep").mkdir(parents=True)
    (folder / "more/deep/x.PNG").write_bytes(encode_png(np.full((8, 30, 3), 77, np.uint8)))
    (folder / "notes.txt").write_text("no picture")
    data = open_pictures(str(folder), 16)
    assert len(data) == 13 and data.names[-1] == "more/deep/x.PNG"
    assert data.as_array().shape == (13, 16, 16, 3) and data.nbytes == 13 * 16 * 16 * 3
    assert (data.read(12) == 77).all()
    assert len(open_pictures(str(folder), 16, limit=5)) == 5


def test_bad_files_are_counted_listed_and_skipped(tmp_path: Path) -> None:
    folder = _write_set(tmp_path / "set", 20)
    image = (folder / "images/p03.png").read_bytes()
    (folder / "images/p03.png").write_bytes(image[: len(image) // 2])
    (folder / "masks/p05.png").write_bytes(encode_png(np.zeros((10, 24), np.uint8)))
    (folder / "masks/p07.png").write_bytes(encode_png(np.full((24, 24), 9, np.uint8)))
    (folder / "masks/p09.png").unlink()
    calls: list[tuple[int, int]] = []
    data = open_labelled(str(folder), 16, max_bad_fraction=0.2, progress=lambda *at: calls.append(at))
    assert len(data) == 16 and not {"p03.png", "p05.png", "p07.png", "p09.png"} & set(data.names)
    assert (data.read(3)[0] == 40).all()  # positions close up
    assert data.report.counts == {
        "cannot be decoded": 1, "mask of another size": 1, "class index out of range": 1, "mask is missing": 1,
    }  # fmt: skip
    assert calls[-1] == (20, 20)
    data.report.write_csv(tmp_path / "bad.csv")
    rows = list(csv.reader((tmp_path / "bad.csv").open()))
    assert [r[0] for r in rows] == ["name", "p03.png", "p05.png", "p07.png", "p09.png"]
    assert "mask 24x10, picture 24x24" in rows[2][1] and "class index 9" in rows[3][1]
    assert len(open_pictures(str(folder / "images"), 16)) == 19


def test_too_many_bad_files_are_an_error_naming_three(tmp_path: Path) -> None:
    folder = _write_set(tmp_path / "set", 20)
    for i in (1, 2, 3, 4):
        (folder / f"masks/p{i:02d}.png").unlink()
    with pytest.raises(DataError, match=r"4 of 20 files cannot be used.*p01.png.*p02.png.*p03.png") as caught:
        open_labelled(str(folder), 16)
    assert "p04" not in str(caught.value) and "max_bad_fraction" in caught.value.hint


def test_splits_are_found_by_name_path_and_parent(tmp_path: Path) -> None:
    folder = _write_set(tmp_path / "front")
    names = {"train": ["p00", "p01"], "test": ["p02.png"]}
    (tmp_path / "splits.json").write_text(json.dumps({"front": names, "side": {"test": ["q"]}, "rest": ["p05"]}))
    assert open_labelled(f"{folder}?split=train", 8).names == ["p00.png", "p01.png"]
    assert open_labelled(f"{folder}?split=test", 8).names == ["p02.png"]
    assert open_labelled(f"{folder}?split=front/test", 8).names == ["p02.png"]
    assert open_pictures(f"{folder}?split=rest", 8).names == ["images/p05.png"]
    with pytest.raises(DataError, match="no split 'val'") as caught:
        open_labelled(f"{folder}?split=val", 8)
    assert "front/train" in caught.value.hint
    with pytest.raises(DataError, match="no file of split 'side/test'"):
        open_labelled(f"{folder}?split=side/test", 8)


def test_coarse_classes_merge_indices_names_and_swaps(tmp_path: Path) -> None:
    folder = _write_set(tmp_path / "set")
    (folder / "labels.json").unlink()
    meta = {"classes": CLASSES, "fine_to_coarse": [0, 1, 1, 2], "coarse_classes": ["background", "arm", "head"]}
    (tmp_path / "meta.json").write_text(json.dumps({**meta, "ignore_index": 255}))
    data = open_labelled(f"{folder}?coarse=1", 8)
    assert data.labels.names == ("background", "arm", "head")
    assert data.labels.swaps == () and data.labels.void == 255
    assert [int(data.read(i)[1][0, 0]) for i in range(4)] == [0, 1, 1, 2]
    (tmp_path / "meta.json").write_text(json.dumps({**meta, "fine_to_coarse": [0, 1]}))
    with pytest.raises(DataError, match="fine_to_coarse does not fit"):
        open_labelled(f"{folder}?coarse=1", 8)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "nowhere: no such folder"),
        ("x.parquet", "x.parquet: no such file"),
        ("toy://default?count=0", "count must be at least 1"),
        ("toy://default?cuont=5", "unknown key 'cuont'"),
        ("toy://plaid", "no such style"),
        ("toy://default?seed=x", "seed=x is not a whole number"),
        ("", "source of pictures is empty"),
    ],
)
def test_wrong_sources_are_named(source: str, message: str) -> None:
    with pytest.raises(DataError, match=message.replace("?", r"\?")) as caught:
        open_labelled(source, 16)
    assert caught.value.hint


def test_the_folder_above_a_set_is_told_where_the_set_is(tmp_path: Path) -> None:
    _write_set(tmp_path / "faces/front")
    with pytest.raises(DataError, match="no images/ and masks/") as caught:
        open_labelled(str(tmp_path / "faces"), 16)
    assert str(tmp_path / "faces/front") in caught.value.hint


def test_labels_must_be_there_and_sound(tmp_path: Path) -> None:
    folder = _write_set(tmp_path / "a/set")
    (folder / "labels.json").write_text("{")
    with pytest.raises(DataError, match=r"labels.json: not JSON"):
        open_labelled(str(folder), 8)
    (folder / "labels.json").unlink()
    with pytest.raises(DataError, match=r"no labels.json"):
        open_labelled(str(folder), 8)


def test_toy_pictures_are_the_ones_of_their_index() -> None:
    whole = open_labelled("toy://default?count=6&seed=3", 16)
    part = open_labelled("toy://default?count=2&seed=3&start=4", 16)
    assert part.names == whole.names[4:]
    for i in range(2):
        for mine, theirs in zip(part.read(i), whole.read(4 + i), strict=True):
            assert np.array_equal(mine, theirs)
    assert data_fingerprint(part) != data_fingerprint(whole)
    assert data_fingerprint(whole) == data_fingerprint(open_labelled("toy://default?count=6&seed=3", 16))


def test_parquet_with_structs_or_bytes_reads_like_the_folder(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    folder = _write_set(tmp_path / "set")
    images = [(folder / f"images/p{i:02d}.png").read_bytes() for i in range(12)]
    masks = [(folder / f"masks/p{i:02d}.png").read_bytes() for i in range(12)]
    table = tmp_path / "table"
    table.mkdir()
    (table / "labels.json").write_text(json.dumps({"classes": CLASSES}))
    structs = [{"bytes": b, "path": None} for b in images[:6]]
    parquet.write_table(pa.table({"image": structs, "mask": masks[:6]}), table / "a.parquet", row_group_size=4)
    parquet.write_table(pa.table({"image": images[6:], "mask": masks[6:]}), table / "b.parquet")
    data, reference = open_labelled(str(table), 16), open_labelled(str(folder), 16)
    assert data.names[7] == "b.parquet#1"
    for i in range(12):
        assert np.array_equal(data.read(i)[0], reference.read(i)[0])
        assert np.array_equal(data.read(i)[1], reference.read(i)[1])
    assert len(open_pictures(str(table / "a.parquet"), 16)) == 6
    with pytest.raises(DataError, match="no column 'image'"):
        parquet.write_table(pa.table({"picture": images}), tmp_path / "c.parquet")
        open_pictures(str(tmp_path / "c.parquet"), 16)
    (tmp_path / "d.parquet").write_bytes((table / "a.parquet").read_bytes()[:-30])
    with pytest.raises(DataError, match=r"d.parquet: not a Parquet file"):
        open_pictures(str(tmp_path / "d.parquet"), 16)


def test_parquet_drops_the_longest_unused_group_past_its_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    from raygseg.data import parquet_rows

    images = [encode_png(np.full((8, 8, 3), i, np.uint8)) for i in range(40)]
    parquet.write_table(pa.table({"image": images}), tmp_path / "t.parquet", row_group_size=4)
    monkeypatch.setattr(parquet_rows, "ENCODED_LIMIT", 2000)
    rows = parquet_rows.ParquetRows([str(tmp_path / "t.parquet")])
    order = np.random.default_rng(0).permutation(40)
    assert [int(rows.picture(i, None)[0, 0, 0]) for i in order] == order.tolist()
    assert rows._kept_bytes <= 2000 and 1 <= len(rows._kept) < 10


@pytest.mark.s3
def test_folders_and_tables_on_s3(tmp_path: Path, s3_place: str) -> None:
    from raygseg.data import object_store

    folder = _write_set(tmp_path / "set", 6)
    for file in folder.rglob("*.*"):
        object_store.write_bytes(f"{s3_place}/set/{file.relative_to(folder)}", file.read_bytes())
    data = open_labelled(f"{s3_place}/set", 16)
    assert data.names == [f"p{i:02d}.png" for i in range(6)]
    assert (data.read(5)[0] == 50).all() and (data.read(5)[1] == 1).all()
    assert data_fingerprint(data) == data_fingerprint(open_labelled(str(folder), 16))


def test_the_fingerprint_sees_content_not_place(tmp_path: Path) -> None:
    first = open_labelled(str(_write_set(tmp_path / "a")), 16)
    second = open_labelled(str(_write_set(tmp_path / "b")), 16)
    assert data_fingerprint(first) == data_fingerprint(second)
    assert data_fingerprint(first) != data_fingerprint(open_labelled(str(tmp_path / "b"), 8))
    assert data_fingerprint(first) != data_fingerprint(first.subset([0, 1, 2]))
    assert data_fingerprint(first) != data_fingerprint(open_pictures(str(tmp_path / "a"), 16))


def test_a_set_too_large_for_the_cache_decodes_on_demand(tmp_path: Path) -> None:
    folder = str(_write_set(tmp_path / "set"))
    small, large = open_pictures(folder, 16, cache_limit=100), open_pictures(folder, 16)
    assert np.array_equal(small.as_array(), large.as_array())
    with pytest.raises(DataError, match="9,216 bytes, more than 9,000"):
        large.as_array(limit=9000)


def test_what_is_read_is_the_callers_own(tmp_path: Path) -> None:
    data = open_labelled(str(_write_set(tmp_path / "set")), 16)
    picture, class_map = data.read(1)
    picture[:], class_map[:] = 0, 3
    assert (data.read(1)[0] == 10).all() and (data.read(1)[1] == 1).all()


def test_real_sets_open(real_data: Path) -> None:
    faces = open_labelled(f"{real_data}/faces/frontal?split=test", 64)
    assert len(faces) == 15 and faces.labels.num_classes == 6
    cars = open_labelled(f"{real_data}/cars?split=test&coarse=1", None, limit=5)
    assert len(cars) == 5 and cars.labels.names[6] == "mirror" and cars.read(0)[0].shape == (256, 256, 3)
    nuclei = open_labelled(f"{real_data}/nuclei?split=in_domain/val", 32, limit=4)
    assert set(np.unique(nuclei.read(0)[1])) == {0, 1}
    assert sources.open_pictures(f"{real_data}/cars?split=unlabelled", 32, limit=3).names[0].startswith("unlabelled/")
