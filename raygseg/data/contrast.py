"""Pictures stretched to the whole range of brightness, each by its own percentiles: microscopes, X-rays.

A source asks for it by `?contrast=stretch`; a segmenter that was trained on such a source stretches
whatever it is shown (`pipelines.stretching`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raygseg.data.picture_files import ClassMap, Picture
from raygseg.data.picture_sets import Blocked, Rows

STRETCH = "stretch"
PERCENTILES = (0.5, 99.5)  # of all values of a picture: become 0 and 255
LEAST_RANGE = 8.0  # of 255: what an empty field holds besides noise is not blown up further


def stretched(picture: Picture) -> Picture:
    """[H, W, 3] uint8 by one gain and offset for all channels; done twice it is as done once."""
    low, high = np.percentile(picture, PERCENTILES)
    values = (picture.astype(np.float32) - low) * (255.0 / max(high - low, LEAST_RANGE))
    return np.asarray((values + 0.5).clip(0, 255), dtype=np.uint8)


class StretchedRows:
    """`Rows` whose pictures are stretched."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.names: Sequence[str] = rows.names
        self.checked = rows.checked

    def picture(self, row: int, resolution: int | None) -> Picture:
        return stretched(self._rows.picture(row, resolution))

    def labelled(self, row: int, resolution: int | None) -> tuple[Picture, ClassMap]:
        picture, class_map = self._rows.labelled(row, resolution)
        return stretched(picture), class_map

    def identity(self, rows: Sequence[int]) -> Mapping[str, Any]:
        return {**self._rows.identity(rows), "contrast": STRETCH}


class StretchedBlocks(StretchedRows):
    """The same over rows that are read in blocks."""

    def __init__(self, rows: Any) -> None:
        super().__init__(rows)
        self._blocked: Blocked = rows

    @property
    def encoded_bytes(self) -> int:
        return self._blocked.encoded_bytes

    def blocks(self) -> list[NDArray[np.int64]]:
        return self._blocked.blocks()

    def prefetch(self, blocks: Sequence[int]) -> None:
        self._blocked.prefetch(blocks)


def stretched_rows(rows: Rows) -> Rows:
    return StretchedBlocks(rows) if isinstance(rows, Blocked) else StretchedRows(rows)
