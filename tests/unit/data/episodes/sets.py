"""Small sources of classes, written to disk or held in memory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from raygseg.data.episodes.index import ClassIndex, index_of


class Blocks:
    """Pictures in which class c is a square of its own colour; the first row is void."""

    def __init__(self, shown: list[list[int]], side: int = 24) -> None:
        self._shown, self._side = shown, side
        self.names = [f"p{row:03d}.png" for row in range(len(shown))]

    def class_map(self, row: int) -> np.ndarray:
        found = np.zeros((self._side, self._side), np.uint8)
        for place, c in enumerate(self._shown[row]):
            top, left = 2 + (5 * row + 9 * place) % 12, 2 + (7 * row + 5 * place) % 12
            found[top : top + 8, left : left + 8] = c
        found[0] = 255
        return found

    def picture(self, row: int) -> np.ndarray:
        colours = np.array([[40, 40, 40], [230, 20, 20], [20, 230, 20], [20, 20, 230], [220, 220, 10], [200, 10, 220]])
        noise = np.random.default_rng(row).integers(-15, 15, (self._side, self._side, 3))
        return np.clip(colours[self.class_map(row) % 6] + noise, 0, 255).astype(np.uint8)

    def index(self, classes: int = 4, test: frozenset[int] | None = None) -> ClassIndex:
        histograms = [np.bincount(self.class_map(row).ravel(), minlength=256) for row in range(len(self.names))]
        return index_of(self, {f"c{c}": c for c in range(1, classes + 1)}, histograms, test)


def blocks(each: int = 12, classes: int = 4) -> Blocks:
    """`each` pictures of every class; every third one shows the next class too."""
    shown = []
    for row in range(each * classes):
        c = row % classes
        shown.append([c + 1, (c + 1) % classes + 1] if row % 3 == 0 else [c + 1])
    return Blocks(shown)


def write_index(place: Path, entries: dict[str, list[dict[str, object]]], **meta: object) -> Path:
    """PLACE/few/index.json with the files of `entries` below PLACE."""
    for rows in entries.values():
        for row in rows:
            mask = np.zeros((6, 8), np.uint8)
            mask[2:4, 2:5] = int(str(row["value"])) if str(row["value"]).isdigit() else 1
            for name, array in (("image", np.zeros((6, 8, 3), np.uint8)), ("mask", mask)):
                file = place / str(row.get(name, "none.png")).lstrip("/")
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(file)
    folder = place / "few"
    folder.mkdir(exist_ok=True)
    (folder / "index.json").write_text(json.dumps({"classes": entries}))
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder
