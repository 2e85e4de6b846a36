"""Weak labels: the geometry against plain oracles, what the marks may touch, and their seeds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from raygseg.data.mask_shapes import Mask, eroded, inner_distance, longest_way, pieces, skeleton
from raygseg.data.weak_annotations import (
    LINE_WIDTH,
    STYLES,
    Style,
    _away,
    _deepest,
    _pieces,
    _way,
    annotate,
    bezier,
    scribble,
)
from raygseg.errors import ConfigError, DataError
from raygseg.seeding import numpy_rng

EIGHT = np.ones((3, 3))


def blobs(seed: int, shape: tuple[int, int] = (60, 80), cut: float = 0.0) -> Mask:
    """Smooth random shapes."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 5)
    return np.asarray(field > cut * field.std())


def rng() -> np.random.Generator:
    return numpy_rng(3, "weak", 0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([-0.5, 0.3, 1.0]))
def test_pieces_and_distances_are_those_of_scipy(seed: int, cut: float) -> None:
    mask = blobs(seed, (31, 23), cut)
    found, count = ndimage.label(mask, EIGHT)
    ours = pieces(mask)
    assert ours.max() == count
    assert len(np.unique(np.stack([ours, found], -1).reshape(-1, 2), axis=0)) == count + (not mask.all())
    np.testing.assert_allclose(inner_distance(mask), ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_a_skeleton_is_thin_inside_and_keeps_the_pieces(seed: int) -> None:
    mask = blobs(seed, (40, 40), 0.5)
    line = skeleton(mask)
    assert not (line & ~mask).any()
    # Zhang and Suen take a 2 x 2 square away entirely; every other piece keeps one connected line.
    assert abs(ndimage.label(line, EIGHT)[1] - ndimage.label(mask, EIGHT)[1]) <= (mask.sum() > 0) * 1
    square = np.asarray(ndimage.minimum_filter(line, size=3))
    assert not square.any()  # no 3 x 3 is filled


def test_the_longest_way_through_a_cross() -> None:
    line = np.zeros((21, 31), dtype=bool)
    line[10, 2:29] = True
    line[6:15, 15] = True
    way = longest_way(line)
    assert {tuple(way[0]), tuple(way[-1])} == {(10, 2), (10, 28)}
    assert len(way) == 27 and (np.abs(np.diff(way, axis=0)).max(1) == 1).all()


def test_erosion_does_not_count_the_frame() -> None:
    mask = np.ones((20, 20), dtype=bool)
    mask[:, 10:] = False
    assert eroded(mask, 4.0)[:, :6].all() and not eroded(mask, 4.0)[:, 6:].any()


def test_a_bezier_curve_begins_and_ends_on_its_way() -> None:
    way = np.stack([np.arange(20), np.arange(20) ** 2 // 20], axis=1)
    curve = bezier(way, 8)
    np.testing.assert_allclose(curve[[0, -1]], way[[0, -1]])
    straight = bezier(np.stack([np.arange(30), np.full(30, 4)], axis=1), 8)
    np.testing.assert_allclose(straight[:, 1], 4.0)


def test_boxes_by_hand() -> None:
    mask = np.zeros((20, 30), dtype=bool)
    mask[2:8, 3:12] = True
    mask[2:4, 3:6] = False  # the largest, with a corner out
    mask[12:16, 20:24] = True
    marks = annotate(mask, "box", rng())
    expected = np.zeros_like(mask)
    expected[2:8, 3:12] = True
    assert np.array_equal(marks.fore, expected)  # the box, corner in
    other = np.zeros_like(mask)
    other[12:16, 20:24] = True
    assert np.array_equal(marks.back, ~(expected | other))  # the smaller object's box is neither
    halves: NDArray[np.int64] = np.where(np.arange(30) < 10, 1, 2)[None] * np.ones((20, 1), dtype=np.int64)
    given_objects = annotate(mask, "box", rng(), instances=np.where(mask, halves, 0))
    assert given_objects.fore[5, 5] and not given_objects.fore[5, 10]  # the left part alone


def test_no_pixel_of_the_class_is_background_of_its_boxes() -> None:
    """Not even a crumb that is too small to be marked itself (spec 1.9: the boxes of all)."""
    mask = np.zeros((60, 60), dtype=bool)
    mask[5:45, 5:45] = True
    mask[50:53, 50:53] = True
    marks = annotate(mask, "box", rng())
    assert not (marks.back & mask).any() and not marks.fore[50:53, 50:53].any()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("seed", range(6))
def test_marks_stay_where_they_belong(style: str, seed: int) -> None:
    mask = blobs(seed, cut=0.7)
    ignore = blobs(seed + 100, cut=1.2) & ~mask
    marks = annotate(mask, style, rng(), ignore)  # type: ignore[arg-type]
    assert marks.fore.any() and marks.back.any() and not (marks.fore & marks.back).any()
    assert not (marks.back & (mask | ignore)).any()
    if style != "box":
        assert not (marks.fore & ~mask).any()
    if style in ("scribble", "point"):
        assert marks.fore.sum() < mask.sum() and marks.back.sum() < 0.2 * mask.size
    again = annotate(mask, style, rng(), ignore)  # type: ignore[arg-type]
    assert all(np.array_equal(a, b) for a, b in zip(marks, again, strict=True))


def test_a_scribble_is_a_line_along_the_shape() -> None:
    mask = np.zeros((40, 120), dtype=bool)
    mask[12:27, 10:110] = True
    line = scribble(mask, rng())
    columns = np.flatnonzero(line.any(0))
    assert columns[-1] - columns[0] > 45  # a good part of the way
    assert line.sum(0).max() <= 2 * LINE_WIDTH
    assert np.abs(np.argwhere(line)[:, 0] - 19).max() <= 8
    others = [scribble(mask, numpy_rng(i, "weak", 0)) for i in range(4)]
    assert any(not np.array_equal(line, other) for other in others)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 2), (3, 3)], ids=str)
