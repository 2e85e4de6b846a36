"""COCO JSON: polygons and run lengths by picture, categories by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from raygseg.data.object_store import read_bytes
from raygseg.data.picture_files import ClassMap
from raygseg.data.preparation.findings import UnusableError
from raygseg.data.preparation.listing import Annotation, ByStem, Item, Reading
from raygseg.data.preparation.shapes import Mask, polygon_mask, run_length_mask
from raygseg.errors import DataError
from raygseg.labels import LabelSpace

Raw = Mapping[str, Any]


class CocoAnnotations:
    """The annotations of one COCO file, held in memory.

    Where two overlap, the smaller one is seen; crowds lie under everything. A picture that is listed
    without annotations is background.

    Args:
        file: the JSON file.
        labels: classes by category name; None: background, then the categories in the order of their ids.

    Raises:
        DataError: the file is not COCO's, or has categories that `labels` lacks.
    """

    upright, any_scale, by_object = False, False, False

    def __init__(self, file: str, labels: LabelSpace | None) -> None:
        content = read_bytes(file)
        self._digest = hashlib.sha256(content).hexdigest()[:16]
        try:
            document = json.loads(content)
            categories = sorted(document["categories"], key=lambda c: int(c["id"]))
            names = {int(c["id"]): str(c["name"]) for c in categories}
            images: dict[int, Raw] = {int(i["id"]): i for i in document["images"]}
            self._pictures = {str(i["file_name"]): i for i in images.values()}
            self._shapes: dict[str, list[Raw]] = {name: [] for name in self._pictures}
            for shape in document["annotations"]:
                self._shapes[str(images[int(shape["image_id"])]["file_name"])].append(shape)
        except (ValueError, KeyError, TypeError) as error:
            hint = 'it needs "images", "annotations" and "categories"'
            raise DataError(f"{file}: not a COCO annotation file ({error!r})", hint) from error
        self.labels = labels or LabelSpace(("background", *(n for n in names.values() if n != "background")))
        missing = [name for name in names.values() if name not in self.labels.names]
        if missing:
            raise DataError(f"{file}: category '{missing[0]}' is not in the labels", f"add it to {self.labels.names}")
        self._class_of = {number: self.labels.names.index(name) for number, name in names.items()}
        self.files = ByStem(list(self._pictures))

    def read(self, item: Item) -> Reading:
        name = item.name if item.name in self._pictures else self.files.find(item.name)
        if name is None or PurePosixPath(name).name != PurePosixPath(item.name).name:
            raise UnusableError("mask missing", "not among the file's images")
        picture = self._pictures[name]
        try:
            height, width = int(picture["height"]), int(picture["width"])
        except (KeyError, TypeError, ValueError) as error:
            raise UnusableError("mask unreadable", "its entry has no height and width") from error
        class_map: ClassMap = np.full((height, width), self.labels.background or 0, dtype=np.uint8)
        found: list[tuple[str, str]] = []
        for shape in sorted(self._shapes[name], key=lambda s: self._rank(s, height, width)):
            mask = self._mask(shape, height, width)
            if not mask.any():
                found.append(("shape ignored", f"annotation {shape.get('id')} covers no pixel"))
            class_map[mask] = self._class_of[int(shape["category_id"])]
        return Reading([Annotation(class_map)], found)

    def identity(self) -> Mapping[str, Any]:
        return {"coco": self._digest}

    def _rank(self, shape: Raw, height: int, width: int) -> tuple[bool, float, str]:
        """Crowds first, then the large, so that parts stay visible on what they are part of; ids break ties."""
        area = shape.get("area")
        if not isinstance(area, (int, float)):
            area = float(self._mask(shape, height, width).sum())
        return not shape.get("iscrowd"), -float(area), str(shape.get("id"))

    def _mask(self, shape: Raw, height: int, width: int) -> Mask:
        segmentation = shape.get("segmentation")
        if int(shape.get("category_id", -1)) not in self._class_of:
            raise UnusableError("unknown class", f"category {shape.get('category_id')} is not in the file")
        if isinstance(segmentation, Mapping):
            return run_length_mask(segmentation, height, width)
        mask = np.zeros((height, width), dtype=bool)
        for polygon in segmentation if isinstance(segmentation, list) else ():
            points = np.asarray(polygon, dtype=np.float64)
            if points.ndim != 1 or len(points) % 2:
                raise UnusableError("mask unreadable", f"annotation {shape.get('id')}: a polygon is x, y, x, y, ...")
            mask |= polygon_mask(points.reshape(-1, 2).tolist(), height, width)
        return mask
