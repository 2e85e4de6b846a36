"""PASCAL VOC's segmentation (palette PNGs) and SBD's (MATLAB files): 20 classes, 255 is void.

JPEGImages/*.jpg, SegmentationClass/*.png, ImageSets/Segmentation/train.txt      VOC
img/*.jpg, cls/*.mat, train.txt                                                  SBD (also below `dataset/`)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from raygseg.data.object_store import exists, join, list_files
from raygseg.data.preparation.findings import UnusableError
from raygseg.data.preparation.listing import Annotation, ByStem, Item, Listing, Reading, of_split, photo_items, sized
from raygseg.data.preparation.mask_files import MaskFiles
from raygseg.data.preparation.matlab import read_matlab, require_scipy
from raygseg.data.preparation.pascal_part import split_file
from raygseg.data.preparation.photos import names_in
from raygseg.errors import DataError
from raygseg.labels import RGB, LabelSpace

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


def voc_colour(index: int) -> RGB:
    """VOC's colour of a class: bit 3 k + c of the index is bit 7 - k of channel c."""
    channels = [sum((index >> (3 * k + c) & 1) << (7 - k) for k in range(8)) for c in range(3)]
    return channels[0], channels[1], channels[2]


def voc_labels() -> LabelSpace:
    return LabelSpace(CLASSES, tuple(voc_colour(i) for i in range(len(CLASSES))), void=255)


class SbdFiles:
    """SBD's `GTcls.Segmentation`, [H, W] class indices."""

    upright, any_scale, by_object = False, False, False

    def __init__(self, place: str) -> None:
        require_scipy("SBD")
        self._place, self.labels = place, voc_labels()
        self._entries = list_files(place, ".mat")
        self.files = ByStem([e.name for e in self._entries])

    def read(self, item: Item) -> Reading:
        name = self.files.find(item.name)
        if name is None:
            raise UnusableError("mask missing")
        segmentation = np.asarray(getattr(read_matlab(join(self._place, name), "GTcls"), "Segmentation", None))
        if segmentation.ndim != 2 or segmentation.dtype.kind not in "ui":
            raise UnusableError("mask unreadable", "no GTcls.Segmentation in it")
        return Reading([Annotation(segmentation.astype(np.uint8))])

    def identity(self) -> Mapping[str, Any]:
        return {"files": len(self._entries), "names": sized(self._entries)}


def open_voc(place: str, split: str) -> Listing:
    """List the pictures of VOC or SBD that have masks. Raises DataError where neither is there."""
    voc = bool(list_files(join(place, "SegmentationClass"), ".png"))
    root = join(place, "dataset") if not voc and list_files(join(place, "dataset", "cls"), ".mat") else place
    annotations: MaskFiles | SbdFiles
    if voc:
        labels = voc_labels()
        colours = {colour: i for i, colour in enumerate(labels.palette)} | {voc_colour(255): 255}
        annotations = MaskFiles(join(place, "SegmentationClass"), labels, colours)
    elif list_files(join(root, "cls"), ".mat"):
        annotations = SbdFiles(join(root, "cls"))
    else:
        raise DataError(f"{place}: neither SegmentationClass/*.png nor cls/*.mat in it", "name the folder above them")
    pictures = join(root, "JPEGImages" if voc else "img")
    items, others = photo_items(pictures)
    items = [item for item in items if annotations.files.find(item.name)]
    if split:
        own = join(root, f"{split}.txt")
        file = own if not voc and exists(own) else split_file(place, split, (f"Segmentation/{split}",))
        items = of_split(items, names_in(file), file)
    return Listing(
        pictures, items, annotations, [*others, *([] if split else annotations.files.without_picture(items))]
    )
