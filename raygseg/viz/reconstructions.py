"""Photos beside what a generator makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from raygseg.labels import RGB
from raygseg.viz.grids import PAPER, Canvas, picture_grid, pictures_from_signed, text_width, write_text

DRAWN = 40
COLUMNS = 10
CAPTION = 20  # px above the sheet
RED: RGB = (220, 40, 40)


def side_by_side(photos: Any, pictures: Any, accepted: Sequence[bool], caption: str = "") -> Canvas:
    """Photos above their reconstructions, ten pairs a row; refused reconstructions have a red frame.

    photos, pictures: [N, 3, R, R] in [-1, 1]; the first DRAWN are shown. caption: above the sheet.
    """
    tiles: list[Canvas] = []
    for photo, picture, good in zip(
        pictures_from_signed(photos[:DRAWN]), pictures_from_signed(pictures[:DRAWN]), accepted, strict=False
    ):
        shown = picture.copy()
        if not good:
            edge = max(1, len(picture) // 32)
            shown[:] = RED
            shown[edge:-edge, edge:-edge] = picture[edge:-edge, edge:-edge]
        tiles.append(np.concatenate([photo, shown]))
    sheet = picture_grid(tiles, columns=min(COLUMNS, max(1, len(tiles))), gap=4)
    if not caption:
        return sheet
    width = max(sheet.shape[1], text_width(caption) + 8)
    page = np.full((sheet.shape[0] + CAPTION, width, 3), PAPER, np.uint8)
    page[CAPTION:, : sheet.shape[1]] = sheet
    return write_text(page, caption, 4, 3)
