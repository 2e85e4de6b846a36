"""How a picture of any shape goes onto the square, and its label map in exactly the same way."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from raygseg.data.picture_files import ClassMap, Picture

Fit = Literal["crop", "pad", "squash"]
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels
Size = tuple[int, int]  # height, width

PADDING = 0  # black bars
# How a stored picture becomes upright, by its EXIF orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Frame(NamedTuple):
    """box: the part of the upright picture that is shown. place: left, top, width, height on the square."""

    box: Box
    place: tuple[int, int, int, int]
    resolution: int


def frame_of(size: Size, fit: str, resolution: int, region: Box | None = None) -> Frame:
    """The frame of an upright picture of this size, or of one region of it."""
    left, top, right, bottom = region or (0.0, 0.0, float(size[1]), float(size[0]))
    width, height = right - left, bottom - top
    if fit == "crop":
        side = min(width, height)
        left, top = left + (width - side) / 2, top + (height - side) / 2
        return Frame((left, top, left + side, top + side), (0, 0, resolution, resolution), resolution)
    if fit == "squash":
        return Frame((left, top, right, bottom), (0, 0, resolution, resolution), resolution)
    scale = resolution / max(width, height)
    across, down = max(1, round(width * scale)), max(1, round(height * scale))
    place = ((resolution - across) // 2, (resolution - down) // 2, across, down)
    return Frame((left, top, right, bottom), place, resolution)


def frame_picture(picture: Picture, size: Size, frame: Frame) -> Picture:
    """[R, R, 3] of a picture [H, W, 3] that may be decoded at a smaller scale than its `size`. Lanczos."""
    return _framed(picture, size, frame, Image.Resampling.LANCZOS, PADDING)


def frame_class_map(class_map: ClassMap, size: Size, frame: Frame, outside: int) -> ClassMap:
    """[R, R] of an upright label map of the picture, at any scale; nearest neighbour, `outside` in the bars."""
    return _framed(class_map, size, frame, Image.Resampling.NEAREST, outside)


def turn_class_map(class_map: ClassMap, orientation: int) -> ClassMap:
    """The label map of a stored picture as that of the upright one."""
    turn = _TURNS.get(orientation)
    if turn is None:
        return class_map
    return np.asarray(Image.fromarray(class_map).transpose(turn), dtype=np.uint8)


def turned_size(size: Size, orientation: int) -> Size:
    """(height, width) of the upright picture."""
    return (size[1], size[0]) if orientation >= 5 else size


def _framed(array: ClassMap, size: Size, frame: Frame, how: Image.Resampling, fill: int) -> ClassMap:
    down, across = array.shape[0] / size[0], array.shape[1] / size[1]
    left, top, right, bottom = frame.box
    box = (left * across, top * down, min(right * across, array.shape[1]), min(bottom * down, array.shape[0]))
    x, y, width, height = frame.place
    whole = box == (0, 0, array.shape[1], array.shape[0])
    if whole and array.shape[:2] == (height, width):
        shown = array
    else:
        shown = np.asarray(Image.fromarray(array).resize((width, height), how, box), dtype=np.uint8)
    if (width, height) == (frame.resolution, frame.resolution):
        return shown
    canvas = np.full((frame.resolution, frame.resolution, *array.shape[2:]), fill, dtype=np.uint8)
    canvas[y : y + height, x : x + width] = shown
    return canvas
