"""The folder of labelled samples: what is read, and what is said about each thing that is wrong."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raygseg.errors import DataError
from raygseg.methods.repurposegan.samples import read_samples


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "labels.json").write_text(json.dumps({"classes": ["background", "body", "wheel"], "void": 255}))
    (tmp_path / "samples.json").write_text(json.dumps({"truncation_psi": 0.7}))
    for seed in (12, 7):
        mask = np.zeros((8, 8), np.uint8)
        mask[:4], mask[0, 0] = 1, 255
        mask[-1, : seed - 4] = 2
        save(tmp_path / f"masks/{seed}.png", mask)
        save(tmp_path / f"images/{seed}.png", np.zeros((8, 8, 3), np.uint8))
    return tmp_path


def test_reads_seeds_in_order_with_their_masks(folder: Path) -> None:
    samples = read_samples(str(folder))
    assert samples.seeds == (7, 12)
    assert samples.truncation_psi == 0.7
    assert int((samples.masks[0] == 2).sum()) == 3
    assert samples.masks_at(4).shape == (2, 4, 4)
    assert samples.class_shares().sum() == pytest.approx(1.0)  # void counts for no class
    assert samples.class_shares()[1] == pytest.approx(62 / 126)


def test_pictures_and_record_may_be_absent(folder: Path) -> None:
    for picture in (folder / "images").iterdir():
        picture.unlink()
    (folder / "samples.json").unlink()
    assert read_samples(str(folder)).truncation_psi is None


def test_a_class_in_no_mask_is_warned_of(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for seed in (7, 12):
        save(folder / f"masks/{seed}.png", np.ones((8, 8), np.uint8))
    with caplog.at_level(logging.WARNING):
        samples = read_samples(str(folder))
    assert samples.absent == ["background", "wheel"]
    assert "background, wheel" in caplog.text


def test_faults_name_the_file(folder: Path) -> None:
    def fails(match: str) -> None:
        with pytest.raises(DataError, match=match):
            read_samples(str(folder))

    mask = folder / "masks/7.png"
    good = mask.read_bytes()
    save(mask, np.full((8, 8), 3, np.uint8))
    fails(r"7\.png: class index 3 is out of range")
    save(mask, np.zeros((9, 8), np.uint8))
    fails(r"7\.png: the mask is 8x9, its picture 8x8")
    save(mask, np.zeros((8, 8, 3), np.uint8))
    fails(r"7\.png: mask holds colours")
    mask.write_bytes(good[: len(good) // 2])
    fails(r"7\.png: mask cannot be decoded")
    mask.unlink()
    fails(r"1 pictures have no mask, e\.g\. images/7\.png")
    mask.write_bytes(good)
    (folder / "masks/notes.png").write_bytes(good)
    fails(r"notes\.png: the name is not a seed")
    (folder / "masks/notes.png").unlink()
    (folder / "labels.json").write_text("{")
    fails(r"labels\.json: not JSON")
    (folder / "labels.json").unlink()
    fails(r"labels\.json: not found")


def test_no_masks_at_all(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text('{"classes": ["a"]}')
    with pytest.raises(DataError, match="no masks in masks/"):
        read_samples(str(tmp_path))