def test_the_smallest_masks_are_marked_too(shape: tuple[int, int]) -> None:
    mask = np.zeros((30, 30), dtype=bool)
    mask[14 : 14 + shape[0], 14 : 14 + shape[1]] = True
    for style in STYLES:
        marks = annotate(mask, style, rng())  # type: ignore[arg-type]
        assert marks.fore.any() and marks.back.any(), style
    whole = annotate(np.ones((9, 9), dtype=bool), "scribble", rng())
    assert whole.fore.any() and not whole.back.any()


def test_what_cannot_be_annotated() -> None:
    with pytest.raises(DataError, match="empty mask"):
        annotate(np.zeros((5, 5), dtype=bool), "point", rng())
    with pytest.raises(ConfigError, match="no weak label 'dots'"):
        annotate(np.ones((5, 5), dtype=bool), "dots", rng())  # type: ignore[arg-type]


@pytest.mark.parametrize("style", ["scribble", "point"])
def test_marks_do_not_depend_on_what_was_marked_before(style: Style) -> None:
    """What follows from a mask alone is kept; no draw is, and nobody can spoil what is kept."""
    masks = [np.zeros((60, 70), bool) for _ in range(2)]
    masks[0][5:30, 8:50] = masks[1][20:40, 10:66] = True
    fresh = [annotate(mask, style, np.random.default_rng(3)) for mask in masks]
    for cached in (_pieces, _away, _way, _deepest):
        cached.cache_clear()
    for _ in range(2):
        for mask, (fore, back) in zip(masks, fresh, strict=True):
            again = annotate(mask, style, np.random.default_rng(3))
            assert np.array_equal(again.fore, fore) and np.array_equal(again.back, back)
            again.fore[:] = again.back[:] = True
            drawn = {annotate(mask, style, np.random.default_rng(seed)).fore.tobytes() for seed in range(8)}
            assert len(drawn) > 1
    assert _pieces.cache_info().hits > 0
