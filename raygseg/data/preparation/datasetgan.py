"""DatasetGAN's annotations: `image_0.png` (or jpg) beside `image_mask0.npy`, [H, W] class indices."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from raygseg.data.object_store import join, list_files
from raygseg.data.picture_files import ClassMap
from raygseg.data.preparation.findings import Finding, UnusableError, printable
from raygseg.data.preparation.listing import Annotation, Item, Listing, Reading, of_split, photo_items, sized
from raygseg.data.preparation.mask_files import read_labels
from raygseg.data.preparation.photos import names_in
from raygseg.data.preparation.reading import read_file
from raygseg.errors import DataError
from raygseg.labels import LabelSpace


class ArrayMasks:
    """NumPy files by number, read without unpickling anything.

    Args:
        labels: their classes; None: background, part1, ... up to the highest index that occurs.
    """

    upright, any_scale, by_object = False, True, False

    def __init__(self, place: str, labels: LabelSpace | None) -> None:
        self._place = place
        self._entries = list_files(place, ".npy")
        matches = ((re.fullmatch(r"image_mask_?(\d+)\.npy", PurePosixPath(e.name).name), e.name) for e in self._entries)
        self._files = {(str(PurePosixPath(name).parent), int(match[1])): name for match, name in matches if match}
        if not self._files:
            raise DataError(f"{place}: no image_mask0.npy, ... in it", "name the folder of DatasetGAN's annotations")
        self.labels = labels or self._found_labels()

    def read(self, item: Item) -> Reading:
        name = self._files.get(_key(item.name))
        if name is None:
            raise UnusableError("mask missing")
        return Reading([Annotation(self._load(name))])

    def identity(self) -> Mapping[str, Any]:
        return {"files": len(self._entries), "names": sized(self._entries)}

    def without_picture(self, items: list[Item]) -> list[Finding]:
        keys = {_key(item.name) for item in items}
        return [
            Finding(printable(n), "mask without picture") for key, n in sorted(self._files.items()) if key not in keys
        ]

    def _load(self, name: str) -> ClassMap:
        content = read_file(join(self._place, name), "mask unreadable")
        try:
            array = np.load(io.BytesIO(content), allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise UnusableError("mask unreadable", f"not a plain NumPy array ({error})") from error
        array = np.squeeze(array) if isinstance(array, np.ndarray) else np.empty(0)
        if array.ndim != 2 or array.dtype.kind not in "uif" or not np.isfinite(array).all():
            raise UnusableError("mask unreadable", f"not [H, W] numbers but {array.dtype} {array.shape}")
        if array.size and not 0 <= array.min() <= array.max() <= 255:
            raise UnusableError("unknown class", f"indices from {array.min()} to {array.max()}")
        return np.asarray(array, dtype=np.uint8)

    def _found_labels(self) -> LabelSpace:
        highest = 1
        for name in self._files.values():
            try:
                highest = max(highest, int(self._load(name).max(initial=0)))
            except UnusableError:
                continue  # named when its picture is prepared
        return LabelSpace(("background", *(f"part{i}" for i in range(1, min(highest, 254) + 1))))


def open_datasetgan(place: str, labels: str, split: str) -> Listing:
    """List DatasetGAN's pictures below `place` that are called image_NUMBER; their classes are `labels`'."""
    space, _ = read_labels(labels, (place,))
    masks = ArrayMasks(place, space)
    items, others = photo_items(place)
    items = [item for item in items if re.fullmatch(r"image_\d+", PurePosixPath(item.name).stem)]
    if split:
        items = of_split(items, names_in(split), split)
    others = [other for other in others if not other.name.endswith((".npy", ".json"))]
    return Listing(place, items, masks, [*others, *([] if split else masks.without_picture(items))])


def _key(name: str) -> tuple[str, int]:
    path = PurePosixPath(name)
    return str(path.parent), int(path.stem.removeprefix("image_"))
