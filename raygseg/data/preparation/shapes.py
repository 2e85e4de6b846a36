"""Shapes of annotation tools as pixels: a pixel belongs to a shape if its centre lies inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raygseg.data.preparation.findings import UnusableError

Mask = NDArray[np.bool_]  # [H, W]
Point = Sequence[float]
FIRST_CODE, MORE, SIGN, DIGIT = 48, 0x20, 0x10, 0x1F  # of COCO's run lengths as text


def polygon_mask(points: Sequence[Point], height: int, width: int) -> Mask:
    """The inside of a closed polygon of (x, y), by the even-odd rule; parts beyond the picture are cut off."""
    corners = np.asarray(points, dtype=np.float64)
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3 or not np.isfinite(corners).all():
        raise UnusableError("mask unreadable", f"a polygon needs three points or more, not {len(points)}")
    crossings = np.zeros((height, width + 1), dtype=np.int32)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        low, high = (y0, y1) if y0 < y1 else (y1, y0)
        rows = np.arange(max(0, int(np.ceil(low - 0.5))), min(height, int(np.ceil(high - 0.5))))
        if not len(rows):
            continue
        x = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
        columns = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
        np.add.at(crossings, (rows, columns), 1)
    return np.asarray(np.cumsum(crossings[:, :-1], axis=1) % 2 == 1)


def rectangle_mask(first: Point, second: Point, height: int, width: int) -> Mask:
    """The inside of the rectangle between two opposite corners."""
    (x0, y0), (x1, y1) = first, second
    return polygon_mask([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], height, width)


def circle_mask(centre: Point, edge: Point, height: int, width: int) -> Mask:
    """The inside of the circle around `centre` through `edge`."""
    x = np.arange(width) + 0.5 - float(centre[0])
    y = np.arange(height) + 0.5 - float(centre[1])
    radius = (float(edge[0]) - float(centre[0])) ** 2 + (float(edge[1]) - float(centre[1])) ** 2
    return np.asarray(x[None, :] ** 2 + y[:, None] ** 2 <= radius)


def run_length_mask(segmentation: Any, height: int, width: int) -> Mask:
    """COCO's run lengths, as a list of counts or compressed to text, to pixels.

    Raises UnusableError where they are damaged or of another size than the picture's.
    """
    try:
        size, counts = [int(n) for n in segmentation["size"]], segmentation["counts"]
    except (KeyError, TypeError, ValueError) as error:
        raise UnusableError("mask unreadable", "run lengths without size or counts") from error
    if size != [height, width]:
        raise UnusableError("mask of another size", f"run lengths are {size[1]}x{size[0]}, picture {width}x{height}")
    runs = unpack_counts(counts) if isinstance(counts, (str, bytes)) else counts
    lengths = np.asarray(runs, dtype=np.int64) if len(runs) else np.zeros(1, np.int64)
    if lengths.ndim != 1 or (lengths < 0).any() or int(lengths.sum()) != height * width:
        raise UnusableError("mask unreadable", f"run lengths do not add up to {width}x{height} pixels")
    values = np.arange(len(lengths)) % 2 == 1
    return np.asarray(np.repeat(values, lengths).reshape(width, height).T)


def unpack_counts(text: str | bytes) -> list[int]:
    """COCO's compressed run lengths: numbers in base 32, from the third-last on as differences to the one before last.

    Each character carries 5 bits and whether more follow; the last one's fifth bit is the sign.
    """
    codes = text.encode() if isinstance(text, str) else text
    counts: list[int] = []
    at = 0
    while at < len(codes):
        value = shift = 0
        more = True
        while more:
            if at == len(codes):
                raise UnusableError("mask unreadable", "run lengths end inside a number")
            code = codes[at] - FIRST_CODE
            if not 0 <= code < 64 or shift > 40:
                raise UnusableError("mask unreadable", "run lengths hold characters that they cannot")
            value |= (code & DIGIT) << shift
            more, shift, at = bool(code & MORE), shift + 5, at + 1
        if code & SIGN:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return counts
