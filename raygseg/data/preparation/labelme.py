"""labelme JSON: one file a picture, with polygons, rectangles and circles; later shapes lie on top."""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from raygseg.data.object_store import join, list_files, read_bytes
from raygseg.data.picture_files import ClassMap
from raygseg.data.preparation.findings import UnusableError
from raygseg.data.preparation.listing import Annotation, ByStem, Item, Reading, sized
from raygseg.data.preparation.reading import read_file
from raygseg.data.preparation.shapes import Mask, circle_mask, polygon_mask, rectangle_mask
from raygseg.errors import DataError
from raygseg.labels import LabelSpace

NO_AREA = ("point", "points", "line", "linestrip")


class LabelmeFiles:
    """A JSON file for each picture. labelme shows pictures upright, so its coordinates are.

    Args:
        place: folder of the JSON files.
        labels: classes by name; None: background, then the names that occur, in alphabetical order.

    Raises:
        DataError: no annotation has a shape, so that there are no classes.
    """

    upright, any_scale, by_object = True, False, False

    def __init__(self, place: str, labels: LabelSpace | None) -> None:
        self._place = place
        self._entries = [e for e in list_files(place, ".json") if e.name.rpartition("/")[2] not in ("labels.json",)]
        self.files = ByStem([e.name for e in self._entries])
        self.labels = labels or self._found_labels()

    def read(self, item: Item) -> Reading:
        name = self.files.find(item.name)
        if name is None:
            raise UnusableError("mask missing")
        document = _parse(read_file(join(self._place, name), "mask unreadable"))
        try:
            height, width = int(document["imageHeight"]), int(document["imageWidth"])
            shapes = list(document["shapes"])
        except (KeyError, TypeError, ValueError) as error:
            raise UnusableError("mask unreadable", "no shapes, imageHeight or imageWidth") from error
        class_map: ClassMap = np.full((height, width), self.labels.background or 0, dtype=np.uint8)
        found: list[tuple[str, str]] = []
        for shape in shapes:
            kind = str(shape.get("shape_type") or "polygon")
            if kind in NO_AREA:
                found.append(("shape ignored", f"a {kind} has no area"))
                continue
            class_map[_mask(kind, shape, height, width)] = self._class_of(shape)
        return Reading([Annotation(class_map)], found)

    def identity(self) -> Mapping[str, Any]:
        return {"files": len(self._entries), "names": sized(self._entries)}

    def _class_of(self, shape: Mapping[str, Any]) -> int:
        label = str(shape.get("label"))
        if label not in self.labels.names:
            raise UnusableError("unknown class", f"'{label}' is not in the labels")
        return self.labels.names.index(label)

    def _found_labels(self) -> LabelSpace:
        names: set[str] = set()
        for entry in self._entries:
            try:
                shapes = _parse(read_bytes(join(self._place, entry.name))).get("shapes") or ()
                names |= {str(s["label"]) for s in shapes if s.get("shape_type") not in NO_AREA}
            except (UnusableError, KeyError, TypeError, AttributeError):
                continue  # named when its picture is prepared
        names.discard("background")
        if not names:
            raise DataError(f"{self._place}: no labelme shape in any JSON file", "check the folder given as masks")
        return LabelSpace(("background", *sorted(names)))


def _parse(content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except ValueError as error:
        raise UnusableError("mask unreadable", f"not JSON ({error})") from error
    if not isinstance(document, dict):
        raise UnusableError("mask unreadable", "not a labelme file")
    return document


def _mask(kind: str, shape: Mapping[str, Any], height: int, width: int) -> Mask:
    points: Sequence[Sequence[float]] = shape.get("points") or ()
    try:
        if kind == "polygon":
            return polygon_mask(points, height, width)
        if kind == "rectangle":
            return rectangle_mask(points[0], points[1], height, width)
        if kind == "circle":
            return circle_mask(points[0], points[1], height, width)
        if kind == "mask":
            return _pasted(str(shape["mask"]), points[0], height, width)
    except (IndexError, KeyError, TypeError, ValueError, OSError, binascii.Error) as error:
        raise UnusableError("mask unreadable", f"a {kind} without its points ({error!r})") from error
    raise UnusableError("mask unreadable", f"shapes of type '{kind}' are not known")


def _pasted(encoded: str, corner: Sequence[float], height: int, width: int) -> Mask:
    """labelme's shape `mask`: a one-bit PNG whose upper left corner is at `corner`."""
    with Image.open(io.BytesIO(base64.b64decode(encoded, validate=True)), formats=("PNG",)) as image:
        part = np.asarray(image.convert("L")) > 0
    mask = np.zeros((height, width), dtype=bool)
    left, top = round(corner[0]), round(corner[1])
    if left < 0 or top < 0:
        raise ValueError("begins outside the picture")
    room = mask[top : top + part.shape[0], left : left + part.shape[1]]
    room |= part[: room.shape[0], : room.shape[1]]
    return mask
