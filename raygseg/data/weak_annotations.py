"""Weak labels out of a mask, as a person in a hurry would give them: scribbles, boxes, points (PANet spec 1.9).

Marks are what the network is told of a support picture: some pixels of the class, some of the background; the rest
counts nowhere. How PANet's scribbles were made was never said; these are drawn along the longest way through each
piece's skeleton, smoothed, and one along the eroded background. Points are an addition.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raygseg.data.mask_shapes import Mask, Path, eroded, inner_distance, longest_way, pieces, skeleton
from raygseg.errors import ConfigError, DataError

Style = Literal["mask", "scribble", "box", "point"]
STYLES = ("mask", "scribble", "box", "point")
LINE_WIDTH = 3  # px
POINT_RADIUS = 5  # px
SHARE = (0.6, 1.0)  # of the longest way that a scribble follows
STOPS = 8  # control points of the smoothed line
MARGIN = 5.0  # px that the background's scribble keeps from the class
SMALLEST_SHARE = 0.02  # pieces below this share of the largest are not annotated


class Marks(NamedTuple):
    """fore: [H, W] pixels marked as the class; back: as none of the episode's classes."""

    fore: Mask
    back: Mask


def annotate(
    mask: Mask,
    style: Style,
    rng: np.random.Generator,
    ignore: Mask | None = None,
    instances: NDArray[np.integer] | None = None,
) -> Marks:
    """Weak labels of one picture.

    Args:
        mask: [H, W] pixels of the class.
        style: mask (all that is known), scribble, box or point.
        rng: decides the scribbles' and points' particulars; seed it by the picture's place in its episode.
        ignore: [H, W] pixels that are void or another class of the episode: not background. (A box covers them.)
        instances: [H, W] objects of the class by number, 0 for none; else the mask's connected pieces.

    Raises:
        DataError: the mask is empty.
        ConfigError: a style that is not known.
    """
    if style not in STYLES:
        raise ConfigError(f"there is no weak label '{style}'", f"use one of: {', '.join(STYLES)}")
    if not mask.any():
        raise DataError("an empty mask cannot be annotated", "leave the picture out of the class's list")
    background = ~mask if ignore is None else ~(mask | ignore)
    if style == "mask":
        return Marks(mask.copy(), background)
    if style == "box":
        marks = _boxes(_objects(mask, instances, smallest=0.0), mask.shape)
        return marks if ignore is None else Marks(marks.fore, marks.back & ~ignore)
    objects = _objects(mask, instances) if instances is not None else list(_pieces(*_packed(mask)))
    if style == "point":
        return Marks(_points(objects, mask, rng), _points([background], background, rng))
    return _scribbles(objects, background, rng)


def _objects(mask: Mask, instances: NDArray[np.integer] | None, smallest: float = SMALLEST_SHARE) -> list[Mask]:
    """Each object's mask, the largest first; those below `smallest` of the largest are left out."""
    numbered = pieces(mask) if instances is None else np.where(mask, instances, 0)
    sizes = np.bincount(numbered.ravel())
    sizes[0] = 0
    order = [int(i) for i in np.argsort(-sizes, kind="stable") if sizes[i] > max(0, smallest * sizes.max())]
    return [np.asarray(numbered == i) for i in order]


def _boxes(objects: list[Mask], shape: tuple[int, ...]) -> Marks:
    """Foreground: the filled box of the largest object; background: outside the boxes of all (spec 1.9)."""
    boxes = []
    for one in objects:
        rows, columns = np.flatnonzero(one.any(1)), np.flatnonzero(one.any(0))
        box = np.zeros(shape, dtype=bool)
        box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
        boxes.append(box)
    return Marks(boxes[0], ~np.logical_or.reduce(boxes))


def _points(objects: list[Mask], within: Mask, rng: np.random.Generator) -> Mask:
    """A disc at a place of one object, drawn at random, that is as deep inside as any; clipped to `within`."""
    one = objects[int(rng.integers(len(objects)))]
    if not one.any():
        return np.zeros_like(within)
    deepest = _deepest(*_packed(one))
    place = deepest[int(rng.integers(len(deepest)))]
    row, column = int(place[0]), int(place[1])
    ys, xs = np.arange(within.shape[0])[:, None], np.arange(within.shape[1])
    return np.asarray(((ys - row) ** 2 + (xs - column) ** 2 <= POINT_RADIUS**2) & within)


