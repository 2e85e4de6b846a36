"""The toy set as rows of a source: `toy://STYLE?count=N&seed=S&start=I&size=R`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raygseg.data.picture_files import ClassMap, Picture
from raygseg.data.toy import STYLES, render_toy
from raygseg.errors import DataError


class ToyRows:
    """Pictures start .. start + count - 1 of toy set `seed`, drawn when read.

    Raises:
        DataError: the toy set has no such style.
    """

    checked = True

    def __init__(self, style: str, count: int, seed: int, start: int, size: int) -> None:
        if style not in STYLES:
            raise DataError(f"toy://{style}: the toy set has no such style", f"use one of {', '.join(STYLES)}")
        self._style, self._seed, self._start, self._size = style, seed, start, size
        self.names = [f"{style}-{seed}-{index:06d}" for index in range(start, start + count)]

    def picture(self, row: int, resolution: int | None) -> Picture:
        return self.labelled(row, resolution)[0]

    def labelled(self, row: int, resolution: int | None) -> tuple[Picture, ClassMap]:
        return render_toy(self._seed, self._start + row, resolution or self._size, self._style)

    def identity(self, rows: Sequence[int]) -> Mapping[str, Any]:
        facts = {"toy": self._style, "seed": self._seed, "start": self._start, "size": self._size}
        whole = list(rows) == list(range(len(rows)))
        return {**facts, "count": len(rows)} if whole else {**facts, "indices": list(rows)}
