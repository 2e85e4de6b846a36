"""Grids and overlays: every pixel where it belongs, sizes that fit, nothing made up."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from raygseg.errors import DataError
from raygseg.labels import LabelSpace
from raygseg.viz.extremes import Extremes
from raygseg.viz.grids import fit, picture_grid, pictures_from_signed, png_bytes, text_width
from raygseg.viz.overlays import ERROR, UNKNOWN, compare, comparison_sheet, error_map, legend, overlay, pair_sheet

LABELS = LabelSpace(("background", "body", "wheel"), ((0, 0, 0), (200, 0, 0), (0, 0, 200)), void=255)


def flat(value: int, height: int = 6, width: int = 8) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def test_signed_tensors_become_pictures() -> None:
    images = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0]).view(5, 1, 1, 1).expand(5, 3, 2, 4)
    pictures = pictures_from_signed(images)
    assert pictures.shape == (5, 2, 4, 3) and pictures.dtype == np.uint8
    assert pictures[:, 0, 0, 0].tolist() == [0, 0, 128, 255, 255]


def test_grid_places_each_picture_row_by_row() -> None:
    sheet = picture_grid([flat(10 * i) for i in range(5)], columns=3, gap=2)
    assert sheet.shape == (6 * 2 + 2, 8 * 3 + 4, 3)
    for i in range(5):
        top, left = (i // 3) * 8, (i % 3) * 10
        assert (sheet[top : top + 6, left : left + 8] == 10 * i).all()
    assert (sheet[8:, 20:] == 255).all()


def test_grid_of_sizes_of_none_and_of_one() -> None:
    assert picture_grid([]).shape == (1, 1, 3)
    assert picture_grid([flat(1)]).shape == (6, 8, 3)
    assert picture_grid([flat(1, 3, 20), flat(2, 9, 2)], columns=2, gap=0).shape == (9, 40, 3)


def test_fit_keeps_the_aspect_and_enlarges_with_hard_edges() -> None:
    assert fit(flat(1, 100, 50), 20).shape == (20, 10, 3)
    assert fit(flat(1, 3000, 7), 192).shape == (192, 1, 3)
    checker = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    large = fit(checker, 10)
    assert large.shape == (5, 10, 3) and set(np.unique(large)) == {0, 255}


def test_overlay_leaves_the_background_and_tints_the_parts() -> None:
    label_map = np.zeros((6, 8), np.uint8)
    label_map[:, 4:] = 1
    drawn = overlay(flat(100), label_map, LABELS, opacity=0.5)
    assert (drawn[:, :3] == 100).all()
    assert (drawn[:, 5:] == [150, 50, 50]).all()
    assert (drawn[:, 3] > 190).all(), "the outline is pale"
    with pytest.raises(DataError, match=r"picture is \(6, 8\)"):
        overlay(flat(100), label_map[:3], LABELS)


def test_error_map_marks_wrong_and_unknown_pixels_only() -> None:
    truth = np.zeros((6, 8), np.uint8)
    truth[0], truth[1] = 1, 255
    drawn = error_map(flat(0), truth, np.zeros_like(truth), LABELS)
    assert (drawn[0] == ERROR).all() and (drawn[1] == UNKNOWN).all() and (drawn[2:] == 160).all()


def test_legend_shows_each_colour_and_wraps() -> None:
    wide, narrow = legend(LABELS, 600), legend(LABELS, 10)
    assert narrow.shape[0] > wide.shape[0]
    assert narrow.shape[1] >= max(text_width(name) for name in LABELS.names)
    for sheet in (wide, narrow):
        for colour in LABELS.palette:
            assert ((sheet == colour).all(-1)).sum() >= 80
    only = legend(LABELS, 600, classes=[2])
    assert not (only == LABELS.palette[1]).all(-1).any()


@pytest.mark.parametrize("shape", [(1, 1), (3000, 7), (5, 900), (64, 64)])
def test_comparison_rows_take_any_size(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, shape).astype(np.uint8)
    row = compare(rng.integers(0, 256, (*shape, 3)).astype(np.uint8), truth, truth, LABELS, "a name", side=96)
    assert {tile.shape for tile in row.tiles} == {row.tiles[0].shape} and max(row.tiles[0].shape[:2]) == 96
    assert not (row.tiles[3] == ERROR).all(-1).any()
    sheet = comparison_sheet([row, row], LABELS)
    assert sheet.dtype == np.uint8 and sheet.shape[0] > 2 * row.tiles[0].shape[0]


def test_extremes_keep_the_right_pictures_whatever_the_order() -> None:
    scores = [0.5, 0.9, 0.1, 0.9, 0.3, 0.1]
    kept = []
    for order in (range(6), reversed(range(6))):
        extremes = Extremes(LABELS, keep_best=2, keep_worst=2)
        for i in order:
            extremes.offer(i, f"p{i}", scores[i], flat(9), np.zeros((6, 8), np.uint8), np.zeros((6, 8), np.uint8))
        kept.append((extremes.ranking(), len(extremes)))
    assert kept == [(([1, 3], [5, 2]), 4)] * 2
    assert Extremes(LABELS, 0, 0).sheets() == (None, None)


def test_pair_sheet_is_a_png_of_its_size() -> None:
    maps = [np.zeros((6, 8), np.uint8)] * 5
    sheet = pair_sheet([flat(50)] * 5, maps, LABELS, columns=3)
    decoded = Image.open(io.BytesIO(png_bytes(sheet)))
    np.testing.assert_array_equal(np.asarray(decoded), sheet)
