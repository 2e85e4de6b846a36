"""Stretched pictures: the whole range, once for all, also below a loaded segmenter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raygseg.data.contrast import stretched
from raygseg.data.sources import data_fingerprint, open_labelled, open_pictures
from raygseg.errors import DataError


def dark(seed: int = 0, high: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, high, (24, 24, 3)).astype(np.uint8)


def test_a_dark_picture_fills_the_range_and_stays_so() -> None:
    bright = stretched(dark())
    assert bright.dtype == np.uint8 and bright.min() == 0 and bright.max() == 255
    assert np.abs(stretched(bright).astype(int) - bright).max() <= 1
    order = np.argsort(dark().ravel(), kind="stable")
    assert (np.diff(bright.ravel()[order].astype(int)) >= 0).all(), "brighter stays brighter"


def test_an_empty_field_is_not_blown_up_to_noise() -> None:
    field = np.full((16, 16, 3), 5, dtype=np.uint8)
    field[4, 4] = 7
    assert stretched(field).max() <= 255 * 3 / 8


@pytest.fixture
def folder(tmp_path: Path) -> str:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    (tmp_path / "labels.json").write_text('{"classes": ["background", "nucleus"]}')
    for number in range(2):
        Image.fromarray(dark(number)).save(tmp_path / "images" / f"{number}.png")
        Image.fromarray(np.eye(24, dtype=np.uint8)).save(tmp_path / "masks" / f"{number}.png")
    return str(tmp_path)


def test_a_source_says_so(folder: str) -> None:
    plain, bright = open_pictures(folder, 24), open_pictures(f"{folder}?contrast=stretch", 24)
    assert np.array_equal(bright.read(1), stretched(plain.read(1)))
    assert data_fingerprint(plain) != data_fingerprint(bright)
    picture, mask = open_labelled(f"{folder}?contrast=stretch", None).read(0)
    assert picture.max() == 255 and np.array_equal(mask, np.eye(24))
    with pytest.raises(DataError, match="contrast=more is not known"):
        open_pictures(f"{folder}?contrast=more", 24)


def test_parquet_too_with_its_blocks(tmp_path: Path) -> None:
    import io

    import pyarrow as pa
    from pyarrow import parquet

    cells = []
    for number in range(4):
        buffer = io.BytesIO()
        Image.fromarray(dark(number)).save(buffer, "PNG")
        cells.append(buffer.getvalue())
    parquet.write_table(pa.table({"image": cells}), tmp_path / "p.parquet", row_group_size=2)
    found = open_pictures(f"{tmp_path}/p.parquet?contrast=stretch", 24)
    assert np.array_equal(found.read(2), stretched(dark(2)))
    blocks, _ = found.blocks(0)
    assert [block.tolist() for block in blocks] == [[0, 1], [2, 3]]
