"""Pictures side by side: sample grids and contact sheets, as arrays [H, W, 3] uint8 and PNG bytes."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from raygseg.labels import RGB

Canvas = NDArray[np.uint8]  # [H, W, 3]

PAPER: RGB = (255, 255, 255)
INK: RGB = (40, 44, 52)


def pictures_from_signed(images: Any) -> NDArray[np.uint8]:
    """[N, 3, H, W] in [-1, 1] (array or CPU tensor, not clamped) to [N, H, W, 3] uint8."""
    values = np.asarray(images, dtype=np.float32)
    assert values.ndim == 4 and values.shape[1] == 3, values.shape
    levels: NDArray[np.uint8] = np.rint((np.clip(values, -1, 1) + 1) * 127.5).astype(np.uint8)
    return levels.transpose(0, 2, 3, 1)


def picture_grid(pictures: Sequence[Canvas] | NDArray[np.uint8], columns: int = 0, gap: int = 2) -> Canvas:
    """Lay pictures (any sizes) out in rows; cells are as large as the largest picture.

    Args:
        pictures: [H, W, 3] uint8 each.
        columns: 0 makes the sheet about square.
        gap: white pixels between cells.
    """
    if len(pictures) == 0:
        return np.full((1, 1, 3), PAPER, np.uint8)
    columns = min(columns or math.ceil(math.sqrt(len(pictures))), len(pictures))
    height, width = (max(p.shape[axis] for p in pictures) for axis in (0, 1))
    rows = math.ceil(len(pictures) / columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), PAPER, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return sheet


def fit(picture: Canvas, side: int, smooth: bool = True) -> Canvas:
    """Scale so that the longer side is `side` pixels; small pictures are enlarged with hard pixel edges."""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if size == (width, height):
        return picture
    how = Image.Resampling.LANCZOS if smooth and scale < 1 else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(picture).resize(size, how), dtype=np.uint8)


def write_text(canvas: Canvas, text: str, left: int, top: int, size: int = 12, ink: RGB = INK) -> Canvas:
    """The canvas with a line of text whose upper left corner is (left, top)."""
    image = Image.fromarray(canvas)
    ImageDraw.Draw(image).text((left, top), text, fill=ink, font=ImageFont.load_default(size))
    return np.array(image, dtype=np.uint8)


def text_width(text: str, size: int = 12) -> int:
    """Pixels that `write_text` needs."""
    return math.ceil(ImageFont.load_default(size).getlength(text))


def png_bytes(canvas: Canvas) -> bytes:
    """PNG of a canvas [H, W, 3], compressed for keeping."""
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()
