"""Which pictures show which class, and the label maps in which a value stands for it (PANet spec 1.7).

Pictures and classes keep their positions when an index is narrowed to some pictures, so that episodes drawn from a
part can be read from the whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from raygseg.data.picture_files import ClassMap, Picture
from raygseg.data.picture_sets import BadFile
from raygseg.errors import ConfigError, DataError

VOID = 255  # in every label map that an index gives
Positions = NDArray[np.int64]


class MaskedPictures(Protocol):
    """Pictures with label maps by row; void pixels of the maps are 255. May be read from several threads."""

    @property
    def names(self) -> Sequence[str]: ...

    def picture(self, row: int) -> Picture:
        """uint8 [H, W, 3] at its own size. Raises DataError naming the file."""
        ...

    def class_map(self, row: int) -> ClassMap:
        """uint8 [H, W] at its own size. Raises DataError naming the file."""
        ...


@dataclass(frozen=True)
class ClassIndex:
    """Class -> the pictures that show it.

    Attributes:
        pictures: where pictures and label maps come from.
        classes: names; episodes hold positions in it.
        members: [n] ascending picture positions for each class.
        pixels: [n] how many pixels the class has in each of its members; empty where that is not known.
        group_of: [pictures] which entry of `values` a picture's label map is written in.
        values: for each group, the value in its label maps of each class that it knows.
        test: pictures of the source's own test list; None: it has no lists.
        folds: test classes of each fold where the source says so.
        skipped: pictures whose label map cannot be used; they show no class.
    """

    pictures: MaskedPictures
    classes: tuple[str, ...]
    members: tuple[Positions, ...]
    pixels: tuple[Positions, ...]
    group_of: Positions
    values: tuple[Mapping[str, int], ...]
    test: frozenset[int] | None = None
    folds: tuple[tuple[str, ...], ...] = ()
    skipped: tuple[BadFile, ...] = ()

    def __len__(self) -> int:
        return len(self.group_of)

    @cached_property
    def fingerprint(self) -> str:
        """16 digits over names, classes, members and values; not where the pictures lie."""
        facts = {
            "names": list(self.pictures.names),
            "members": {name: rows.tolist() for name, rows in zip(self.classes, self.members, strict=True)},
            "groups": self.group_of.tolist(),
            "values": [dict(sorted(values.items())) for values in self.values],
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def position(self, name: str) -> int:
        """Of a class. Raises DataError for a name that is not there."""
        if name not in self.classes:
            raise DataError(f"there is no class '{name}'", f"use some of {', '.join(self.classes)}")
        return self.classes.index(name)

    def counts(self) -> dict[str, int]:
        """Pictures by class."""
        return {name: len(rows) for name, rows in zip(self.classes, self.members, strict=True)}

    def narrowed(self, pictures: Iterable[int], min_pixels: int = 0) -> ClassIndex:
        """Only these pictures, and only for the classes of which they show at least `min_pixels`.

        Raises ConfigError where pixels are asked for and the source does not tell them.
        """
        if min_pixels and not self.pixels:
            raise ConfigError("min_pixels: the index does not say how many pixels a class has", "set min_pixels=0")
        wanted = np.zeros(len(self), bool)
        wanted[list(pictures)] = True
        kept = [wanted[rows] for rows in self.members]
        if min_pixels:
            kept = [keep & (pixels >= min_pixels) for keep, pixels in zip(kept, self.pixels, strict=True)]
        members = tuple(rows[keep] for rows, keep in zip(self.members, kept, strict=True))
        pixels = tuple(p[keep] for p, keep in zip(self.pixels, kept, strict=True)) if self.pixels else ()
        return replace(self, members=members, pixels=pixels)

    def way_map(self, picture: int, ways: Sequence[int]) -> ClassMap:
        """uint8 [H, W] of a picture: i + 1 where it shows `classes[ways[i]]`, 255 where void, else 0."""
        values = self.values[int(self.group_of[picture])]
        table = np.zeros(256, np.uint8)
        for place, way in enumerate(ways):
            value = values.get(self.classes[way])
            if value is not None:
                table[value] = place + 1
        table[VOID] = VOID
        return np.asarray(table[self.pictures.class_map(picture)], dtype=np.uint8)

    def check_enough(self, classes: Sequence[int], needed: int) -> None:
        """Raise DataError naming the classes with fewer than `needed` pictures."""
        few = {self.classes[c]: len(self.members[c]) for c in classes if len(self.members[c]) < needed}
        if few:
            shown = ", ".join(f"{name} ({count})" for name, count in few.items())
            raise DataError(
                f"an episode needs {needed} pictures of a class (shots + queries); too few of: {shown}",
                f"lower shots, give more pictures, or leave such classes out with min_pictures={needed}",
            )


def index_of(
    pictures: MaskedPictures,
    classes: Mapping[str, int],
    pixels: Sequence[NDArray[np.integer[Any]]],
    test: frozenset[int] | None = None,
) -> ClassIndex:
    """An index from the histogram [256] of each label map; `classes` gives the value of each name."""
    table = np.stack([np.asarray(row, np.int64) for row in pixels]) if len(pixels) else np.zeros((0, 256), np.int64)
    members = tuple(np.flatnonzero(table[:, value]) for value in classes.values())
    counts = tuple(table[rows, value] for rows, value in zip(members, classes.values(), strict=True))
    group_of = np.zeros(len(table), np.int64)
    return ClassIndex(pictures, tuple(classes), members, counts, group_of, (dict(classes),), test)
