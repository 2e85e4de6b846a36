"""Alignment of labelled faces, and the folder that `train head` reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from raygseg.data.sources import open_labelled
from raygseg.errors import DataError
from raygseg.methods.repurposegan.samples import read_samples
from raygseg.nn.framing import Framing, Square, mean_framing, view
from raygseg.nn.projection import Projection
from raygseg.pipelines.project import (
    VOID,
    AlignedPhotos,
    align_photos,
    face_square,
    write_projected_samples,
)

EYES, MOUTH = 1, 2


def face(eyes: tuple[tuple[int, int], tuple[int, int]], mouth: tuple[int, int], side: int = 200) -> np.ndarray:
    """A mask with 5 x 5 px parts centred at (column, row)."""
    mask = np.zeros((side, side), np.uint8)
    for value, (column, row) in ((EYES, eyes[0]), (EYES, eyes[1]), (MOUTH, mouth)):
        mask[row - 2 : row + 3, column - 2 : column + 3] = value
    return mask


UPRIGHT = face(((80, 90), (120, 90)), (100, 130))


def test_an_upright_face_gives_ffhqs_square() -> None:
    square = face_square(UPRIGHT, EYES, MOUTH)
    assert square.centre == pytest.approx((100.5, 94.5))  # eyes' middle + 0.1 of the way to the mouth
    assert square.x == pytest.approx((80, 0))  # max(2 * 40, 1.8 * 40)
    assert square.inside(square.centre) == pytest.approx((0, 0))
    assert square.inside((100.5 + 80, 94.5 - 80)) == pytest.approx((1, -1))


def test_a_turned_face_turns_the_square() -> None:
    turned = np.rot90(UPRIGHT, k=-1).copy()  # the picture clockwise: the right of the face points down
    square = face_square(turned, EYES, MOUTH)
    assert square.x == pytest.approx((0, 80), abs=1e-9)
    assert square.half == pytest.approx(face_square(UPRIGHT, EYES, MOUTH).half)


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (np.where(UPRIGHT == MOUTH, 0, UPRIGHT), "not labelled"),
        (np.where((UPRIGHT == EYES) & (np.arange(200) > 100), 0, UPRIGHT), "only one eye"),
    ],
)
def test_a_face_that_cannot_be_aligned_is_named(mask: np.ndarray, reason: str) -> None:
    with pytest.raises(DataError, match=rf"who\.jpg: .*{reason}"):
        face_square(mask, EYES, MOUTH, "who.jpg")


def test_the_mean_window_of_one_photo_is_the_photo_itself() -> None:
    square = face_square(UPRIGHT, EYES, MOUTH)
    framing = mean_framing([square], [(200, 200)])
    assert framing.zoom == pytest.approx(80 / 100)
    picture = torch.rand(1, 3, 200, 200, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(view(picture, square, framing, 200), picture, atol=1e-3, rtol=0)


def test_the_view_is_empty_where_the_photo_does_not_reach() -> None:
    square = Square((0.0, 50.0), (50.0, 0.0))  # its left half lies outside a 100 px photo
    seen = view(torch.ones(1, 1, 100, 100), square, Framing(), 64)
    assert seen[..., :31].abs().max() == 0
    assert seen[..., 34:].min() > 0.99


def write_photos(folder: Path) -> None:
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    (folder / "labels.json").write_text(json.dumps({"classes": ["background", "eyes", "mouth"]}))
    for name, mask in (("a", UPRIGHT), ("b", face(((60, 80), (130, 80)), (95, 140)))):
        Image.fromarray(np.stack([mask * 100] * 3, -1)).save(folder / "images" / f"{name}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{name}.png")


def test_photos_and_masks_stay_together_and_void_marks_the_outside(tmp_path: Path) -> None:
    write_photos(tmp_path)
    photos = align_photos(open_labelled(str(tmp_path), None), [0, 1], 64)
    assert photos.images.shape == (2, 3, 64, 64)
    assert photos.labels.void == VOID
    values = torch.from_numpy(photos.masks).float()
    inside = (photos.valid[:, 0] > 0) & (values != VOID)
    assert (values[photos.valid[:, 0] == 0] == VOID).all()
    shown = (photos.images[:, 0] + 1) * 127.5 / 100
    assert ((shown - values).abs()[inside] < 0.5).float().mean() > 0.98
    middles = [np.argwhere(mask == MOUTH).mean(0) for mask in photos.masks]
    assert np.abs(middles[0] - middles[1]).max() < 6  # pixels of 64: aligned


def test_the_samples_folder_is_what_train_head_reads(tmp_path: Path) -> None:
    write_photos(tmp_path)
    photos = align_photos(open_labelled(str(tmp_path), None), [0, 1], 32)
    found = Projection(torch.randn(2, 5, 4), torch.rand(2), torch.rand(2), noise={3: torch.randn(2, 1, 8, 8)})
    write_projected_samples(tmp_path / "samples", photos, found, photos.images, "VGG16")
    assert json.loads((tmp_path / "samples" / "samples.json").read_text())["features"] == "VGG16"
    samples = read_samples(str(tmp_path / "samples"))
    assert samples.seeds == (0, 1)
    assert samples.ws is not None
    assert torch.equal(samples.ws, found.ws)
    assert list(samples.noise) == [3] and torch.equal(samples.noise[3], found.noise[3])
    assert np.array_equal(np.stack(samples.masks), photos.masks)
    one = AlignedPhotos(photos.names[:1], photos.labels, photos.framing, photos.images, photos.valid, photos.masks[:1])
    (tmp_path / "fewer").mkdir()
    write_projected_samples(tmp_path / "fewer", one, found, photos.images)
    with pytest.raises(DataError, match=r"codes\.safetensors: 2 codes for 1 masks"):
        read_samples(str(tmp_path / "fewer"))
