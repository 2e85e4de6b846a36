from __future__ import annotations

import numpy as np
import pytest

from raygseg.data.preparation.findings import UnusableError
from raygseg.data.preparation.shapes import circle_mask, polygon_mask, rectangle_mask, run_length_mask, unpack_counts
from raygseg.seeding import numpy_rng

STAR = [(20.0, 2.0), (25.0, 15.0), (38.0, 15.0), (28.0, 23.0), (32.0, 36.0), (20.0, 28.0), (8.0, 36.0), (2.0, 15.0)]


def test_pixels_belong_to_a_shape_by_their_centres() -> None:
    assert rectangle_mask((1, 1), (3, 4), 6, 5).astype(int).tolist() == [
        [0, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0],
    ]  # fmt: skip
    assert not rectangle_mask((1.6, 1), (2.4, 4), 6, 5).any()  # between two columns of centres
    assert (rectangle_mask((-5, -5), (50, 50), 6, 5)).all()  # cut at the picture's edge
    disc = circle_mask((10, 10), (10, 16), 20, 20)
    assert abs(int(disc.sum()) - np.pi * 36) < 6 and disc[10, 4] and not disc[10, 3]


def test_a_polygon_that_is_none_is_refused() -> None:
    for points in ([], [(1, 1), (2, 2)], [(1, 1), (2, float("nan")), (3, 3)], [(1, 2, 3)] * 3):
        with pytest.raises(UnusableError):
            polygon_mask(points, 8, 8)


def test_polygons_agree_with_pycocotools() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    for scale in (1.0, 3.3):
        points = [(x * scale, y * scale) for x, y in STAR]
        height = width = int(40 * scale)
        packed = coco.frPyObjects([[v for point in points for v in point]], height, width)
        theirs = coco.decode(packed)[..., 0].astype(bool)
        ours = polygon_mask(points, height, width)
        assert (ours & theirs).sum() / (ours | theirs).sum() > 0.94 + 0.01 * scale  # they round outlines to 1/5 pixel


def test_run_lengths_equal_pycocotools_in_both_forms() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    rng = numpy_rng(0, "run-lengths")
    for height, width, share in ((7, 5, 0.5), (64, 48, 0.02), (100, 333, 0.9), (40, 40, 0.0), (40, 40, 1.0)):
        mask = rng.random((height, width)) < share
        mask[height // 3 :, : width // 2] |= share > 0.01
        packed = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert (run_length_mask(packed, height, width) == mask).all()
        text = {**packed, "counts": packed["counts"].decode()}
        assert (run_length_mask(text, height, width) == mask).all()
        plain = {"size": [height, width], "counts": unpack_counts(packed["counts"])}
        assert (run_length_mask(plain, height, width) == mask).all()
        assert (coco.decode(coco.frPyObjects(plain, height, width)).astype(bool) == mask).all()


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [4, 4], "counts": [3, 4]},
        {"size": [4, 4], "counts": [-1, 17]},
        {"size": [4, 5], "counts": [20]},
        {"size": [4, 4], "counts": "\x01\x02"},
        {"size": [4, 4], "counts": "o"},
        {"size": [4, 4], "counts": "oooooooooooooooooooooooooooo"},
        {"counts": [16]},
        {"size": [4, 4], "counts": []},
    ],
)
def test_damaged_run_lengths_are_refused(segmentation: dict[str, object]) -> None:
    with pytest.raises(UnusableError):
        run_length_mask(segmentation, 4, 4)
