"""The toy set as rows of a source: `toy://STYLE?count=N&seed=S&start=I`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raygseg.data.picture_files import ClassMap, Picture
from raygseg.data.toy import STYLES, render_toy
from raygseg.errors import DataError

OWN_RESOLUTION = 128  # of a toy picture that is asked for "at its own size"


class ToyRows:
    """Pictures start .. start + count - 1 of toy set `seed`, drawn when read.

    Raises:
        DataError: the toy set has no such style.
    """

    checked = True

    def __init__(self, style: str, count: int, seed: int, start: int) -> None:
        if style not in STYLES:
            raise DataError(f"toy://{style}: the toy set has no such style", f"use one of {', '.join(STYLES)}")
        self._style, self._seed, self._start = style, seed, start
        self.names = [f"{style}-{seed}-{index:06d}" for index in range(start, start + count)]

    def picture(self, row: int, resolution: int | None) -> Picture:
        return self.labelled(row, resolution)[0]

    def labelled(self, row: int, resolution: int | None) -> tuple[Picture, ClassMap]:
        return render_toy(self._seed, self._start + row, resolution or OWN_RESOLUTION, self._style)

    def identity(self, rows: Sequence[int]) -> Mapping[str, Any]:
        facts = {"toy": self._style, "seed": self._seed, "start": self._start}
        whole = list(rows) == list(range(len(rows)))
        return {**facts, "count": len(rows)} if whole else {**facts, "indices": list(rows)}
