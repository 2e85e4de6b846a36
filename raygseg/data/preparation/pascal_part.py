"""PASCAL-Part: objects with part masks in MATLAB files; every object of a class becomes a row, cut out by its box.

    JPEGImages/2008_000008.jpg             VOC 2010's pictures
    Annotations_Part/2008_000008.mat       anno.objects(i): class, mask, parts(j): part_name, mask
    ImageSets/Main/car_train.txt, ...      lists: `--split train` finds the task's, else Main's, else Segmentation's

Boxes, sizes and overlaps follow spec 1.8: boxes smaller than 50 x 50 (car) or 32 x 32 (horse) are dropped, so are
those of which another object's box covers more than 5 %, and objects whose parts cover less than 1 % of the box.
What an object's mask covers but no part does is called body, our choice: the sources do not say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from raygseg.data.object_store import exists, join, list_files
from raygseg.data.picture_files import ClassMap
from raygseg.data.preparation.findings import Finding, UnusableError
from raygseg.data.preparation.framing import Box
from raygseg.data.preparation.listing import Annotation, ByStem, Item, Listing, Reading, of_split, photo_items, sized
from raygseg.data.preparation.matlab import read_matlab, require_scipy
from raygseg.data.preparation.photos import names_in
from raygseg.data.preparation.shapes import Mask
from raygseg.errors import ConfigError, DataError
from raygseg.labels import LabelSpace

PICTURES, PARTS = "JPEGImages", "Annotations_Part"
COVERED_BOX, LEAST_PARTS = 0.05, 0.01


class PartTask(NamedTuple):
    """One category: its smallest box, and its classes as (name, pattern of part names), later ones on top."""

    category: str
    least_side: int
    classes: tuple[tuple[str, str], ...]


TASKS: Mapping[str, PartTask] = {
    "car": PartTask(
        "car",
        50,
        (
            ("body", r"(front|left|right|back|roof)side|(left|right)mirror|door_\d+"),
            ("window", r"window_\d+"),
            ("wheel", r"wheel_\d+"),
            ("light", r"(head|tail)light_\d+"),
            ("plate", r"[fb]liplate"),
        ),
    ),
    "horse": PartTask(
        "horse",
        32,
        (
            ("body", r"torso|neck"),
            ("leg", r"[lr][fb][ul]?leg|[lr][fb]ho"),
            ("tail", r"tail"),
            ("head", r"head|[lr]ear|[lr]eye|muzzle"),
        ),
    ),
}


class ObjectParts:
    """The label maps of all objects of one category in a picture."""

    upright, any_scale, by_object = False, False, True

    def __init__(self, place: str, task: PartTask) -> None:
        require_scipy("PASCAL-Part")
        self._place, self._task = place, task
        self.labels = LabelSpace(("background", *(name for name, _ in task.classes)))
        self._entries = list_files(place, ".mat")
        if not self._entries:
            raise DataError(f"{place}: no .mat files in it", "unpack PASCAL-Part's Annotations_Part there")
        self.files = ByStem([e.name for e in self._entries])

    def read(self, item: Item) -> Reading:
        name = self.files.find(item.name)
        if name is None:
            raise UnusableError("mask missing")
        anno = read_matlab(join(self._place, name), "anno")
        objects = [o for o in listed(getattr(anno, "objects", None)) if hasattr(o, "mask")]
        boxes = [_box(_mask(o)) for o in objects]
        annotations: list[Annotation] = []
        found: list[tuple[str, str]] = []
        for number, one in enumerate(objects):
            box = boxes[number]
            if str(one.__dict__.get("class", "")) != self._task.category or box is None:
                continue
            others = [other for i, other in enumerate(boxes) if i != number and other is not None]
            if reason := self._reason(box, others):
                found.append(reason)
                continue
            class_map = self._class_map(one)
            left, top, right, bottom = (int(side) for side in box)
            if np.count_nonzero(class_map[top:bottom, left:right]) < LEAST_PARTS * (right - left) * (bottom - top):
                found.append(("object too small", "its parts cover less than 1 % of its box"))
                continue
            annotations.append(Annotation(class_map, box, f"#{number}"))
        if not annotations and not found:
            found.append(("no object", f"no {self._task.category}"))
        return Reading(annotations, found)

    def identity(self) -> Mapping[str, Any]:
        return {"files": len(self._entries), "names": sized(self._entries)}

    def _reason(self, box: Box, others: Sequence[Box]) -> tuple[str, str] | None:
        width, height = box[2] - box[0], box[3] - box[1]
        if min(width, height) < self._task.least_side:
            return "object too small", f"{width:g}x{height:g}, less than {self._task.least_side} pixels"
        worst = max((_shared(box, other) for other in others), default=0.0)
        if worst > COVERED_BOX:
            return "object overlapped", f"{100 * worst:.0f} % of its box"
        return None

    def _class_map(self, one: Any) -> ClassMap:
        whole = _mask(one)
        class_map: ClassMap = np.where(whole, 1, 0).astype(np.uint8)
        masks = [(str(p.part_name), _mask(p)) for p in listed(getattr(one, "parts", None)) if hasattr(p, "part_name")]
        for index, (_, pattern) in enumerate(self._task.classes, start=1):
            for name, mask in masks:
                if mask.shape != whole.shape:
                    raise UnusableError("mask unreadable", f"part {name} is of another size than its object")
                if re.fullmatch(pattern, name):
                    class_map[mask] = index
        return class_map


def listed(value: Any) -> list[Any]:
    """MATLAB's structure arrays come as nothing, one structure or an array of them."""
    if value is None:
        return []
    return list(value.ravel()) if isinstance(value, np.ndarray) else [value]


def open_pascal_part(place: str, task: str, split: str) -> Listing:
    """List the pictures of PASCAL-Part that have annotations.

    Raises ConfigError for an unknown task, DataError for an unknown split or a missing folder,
    MissingEnvironmentError without scipy.
    """
    if task not in TASKS:
        raise ConfigError(f"task={task or '(none)'} is not one of pascal-part", f"use one of {', '.join(TASKS)}")
    parts = ObjectParts(join(place, PARTS), TASKS[task])
    items, others = photo_items(join(place, PICTURES))
    items = [item for item in items if parts.files.find(item.name)]
    if split:
        file = split_file(place, split, (f"Main/{task}_{split}", f"Main/{split}", f"Segmentation/{split}"))
        items = of_split(items, names_in(file), file)
    left_out: list[Finding] = [*others, *([] if split else parts.files.without_picture(items))]
    return Listing(join(place, PICTURES), items, parts, left_out)


def split_file(place: str, split: str, names: Sequence[str]) -> str:
    """`split` itself where it is a file, else the first of `ImageSets/NAME.txt`. Raises DataError."""
    candidates = [split, *(join(place, "ImageSets", f"{name}.txt") for name in names)]
    for candidate in candidates:
        if exists(candidate):
            return candidate
    raise DataError(f"{place}: no split '{split}'", f"give a file of names, or one of {', '.join(candidates[1:])}")


def _mask(one: Any) -> Mask:
    mask = np.asarray(one.mask)
    if mask.ndim != 2:
        raise UnusableError("mask unreadable", "an object's mask has no height and width")
    return np.asarray(mask != 0)


def _box(mask: Mask) -> Box | None:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _shared(box: Box, other: Box) -> float:
    """Share of `box` that `other` covers."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / ((box[2] - box[0]) * (box[3] - box[1]))
