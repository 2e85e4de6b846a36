"""The label space: which classes a label map may hold, how they are drawn, flipped and merged."""

from __future__ import annotations

import colorsys
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raygseg.errors import DataError

LabelMap = NDArray[np.integer[Any]]
RGB = tuple[int, int, int]


def distinct_palette(count: int) -> tuple[RGB, ...]:
    """`count` colours: black for class 0, then hues a golden-ratio step apart."""
    colours: list[RGB] = [(0, 0, 0)]
    for i in range(1, count):
        hue = (0.07 + (i - 1) * 0.61803398875) % 1.0
        red, green, blue = colorsys.hsv_to_rgb(hue, 0.55 + 0.4 * (i % 2), 1.0 - 0.25 * (i % 3 == 0))
        colours.append((round(red * 255), round(green * 255), round(blue * 255)))
    return tuple(colours[:count])


@dataclass(frozen=True)
class LabelSpace:
    """Class names in index order and what belongs to them.

    Attributes:
        names: one name a class; index 0 is the background unless `background` says otherwise.
        palette: one RGB colour a class; made up where not given.
        void: index in label maps that means "not labelled"; it is never a class.
        swaps: pairs of class indices that trade places under a horizontal flip.
        background: index of the background class, or None.
    """

    names: tuple[str, ...]
    palette: tuple[RGB, ...] = ()
    void: int | None = None
    swaps: tuple[tuple[int, int], ...] = ()
    background: int | None = 0
    _lut: NDArray[np.uint8] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        count = len(self.names)
        if not 1 <= count <= 255:
            raise DataError(f"a label space needs 1 to 255 classes, not {count}", "check labels.json")
        if len(set(self.names)) != count:
            raise DataError(f"class names repeat: {list(self.names)}", "give each class its own name")
        if not self.palette:
            object.__setattr__(self, "palette", distinct_palette(count))
        if len(self.palette) != count:
            raise DataError(
                f"{len(self.palette)} palette colours for {count} classes", "give one colour a class, or none"
            )
        flat = [i for pair in self.swaps for i in pair]
        if any(not 0 <= i < count for i in flat) or len(set(flat)) != len(flat):
            raise DataError(f"swaps {self.swaps} name a class twice or out of range", "check 'swaps' in labels.json")
        if self.void is not None and 0 <= self.void < count:
            raise DataError(f"void index {self.void} is also a class", "use an index outside the classes, e.g. 255")
        lut = np.arange(256, dtype=np.uint8)
        for a, b in self.swaps:
            lut[a], lut[b] = b, a
        object.__setattr__(self, "_lut", lut)

    @property
    def num_classes(self) -> int:
        return len(self.names)

    @property
    def flip_lut(self) -> NDArray[np.uint8]:
        """[256] table: class index after a horizontal flip."""
        return self._lut

    @property
    def flip_order(self) -> list[int]:
        """Channel order after a horizontal flip: `probabilities.flip(-1)[:, flip_order]`."""
        return [int(i) for i in self._lut[: self.num_classes]]

    def colourise(self, label_map: LabelMap) -> NDArray[np.uint8]:
        """[..., H, W] class indices to [..., H, W, 3] RGB; void is mid grey."""
        table = np.full((256, 3), 128, dtype=np.uint8)
        table[: self.num_classes] = np.asarray(self.palette, dtype=np.uint8)
        return np.asarray(table[np.asarray(label_map)], dtype=np.uint8)

    def check(self, label_map: LabelMap, where: str) -> None:
        """Raise DataError naming `where` if the map holds an index that is neither class nor void."""
        values = np.unique(label_map)
        bad = [int(v) for v in values if not (0 <= v < self.num_classes or v == self.void)]
        if bad:
            raise DataError(
                f"{where}: class index {bad[0]} is out of range (classes 0-{self.num_classes - 1}"
                + (f", void {self.void})" if self.void is not None else ")"),
                "fix the mask, add the class to labels.json, or set 'void' there",
            )

    def merged(self, mapping: Sequence[int], names: Sequence[str]) -> LabelSpace:
        """The coarser space in which old class i becomes class mapping[i]; keeps void and swaps that still hold."""
        swaps = {tuple(sorted((mapping[a], mapping[b]))) for a, b in self.swaps if mapping[a] != mapping[b]}
        background = None if self.background is None else mapping[self.background]
        return LabelSpace(tuple(names), (), self.void, tuple((a, b) for a, b in sorted(swaps)), background)

    def to_dict(self) -> dict[str, Any]:
        return {
            "classes": list(self.names),
            "palette": [list(c) for c in self.palette],
            "void": self.void,
            "swaps": [[self.names[a], self.names[b]] for a, b in self.swaps],
            "background": None if self.background is None else self.names[self.background],
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], where: str = "labels.json") -> LabelSpace:
        """Read `classes` (required), `palette`, `void` (or `ignore_index`), `swaps`, `background`."""
        try:
            names = tuple(str(n) for n in raw["classes"])
        except (KeyError, TypeError) as error:
            raise DataError(f"{where}: no list 'classes'", 'write {"classes": ["background", ...]}') from error
        index = {name: i for i, name in enumerate(names)}

        def at(value: Any) -> int:
            if isinstance(value, int):
                return value
            if value not in index:
                raise DataError(f"{where}: '{value}' is not in 'classes'", f"use one of {list(names)}")
            return index[value]

        background = raw.get("background", names[0] if names and names[0] == "background" else None)
        return cls(
            names=names,
            palette=tuple((int(c[0]), int(c[1]), int(c[2])) for c in raw.get("palette") or ()),
            void=raw.get("void", raw.get("ignore_index")),
            swaps=tuple((at(a), at(b)) for a, b in raw.get("swaps") or ()),
            background=None if background is None else at(background),
        )

    def save(self, path: str | Path) -> None:
        Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> LabelSpace:
        """Read labels.json (or a data set's meta.json). Raises DataError naming the file."""
        try:
            raw = json.loads(Path(path).read_text())
        except FileNotFoundError as error:
            raise DataError(f"{path}: not found", 'write a labels.json with {"classes": [...]}') from error
        except json.JSONDecodeError as error:
            raise DataError(f"{path}: not JSON (line {error.lineno}: {error.msg})", "mend the file") from error
        return cls.from_dict(raw, str(path))
