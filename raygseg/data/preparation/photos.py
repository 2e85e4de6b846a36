"""The layout `pictures`: photos anywhere below a folder, with or without masks of any of three formats."""

from __future__ import annotations

import re

from raygseg.data.folder import split_members
from raygseg.data.object_store import exists, is_s3, join, list_files, local_path, read_bytes
from raygseg.data.preparation.coco import CocoAnnotations
from raygseg.data.preparation.labelme import LabelmeFiles
from raygseg.data.preparation.listing import Listing, of_split, photo_items
from raygseg.data.preparation.mask_files import MaskFiles, read_labels
from raygseg.errors import DataError

LABELS_HINT = 'write labels.json: {"classes": ["background", "wheel", ...]}, or give --labels FILE'
AnyAnnotations = MaskFiles | CocoAnnotations | LabelmeFiles


def open_photos(
    place: str, masks: str, labels: str, mask_format: str, split: str, leave_out: tuple[str, ...]
) -> Listing:
    """List the photos below `place`.

    Args:
        masks: folder of PNG or labelme files, or a COCO file; empty: none, or `masks/` beside `images/`.
        labels: a labels.json; empty: the one by the masks or the photos.
        split: a file of names, or a split of splits.json there or above; empty: all.
        leave_out: places below which nothing belongs to the source, such as the output.

    Raises:
        DataError: no pictures, no masks or no labels where they should be.
    """
    masks = masks or _beside(place)
    outside = (*leave_out, masks) if masks and not masks.endswith(".json") else leave_out
    items, others = photo_items(place, outside)
    if split:
        names, where = (names_in(split), split) if exists(split) else split_members(place, split)
        items = of_split(items, names, where)
    if not masks:
        return Listing(place, items, None, others)
    annotations = _annotations(place, masks, labels, mask_format)
    others = [o for o in others if not o.name.endswith(".json")]  # annotations and labels lie among the photos
    unused = [] if split else annotations.files.without_picture(items)
    return Listing(place, items, annotations, [*others, *unused])


def names_in(file: str) -> set[str]:
    """The lines of a split file; PASCAL VOC writes 1, 0 or -1 behind a name, and -1 takes it out."""
    try:
        lines = [line.strip() for line in read_bytes(file).decode().splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not a text file", "give a file with one name a line") from error
    matches = [match for line in lines if (match := re.fullmatch(r"(.+?)(?:\s+(-?[01]))?", line))]
    names = {match[1] for match in matches if match[2] != "-1"}
    if not names:
        raise DataError(f"{file}: names nothing", "give a file with one name a line")
    return names


def _beside(place: str) -> str:
    """`masks` below the place where `images` is there too: raygseg's own layout."""
    if is_s3(place):
        return ""
    folder = local_path(place)
    return join(place, "masks") if (folder / "images").is_dir() and (folder / "masks").is_dir() else ""


def _annotations(place: str, masks: str, labels: str, mask_format: str) -> AnyAnnotations:
    space, colours = read_labels(labels, () if masks.endswith(".json") else (masks, place))
    kind = _kind(place, masks) if mask_format == "auto" else mask_format
    if kind == "coco":
        return CocoAnnotations(masks, space)
    if kind == "labelme":
        return LabelmeFiles(masks, space)
    if space is None:
        raise DataError(f"{masks}: no labels.json there, above it or in {place}", LABELS_HINT)
    return MaskFiles(masks, space, colours)


def _kind(place: str, masks: str) -> str:
    """Which format lies at `masks`. Raises DataError where none does."""
    if masks.endswith(".json"):
        if not exists(masks):
            raise DataError(f"{masks}: no such file", "check --masks")
        return "coco"
    entries = [e.name for e in list_files(masks)]
    same = masks.rstrip("/") == place.rstrip("/")  # PNGs among the photos are photos
    if not same and any(name.endswith(".png") for name in entries):
        return "png"
    if any(name.endswith(".json") for name in entries):
        return "labelme"
    raise DataError(f"{masks}: no PNG masks and no labelme JSON in it", "check --masks; a COCO file is named itself")
