from __future__ import annotations

import numpy as np
import pytest

from raygseg.data.preparation.framing import frame_class_map, frame_of, frame_picture, turn_class_map
from raygseg.data.toy import render_toy


@pytest.mark.parametrize("size", [(48, 48), (30, 48), (48, 30), (17, 40)])
@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_label_maps_follow_their_pictures(size: tuple[int, int], fit: str) -> None:
    """A picture whose brightness is its label: after framing both still agree wherever no edge is near."""
    label = (render_toy(0, 3, 48)[1][: size[0], : size[1]] > 0).astype(np.uint8)
    picture = np.repeat(label[..., None] * 255, 3, axis=-1).astype(np.uint8)
    frame = frame_of(size, fit, 16)
    framed, mapped = frame_picture(picture, size, frame), frame_class_map(label, size, frame, 9)
    assert framed.shape == (16, 16, 3) and mapped.shape == (16, 16)
    inside = mapped != 9
    assert inside.all() == (fit != "pad" or size[0] == size[1])
    sure = inside & ((framed[..., 0] < 40) | (framed[..., 0] > 215))
    assert sure.sum() > 0.3 * inside.sum()
    assert ((framed[..., 0] > 128) == (mapped == 1))[sure].mean() > 0.97


def test_the_middle_square_is_cropped_and_bars_are_centred() -> None:
    picture = np.zeros((20, 40, 3), np.uint8)
    picture[:, 10:30] = 200
    cropped = frame_picture(picture, (20, 40), frame_of((20, 40), "crop", 10))
    assert (cropped > 180).all()  # as if shrunk first: what lies beside the square tells in its rim
    padded = frame_class_map(np.ones((20, 40), np.uint8), (20, 40), frame_of((20, 40), "pad", 8), 255)
    assert (padded[2:6] == 1).all() and (padded[:2] == 255).all() and (padded[6:] == 255).all()


def test_a_region_is_cut_out_at_any_scale_of_the_picture() -> None:
    label = np.zeros((40, 60), np.uint8)
    label[10:20, 30:50] = 3
    frame = frame_of((40, 60), "squash", 10, (30, 10, 50, 20))
    assert (frame_class_map(label, (40, 60), frame, 0) == 3).all()
    half = np.ascontiguousarray(label[::2, ::2])
    assert (frame_class_map(half, (40, 60), frame, 0) == 3).all()


def test_label_maps_turn_as_exif_says() -> None:
    stored = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert turn_class_map(stored, 1).tolist() == stored.tolist()
    assert turn_class_map(stored, 6).tolist() == np.rot90(stored, -1).tolist()
    assert turn_class_map(stored, 8).tolist() == np.rot90(stored).tolist()
    assert turn_class_map(stored, 5).tolist() == stored.T.tolist()
