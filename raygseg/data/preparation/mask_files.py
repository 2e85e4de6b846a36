"""Masks as PNG: palette or grey (pixel value = class), one bit, or colours that labels.json's palette names."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from raygseg.data.folder import find_document, labels_from
from raygseg.data.object_store import join, list_files, read_bytes
from raygseg.data.picture_files import ClassMap, decode_mask
from raygseg.data.preparation.findings import UnusableError
from raygseg.data.preparation.listing import Annotation, ByStem, Item, Reading, sized
from raygseg.data.preparation.reading import read_file
from raygseg.errors import DataError
from raygseg.labels import RGB, LabelSpace

LABEL_FILES = ("labels.json", "meta.json")
COLOUR_MODES = ("RGB", "RGBA", "CMYK", "YCbCr")


class MaskFiles:
    """A PNG for each picture, of its size.

    Args:
        place: folder of the PNGs.
        names: of the PNGs, below it.
        labels: their classes.
        colours: what each colour of an RGB mask is; empty: colour masks are refused.
    """

    upright, any_scale, by_object = False, False, False

    def __init__(self, place: str, labels: LabelSpace, colours: Mapping[RGB, int]) -> None:
        self._place, self.labels, self._colours = place, labels, dict(colours)
        self._entries = list_files(place, ".png")
        self.files = ByStem([e.name for e in self._entries])

    def read(self, item: Item) -> Reading:
        name = self.files.find(item.name)
        if name is None:
            raise UnusableError("mask missing")
        content = read_file(join(self._place, name), "mask unreadable")
        class_map = self._decode(content)
        found: list[tuple[str, str]] = []
        values = set(np.unique(class_map).tolist())
        # Tools that know one object only write it as 255.
        if self.labels.num_classes == 2 and self.labels.void != 255 and 255 in values <= {0, 255}:
            class_map, found = np.minimum(class_map, 1), [("mask of 0 and 255", "")]
        return Reading([Annotation(class_map)], found)

    def identity(self) -> Mapping[str, Any]:
        return {"files": len(self._entries), "names": sized(self._entries)}

    def _decode(self, content: bytes) -> ClassMap:
        try:
            with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
                coloured = image.mode in COLOUR_MODES
                pixels = np.asarray(image.convert("RGB"), dtype=np.uint8) if coloured else None
        except (OSError, SyntaxError, ValueError) as error:
            raise UnusableError("mask unreadable", str(error)) from error
        if pixels is None:
            try:
                return decode_mask(content)
            except DataError as error:
                raise UnusableError("mask unreadable", error.message) from error
        if not self._colours:
            raise UnusableError(
                "mask unreadable", 'holds colours; name them in labels.json: "palette": [[r, g, b], ...]'
            )
        return class_map_of_colours(pixels, self._colours)


def class_map_of_colours(pixels: np.ndarray[Any, np.dtype[np.uint8]], colours: Mapping[RGB, int]) -> ClassMap:
    """[H, W, 3] to [H, W]. Raises UnusableError naming a colour that is no class."""
    codes = pixels.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.int32)
    values, inverse, counts = np.unique(codes, return_inverse=True, return_counts=True)
    classes = np.zeros(len(values), dtype=np.uint8)
    for row, value in enumerate(values.tolist()):
        colour = (value >> 16, value >> 8 & 255, value & 255)
        if colour not in colours:
            raise UnusableError("unknown class", f"colour {colour} on {int(counts[row])} pixels is not in the palette")
        classes[row] = colours[colour]
    return np.asarray(classes[inverse].reshape(codes.shape), dtype=np.uint8)


def read_labels(file: str, beside: Sequence[str]) -> tuple[LabelSpace | None, dict[RGB, int]]:
    """The classes of `file`, else of a labels.json or meta.json in or above one of the places; and what its
    colours mean where it has a palette. None where there is no such file.

    Raises DataError naming the file that is not one of labels.
    """
    document: dict[str, Any] = {}
    where: str | None = file or None
    if file:
        try:
            document = json.loads(read_bytes(file))
        except ValueError as error:
            raise DataError(f"{file}: not JSON ({error})", "mend the file") from error
        if not isinstance(document, dict):
            raise DataError(f"{file}: not a JSON object", 'write {"classes": ["background", ...]}')
    for place in () if file else beside:
        where, document = find_document(place, LABEL_FILES)
        if where is not None and "classes" in document:
            break
        where = None
    if where is None:
        return None, {}
    labels = labels_from(document, where)
    colours = {colour: index for index, colour in enumerate(labels.palette)} if document.get("palette") else {}
    return labels, colours