def _scribbles(objects: list[Mask], background: Mask, rng: np.random.Generator) -> Marks:
    """A line in one object drawn at random, another in the background away from the class (spec 1.9)."""
    one = objects[int(rng.integers(len(objects)))]
    fore = scribble(one, rng)
    largest = _away(*_packed(background))
    return Marks(fore, np.zeros_like(fore) if largest is None else scribble(largest, rng))


def scribble(mask: Mask, rng: np.random.Generator) -> Mask:
    """A smooth line of LINE_WIDTH along a part of the longest way through the mask's skeleton; inside the mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    piece = mask[window]
    way = _way(*_packed(piece))
    length = max(2, round(len(way) * rng.uniform(*SHARE)))
    first = int(rng.integers(max(1, len(way) - length + 1)))
    way = way[first : first + length]
    drawn = np.zeros_like(mask)
    # A line that the smoothing takes out of a crooked shape would mark nothing: there the way itself is drawn.
    for line in (bezier(way, STOPS), way.astype(np.float64)):
        drawn[window] = draw_line(line, piece.shape) & piece
        if drawn.sum() >= min(len(way), LINE_WIDTH):
            break
    return drawn


# What follows from a mask alone is worked out once: an evaluation marks a picture in many episodes, each time anew.


def _packed(mask: Mask) -> tuple[bytes, tuple[int, int]]:
    return np.packbits(mask).tobytes(), (mask.shape[0], mask.shape[1])


def _unpacked(bits: bytes, shape: tuple[int, int]) -> Mask:
    return np.unpackbits(np.frombuffer(bits, np.uint8), count=shape[0] * shape[1]).reshape(shape).astype(bool)


@lru_cache(maxsize=512)
def _pieces(bits: bytes, shape: tuple[int, int]) -> tuple[Mask, ...]:
    return _fixed(_objects(_unpacked(bits, shape), None))


@lru_cache(maxsize=512)
def _away(bits: bytes, shape: tuple[int, int]) -> Mask | None:
    """The largest piece of a background, away from the class where there is room; None where there is none at all."""
    background = _unpacked(bits, shape)
    free = eroded(background, MARGIN)
    free = free if free.any() else background
    return _fixed(_objects(free, None)[:1])[0] if free.any() else None


@lru_cache(maxsize=2048)
def _way(bits: bytes, shape: tuple[int, int]) -> Path:
    way = longest_way(skeleton(_unpacked(bits, shape)))
    way.setflags(write=False)
    return way


@lru_cache(maxsize=2048)
def _deepest(bits: bytes, shape: tuple[int, int]) -> NDArray[np.int64]:
    """[n, 2] places that are as deep inside as any."""
    depth = inner_distance(_unpacked(bits, shape))
    places = np.argwhere(depth >= depth.max() - 1e-9)
    places.setflags(write=False)
    return places


def _fixed(masks: list[Mask]) -> tuple[Mask, ...]:
    for mask in masks:
        mask.setflags(write=False)
    return tuple(masks)


def bezier(way: Path, stops: int) -> NDArray[np.float64]:
    """The Bézier curve whose control points are `stops` places along the way, a point every half pixel, [n, 2]."""
    if len(way) <= 2:
        return way.astype(np.float64)
    control = way[np.linspace(0, len(way) - 1, min(stops, len(way))).round().astype(int)].astype(np.float64)
    degree = len(control) - 1
    t = np.linspace(0.0, 1.0, 2 * len(way))[:, None]
    weights = np.stack([math.comb(degree, i) * t**i * (1 - t) ** (degree - i) for i in range(degree + 1)])
    return np.asarray((weights * control[:, None]).sum(0))


def draw_line(points: NDArray[np.float64], shape: tuple[int, ...]) -> Mask:
    """Pixels within half of LINE_WIDTH of the points, by rows and columns."""
    drawn = np.zeros(shape, dtype=bool)
    reach = LINE_WIDTH // 2
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            places = points.round().astype(int) + (dy, dx)
            inside = ((places >= 0) & (places < shape[:2])).all(1)
            drawn[tuple(places[inside].T)] = True
    return drawn
