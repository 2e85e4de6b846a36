"""CelebAMask-HQ: one PNG a part of each face, which overlap; parts are merged by a stated order.

    CelebA-HQ-img/0.jpg ...                                   1024 px
    CelebAMask-HQ-mask-anno/0/00000_skin.png ... 14/...       512 px, 2,000 faces a folder, absent parts have no file

Tasks (spec 1.8): `faces-10` and `faces-3` are RepurposeGAN's merges, in which the first part of the list has the
pixel (hair before all, skin after nose, since skin masks cover eyes and brows); `faces-8` are SemanticGAN's classes
in that same order, which its authors do not state; `faces-19` are all parts, painted in the order of the data set's
own script, in which later parts have the pixel.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from raygseg.data.object_store import join, list_files
from raygseg.data.picture_files import ClassMap
from raygseg.data.preparation.findings import Finding, UnusableError, printable
from raygseg.data.preparation.listing import Annotation, Item, Listing, Reading, of_split, photo_items, sized
from raygseg.data.preparation.photos import names_in
from raygseg.data.preparation.reading import read_file
from raygseg.errors import ConfigError, DataError
from raygseg.labels import LabelSpace

PICTURES, PARTS = "CelebA-HQ-img", "CelebAMask-HQ-mask-anno"
COVERED = 0.4  # of full brightness, from which a pixel is part of the part (spec 1.8)
PAINTED = (
    *("skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear"),
    *("mouth", "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth"),
)
Merge = tuple[str, tuple[str, ...]]  # class, its parts
LIPS = ("l_lip", "u_lip", "mouth")
EYES, BROWS, EARS = ("l_eye", "r_eye"), ("l_brow", "r_brow"), ("l_ear", "r_ear")


class FaceTask(NamedTuple):
    """classes: in index order, after background. priority: classes, the first of which has the pixel."""

    classes: tuple[Merge, ...]
    priority: tuple[str, ...]


def _merged(*classes: Merge) -> FaceTask:
    return FaceTask(classes, tuple(name for name, _ in classes))


TASKS: Mapping[str, FaceTask] = {
    "faces-10": _merged(
        ("hair", ("hair",)), ("eyebrow", BROWS), ("eye", EYES), ("lip", LIPS), ("nose", ("nose",)),
        ("skin", ("skin",)), ("ear", EARS), ("neck", ("neck",)), ("clothes", ("cloth",)),
    ),
    "faces-3": _merged(("eye", EYES), ("lip", LIPS), ("nose", ("nose",))),
    "faces-8": FaceTask(
        (
            ("ear", EARS), ("eye", EYES), ("eyebrow", BROWS), ("skin", ("skin",)), ("hair", ("hair",)),
            ("mouth", LIPS), ("nose", ("nose",)),
        ),
        ("hair", "eyebrow", "eye", "mouth", "nose", "skin", "ear"),
    ),
    "faces-19": FaceTask(tuple((part, (part,)) for part in PAINTED), tuple(reversed(PAINTED))),
}  # fmt: skip


class FaceParts:
    """Part files by face number, merged into one label map. Maps are half as large as pictures."""

    upright, any_scale, by_object = False, True, False

    def __init__(self, place: str, task: FaceTask) -> None:
        self._place, self._task = place, task
        names = ("background", *(name for name, _ in task.classes))
        pairs = [(names.index(n), names.index("r" + n[1:])) for n in names if n[:2] == "l_" and "r" + n[1:] in names]
        self.labels = LabelSpace(names, swaps=tuple(pairs))
        self._entries = list_files(place, ".png")
        self._files: dict[int, dict[str, str]] = {}
        for entry in self._entries:
            match = re.fullmatch(r"(\d+)_(\w+)", PurePosixPath(entry.name).stem)
            if match and match[2] in PAINTED:
                self._files.setdefault(int(match[1]), {})[match[2]] = entry.name
        if not self._files:
            raise DataError(f"{place}: no part masks such as 0/00000_skin.png in it", "unpack the whole data set there")

    def read(self, item: Item) -> Reading:
        files = self._files.get(_number(item.name), {})
        if not files:
            raise UnusableError("mask missing", "no part masks of this number")
        parts = {name: self._part(file) for name, file in files.items()}
        return Reading([Annotation(merge_parts(parts, self._task))])

    def identity(self) -> Mapping[str, Any]:
        return {"files": len(self._entries), "names": sized(self._entries)}

    def without_picture(self, items: list[Item]) -> list[Finding]:
        """The faces that have parts but no picture, named by their first part."""
        numbers = {_number(item.name) for item in items}
        lost = sorted(number for number in self._files if number not in numbers)
        return [Finding(printable(min(self._files[n].values())), "mask without picture") for n in lost]

    def _part(self, name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """[H, W] brightness."""
        content = read_file(join(self._place, name), "mask unreadable")
        try:
            with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
                return np.asarray(image.convert("L"), dtype=np.uint8)
        except (OSError, SyntaxError, ValueError) as error:
            raise UnusableError("mask unreadable", f"{name}: {error}") from error


def merge_parts(parts: Mapping[str, np.ndarray[Any, np.dtype[np.uint8]]], task: FaceTask) -> ClassMap:
    """[H, W] class indices: each pixel goes to the first class of the priority order that covers it.

    Args:
        parts: brightness [h, w] by part; all are brought to the size of the largest.
    """
    height, width = max(part.shape for part in parts.values())
    members = dict(task.classes)
    index = {name: i for i, (name, _) in enumerate(task.classes, start=1)}
    class_map: ClassMap = np.zeros((height, width), dtype=np.uint8)
    for name in reversed(task.priority):
        for part in members[name]:
            if part in parts:
                class_map[_at(parts[part], height, width) >= COVERED * 255] = index[name]
    return class_map


def open_celebamask(place: str, task: str, split: str) -> Listing:
    """List CelebAMask-HQ at `place`; `split` may be a file of numbers.

    Raises ConfigError for an unknown task, DataError where a folder is missing.
    """
    name = task or "faces-10"
    if name not in TASKS:
        raise ConfigError(f"task={task} is not one of celebamask-hq", f"use one of {', '.join(TASKS)}")
    items, others = photo_items(join(place, PICTURES))
    if split:
        items = of_split(items, names_in(split), split)
    parts = FaceParts(join(place, PARTS), TASKS[name])
    return Listing(join(place, PICTURES), items, parts, [*others, *([] if split else parts.without_picture(items))])


def _at(part: np.ndarray[Any, np.dtype[np.uint8]], height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    if part.shape == (height, width):
        return part
    return np.asarray(Image.fromarray(part).resize((width, height), Image.Resampling.BILINEAR), dtype=np.uint8)


def _number(name: str) -> int:
    text = PurePosixPath(name).stem
    return int(text) if text.isdecimal() else -1
