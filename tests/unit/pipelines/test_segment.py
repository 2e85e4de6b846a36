"""`segment` in this process: odd pictures, corrupt ones, resuming, collisions, Parquet."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet
from torch import Tensor

from raygseg.errors import DataError, FingerprintError, StorageError
from raygseg.interfaces import Picture, Segmentation
from raygseg.labels import LabelSpace
from raygseg.pipelines.segment import segment

LABELS = LabelSpace(("background", "red", "green", "blue"), ((0, 0, 0), (250, 10, 10), (10, 250, 10), (10, 10, 250)))


@dataclass
class ColourSegmenter:
    """The strongest channel is the part where colours are strong. Fails on pictures wider than `widest`."""

    labels: LabelSpace = LABELS
    resolution: int = 16
    widest: int = 10_000
    predicted: int = 0

    def predict(self, pictures: Sequence[Picture]) -> list[Segmentation]:
        if any(p.shape[1] > self.widest for p in pictures):
            raise RuntimeError("out of memory")
        self.predicted += len(pictures)
        return [self.one(p) for p in pictures]

    def one(self, picture: Picture) -> Segmentation:
        spread = picture.max(-1).astype(int) - picture.min(-1)
        chosen = np.where(spread > 64, picture.argmax(-1) + 1, 0).astype(np.uint8)
        return Segmentation(chosen, np.full(chosen.shape, 204, np.uint8))

    def probabilities(self, images: Tensor) -> Tensor:
        raise NotImplementedError


def blocks(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Quarters of grey, red, green and blue with a little noise."""
    rng = np.random.default_rng(seed)
    colours = np.array([(60, 60, 60), (220, 30, 30), (30, 220, 30), (30, 30, 220)])
    rows, columns = np.mgrid[:height, :width]
    picture = colours[2 * (rows * 2 // max(1, height)) + columns * 2 // max(1, width)]
    return np.clip(picture + rng.integers(-9, 10, picture.shape), 0, 255).astype(np.uint8)


def rows_of(output: Path) -> dict[str, dict[str, str]]:
    with (output / "segments.csv").open(newline="") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def save(path: Path, picture: NDArray[np.uint8], **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, **options)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    save(folder / "plain.png", blocks(20, 30))
    save(folder / "dot.png", blocks(1, 1))
    save(folder / "deep" / "er" / "tall.png", blocks(3000, 7))
    save(folder / "grey.png", blocks(12, 12).mean(-1).astype(np.uint8))
    save(folder / "alpha.png", np.dstack([blocks(10, 14), np.full((10, 14), 255, np.uint8)]))
    save(folder / "photo.jpg", blocks(64, 48), quality=95)
    (folder / "torn.jpg").write_bytes((folder / "photo.jpg").read_bytes()[:300])
    (folder / "empty.png").write_bytes(b"")
    (folder / "notes.txt").write_text("not a picture")
    return folder


def test_masks_are_the_answers_at_the_pictures_size(photos: Path, tmp_path: Path) -> None:
    segmenter = ColourSegmenter()
    result = segment("fake", str(photos), str(tmp_path / "out"), segmenter=segmenter)
    assert (result.pictures, result.segmented, result.skipped, result.done_before) == (8, 6, 2, 0)
    assert result.ignored == {".txt": 1}
    for name in ("plain", "dot", "deep/er/tall", "alpha"):
        mask = Image.open(tmp_path / "out" / "masks" / f"{name}.png")
        picture = np.asarray(Image.open(photos / f"{name}.png").convert("RGB"))
        assert mask.mode == "P"
        assert mask.getpalette()[:12] == [c for colour in LABELS.palette for c in colour]
        np.testing.assert_array_equal(np.asarray(mask), segmenter.one(picture).label_map)
        drawn = Image.open(tmp_path / "out" / "overlays" / f"{name}.jpg")
        assert drawn.size == mask.size == picture.shape[1::-1]
    assert not np.asarray(Image.open(tmp_path / "out" / "masks" / "grey.png")).any()


def test_the_table_has_a_line_a_picture_with_shares_and_reasons(photos: Path, tmp_path: Path) -> None:
    result = segment("fake", str(photos), str(tmp_path / "out"), segmenter=ColourSegmenter())
    rows = rows_of(tmp_path / "out")
    assert len(rows) == 8
    tall = rows["deep/er/tall.png"]
    assert (tall["width"], tall["height"], tall["status"]) == ("7", "3000", "ok")
    assert tall["mask"] == "masks/deep/er/tall.png"
    assert float(tall["confidence"]) == pytest.approx(0.8, abs=1e-4)
    mask = np.asarray(Image.open(tmp_path / "out" / tall["mask"]))
    for index, name in enumerate(LABELS.names):
        assert float(tall[f"share {name}"]) == pytest.approx((mask == index).mean(), abs=1e-6)
    for name in ("torn.jpg", "empty.png"):
        assert rows[name]["status"] == "skipped" and "cannot be decoded" in rows[name]["reason"]
        assert rows[name]["mask"] == "" and rows[name]["share red"] == ""
        assert not (tmp_path / "out" / "masks" / name).with_suffix(".png").exists()
    assert sorted(reason.split(":")[0] for reason in result.reasons) == ["empty.png", "torn.jpg"]


def test_a_second_run_does_only_what_is_missing(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    segment("fake", str(photos), str(out), segmenter=ColourSegmenter())
    table = (out / "segments.csv").read_text()
    again = ColourSegmenter()
    assert segment("fake", str(photos), str(out), segmenter=again).segmented == 0
    assert again.predicted == 0
    # A killed run: a torn last line and a lost mask; meanwhile one picture was mended and one added.
    lines = table.splitlines(keepends=True)
    dropped = next(line for line in lines if line.startswith("plain.png"))
    (out / "segments.csv").write_text("".join(line for line in lines if line != dropped) + dropped[:-3])
    (out / "masks" / "dot.png").unlink()
    save(photos / "torn.jpg", blocks(8, 8))
    save(photos / "new.png", blocks(9, 9))
    third = ColourSegmenter()
    result = segment("fake", str(photos), str(out), segmenter=third)
    assert third.predicted == result.segmented == 4
    assert (result.done_before, result.skipped) == (4, 1)
    rows = rows_of(out)
    assert len(rows) == 9 == len((out / "segments.csv").read_text().splitlines()) - 1
    assert {n for n, r in rows.items() if r["status"] == "ok"} == set(rows) - {"empty.png"}


def test_overlays_asked_for_later_are_drawn(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    segment("fake", str(photos), str(out), overlays=False, segmenter=ColourSegmenter())
    assert not (out / "overlays").exists()
    segment("fake", str(photos), str(out), overlays=True, segmenter=ColourSegmenter())
    assert (out / "overlays" / "plain.jpg").exists()


def test_another_model_in_the_same_place_is_refused(photos: Path, tmp_path: Path) -> None:
    segment("first", str(photos), str(tmp_path / "out"), segmenter=ColourSegmenter())
    with pytest.raises(FingerprintError, match="made by first"):
        other = ColourSegmenter(labels=LabelSpace(("background", "door")))
        segment("second", str(photos), str(tmp_path / "out"), segmenter=other)


def test_names_that_differ_only_in_their_suffix_keep_it(tmp_path: Path) -> None:
    for name in ("a.png", "a.bmp", "b.png", "a.png.png"):
        save(tmp_path / "in" / name, blocks(6, 8, seed=len(name)))
    segment("fake", str(tmp_path / "in"), str(tmp_path / "out"), segmenter=ColourSegmenter())
    masks = {row["mask"] for row in rows_of(tmp_path / "out").values()}
    assert len(masks) == 4 and "masks/b.png" in masks and "masks/a.bmp.png" in masks
    assert {f"masks/{p.name}" for p in (tmp_path / "out" / "masks").iterdir()} == masks


def test_a_single_file_and_an_output_inside_the_input(tmp_path: Path) -> None:
    save(tmp_path / "in" / "one.png", blocks(6, 8))
    single = segment("fake", str(tmp_path / "in" / "one.png"), str(tmp_path / "parts"), segmenter=ColourSegmenter())
    assert single.segmented == 1 and (tmp_path / "parts" / "masks" / "one.png").exists()
    inside = str(tmp_path / "in" / "parts")
    assert segment("fake", str(tmp_path / "in"), inside, segmenter=ColourSegmenter()).pictures == 1
    again = segment("fake", str(tmp_path / "in"), inside, segmenter=ColourSegmenter())
    assert (again.pictures, again.done_before) == (1, 1)


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "in" / "turned.jpg", blocks(20, 40), exif=exif, quality=95)
    segment("fake", str(tmp_path / "in"), str(tmp_path / "out"), segmenter=ColourSegmenter())
    assert Image.open(tmp_path / "out" / "masks" / "turned.png").size == (20, 40)


def test_a_picture_on_which_the_model_fails_does_not_stop_the_others(photos: Path, tmp_path: Path) -> None:
    result = segment("fake", str(photos), str(tmp_path / "out"), segmenter=ColourSegmenter(widest=40))
    assert (result.segmented, result.skipped) == (5, 3)
    row = rows_of(tmp_path / "out")["photo.jpg"]
    assert row["reason"] == "the model failed: RuntimeError: out of memory" and row["width"] == "48"


def test_only_bad_pictures_is_an_error_with_the_table_written(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"none of 1 pictures could be segmented, e\.g\. a\.jpg: cannot be decoded"):
        segment("fake", str(tmp_path / "in"), str(tmp_path / "out"), segmenter=ColourSegmenter())
    assert rows_of(tmp_path / "out")["a.jpg"]["status"] == "skipped"


def textual_table(folder: Path) -> None:
    folder.mkdir()
    parquet.write_table(pa.table({"text": ["a"]}), folder / "a.parquet")


def file_of(name: str, content: bytes) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        folder.mkdir()
        (folder / name).write_bytes(content)

    return make


@pytest.mark.parametrize(("make", "words"), [
    (lambda folder: None, "no such file or folder"),
    (Path.mkdir, "no pictures there"),
    (file_of("a.heic", b"x"), r"it holds 1 \.heic"),
    (file_of("a.parquet", b"PAR0"), "not a Parquet file"),
    (textual_table, "no column 'image'"),
])  # fmt: skip
def test_nothing_to_segment_is_said(tmp_path: Path, make: Callable[[Path], None], words: str) -> None:
    make(tmp_path / "in")
    with pytest.raises(DataError, match=words):
        segment("fake", str(tmp_path / "in"), str(tmp_path / "out"), segmenter=ColourSegmenter())


def encoded(picture: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("struct", [False, True])
def test_parquet_rows_are_segmented_and_resumed(tmp_path: Path, struct: bool) -> None:
    contents: list[bytes | None] = [encoded(blocks(5 + i, 9, seed=i)) for i in range(25)]
    contents[4], contents[13] = b"no picture", None
    cells = [{"bytes": c, "path": "x.png"} for c in contents] if struct else contents
    (tmp_path / "in" / "sub").mkdir(parents=True)
    parquet.write_table(pa.table({"image": cells, "n": range(25)}), tmp_path / "in/sub/part.parquet", row_group_size=10)
    out = tmp_path / "out"
    result = segment("fake", str(tmp_path / "in"), str(out), overlays=False, segmenter=ColourSegmenter())
    assert (result.pictures, result.segmented, result.skipped) == (25, 23, 2)
    rows = rows_of(out)
    assert "missing" in rows["sub/part.parquet#13"]["reason"] and "decoded" in rows["sub/part.parquet#4"]["reason"]
    assert rows["sub/part.parquet#24"]["height"] == "29"
    mask = out / "masks" / "sub" / "part" / "000000024.png"
    expected = ColourSegmenter().one(blocks(29, 9, seed=24)).label_map
    np.testing.assert_array_equal(np.asarray(Image.open(mask)), expected)
    mask.unlink()
    again = ColourSegmenter()
    assert segment("fake", str(tmp_path / "in"), str(out), overlays=False, segmenter=again).done_before == 22
    assert again.predicted == 1 and mask.exists()


def test_batches_are_cut_by_pixels_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raygseg.distributed import segment_worker

    sizes: list[int] = []

    class Counting(ColourSegmenter):
        def predict(self, pictures: Sequence[Picture]) -> list[Segmentation]:
            sizes.append(len(pictures))
            return super().predict(pictures)

    for i in range(7):
        save(tmp_path / "in" / f"{i}.png", blocks(10, 10))
    monkeypatch.setattr(segment_worker, "BATCH_PIXELS", 250)
    segment("fake", str(tmp_path / "in"), str(tmp_path / "out"), batch_size=4, segmenter=Counting())
    assert sizes == [2, 2, 2, 1]


def test_an_output_that_cannot_be_written_is_an_error_not_a_skip(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "masks").write_text("in the way")
    with pytest.raises(StorageError, match="masks"):
        segment("fake", str(photos), str(tmp_path / "out"), overlays=False, segmenter=ColourSegmenter())


def test_file_names_that_are_no_text(tmp_path: Path) -> None:
    name = os.fsdecode(b'in/caf\xe9, "x".png')
    try:
        save(tmp_path / name, blocks(4, 4))
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    out = tmp_path / "out"
    assert segment("fake", str(tmp_path / "in"), str(out), segmenter=ColourSegmenter()).segmented == 1
    assert segment("fake", str(tmp_path / "in"), str(out), segmenter=ColourSegmenter()).done_before == 1


def test_progress_counts_to_the_end(photos: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, float, float]] = []
    segment(
        "fake", str(photos), str(tmp_path / "out"), segmenter=ColourSegmenter(),
        progress=lambda stage, done, total, facts: seen.append((stage, done, total)),
    )  # fmt: skip
    assert seen == [("segment", i + 1, 8) for i in range(8)]
