"""Open a source of classes and pictures, given as one string.

DIR with index.json                  class -> [{"image", "mask", "value"}]; folds and the void value in meta.json
DIR with images/ and masks/          labels.json; test pictures from splits.json
VOC, SBD, or VOC?sbd=DIR             SegmentationClass/*.png, cls/*.mat; test pictures from ImageSets/.../val.txt
PICTURES?annotations=FILE.json       COCO
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from raygseg.data.episodes.index import VOID, ClassIndex, index_of
from raygseg.data.folder import split_members
from raygseg.data.object_store import exists, is_s3, join, list_files, local_path, read_bytes
from raygseg.data.picture_files import ClassMap, Picture, decode_mask, decode_picture
from raygseg.data.picture_sets import Progress, scan
from raygseg.data.preparation.findings import UnusableError
from raygseg.data.preparation.listing import Item, Listing, join_item, of_split
from raygseg.data.preparation.pascal_part import split_file
from raygseg.data.preparation.photos import names_in, open_photos
from raygseg.data.preparation.reading import read_file
from raygseg.data.preparation.voc import open_voc
from raygseg.errors import DataError
from raygseg.labels import LabelSpace

KEYS = ("annotations", "sbd", "split")
INDEX = "index.json"


def read_class_index(source: str, max_bad_fraction: float = 0.05, progress: Progress | None = None) -> ClassIndex:
    """The classes of a source and which pictures show them; all label maps are read once where no index.json says it.

    Args:
        source: see the module's text; `?split=NAME` takes only some pictures.
        max_bad_fraction: share of pictures whose label map may be missing or damaged.
        progress: called with (done, of how many).

    Raises:
        DataError: nothing of this kind there, or too much of it damaged; names files.
    """
    place, _, query = source.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := [key for key in options if key not in KEYS]:
        raise DataError(f"{source}: unknown key '{unknown[0]}' after '?'", f"use {', '.join(KEYS)}")
    if exists(join(place, INDEX)):
        return read_index_file(place)
    split = options.get("split", "")
    if "annotations" in options:
        listings = [open_photos(place, options["annotations"], "", "coco", split, ())]
    elif list_files(join(place, "SegmentationClass"), ".png") or list_files(place, ".mat"):
        listings = [open_voc(place, split)]
        if "sbd" in options:
            listings.append(_without(open_voc(options["sbd"], split), listings[0]))
    else:
        listings = [open_photos(place, "", "", "auto", split, ())]
    if listings[0].annotations is None:
        raise DataError(f"{place}: pictures without masks", "name a folder with images/ and masks/, or index.json")
    return _scanned(source, place, listings, max_bad_fraction, progress)


class ListedPictures:
    """Pictures and label maps of listings, by row."""

    def __init__(self, listings: Sequence[Listing], labels: LabelSpace) -> None:
        self._rows: list[tuple[Listing, Item]] = [(listing, item) for listing in listings for item in listing.items]
        self._void = labels.void
        self._labels = labels
        self.names: Sequence[str] = [item.name for _, item in self._rows]

    def picture(self, row: int) -> Picture:
        listing, item = self._rows[row]
        return _decoded(join_item(listing, item), decode_picture)

    def class_map(self, row: int) -> ClassMap:
        listing, item = self._rows[row]
        assert listing.annotations is not None
        try:
            class_map = listing.annotations.read(item).annotations[0].class_map
        except UnusableError as error:
            raise DataError(f"{join_item(listing, item)}: {error}", "mend its mask or take the picture out") from error
        self._labels.check(class_map, f"{join_item(listing, item)}: class index out of range")
        if self._void in (None, VOID):
            return class_map
        return np.where(class_map == self._void, VOID, class_map).astype(np.uint8)


def _decoded(where: str, decode: Callable[[bytes], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """A picture or mask file. Raises DataError naming it; StorageError where its place cannot be reached."""
    try:
        return decode(read_file(where, "unreadable"))
    except (DataError, UnusableError) as error:
        said = error.message if isinstance(error, DataError) else str(error)
        raise DataError(f"{where}: {said}", "mend the file, or take it out of the source") from error


def _scanned(
    source: str, place: str, listings: Sequence[Listing], max_bad_fraction: float, progress: Progress | None
) -> ClassIndex:
    """Read every label map for its histogram; damaged ones show no class."""
    assert listings[0].annotations is not None
    labels = listings[0].annotations.labels
    pictures = ListedPictures(listings, labels)
    histograms: list[NDArray[np.int64]] = [np.zeros(256, np.int64)] * len(pictures.names)

    def look(row: int) -> None:
        histograms[row] = np.bincount(pictures.class_map(row).ravel(), minlength=256).astype(np.int64)

    _, report = scan(look, pictures.names, source, max_bad_fraction, progress)
    classes = {name: i for i, name in enumerate(labels.names) if i != labels.background}
    index = index_of(pictures, classes, histograms, _test_list(place, listings))
    return replace(index, skipped=report.bad)


def _without(listing: Listing, other: Listing) -> Listing:
    """A listing less the pictures that another has: SBD beside VOC."""
    known = {PurePosixPath(item.name).stem for item in other.items}
    return replace(listing, items=[item for item in listing.items if PurePosixPath(item.name).stem not in known])


def _test_list(place: str, listings: Sequence[Listing]) -> frozenset[int] | None:
    """Rows of the source's test pictures: VOC's val, or `test` of a splits.json; None where there is no such list."""
    if exists(join(place, "ImageSets", "Segmentation", "val.txt")):
        members = names_in(split_file(place, "val", ("Segmentation/val",)))
    else:
        try:
            members, _ = split_members(place, "test")
        except DataError:
            return None
    items = [item for listing in listings for item in listing.items]
    try:
        chosen = {id(item) for item in of_split(items, members, place)}
    except DataError:
        return None
    return frozenset(row for row, item in enumerate(items) if id(item) in chosen)


# --- index.json ----------------------------------------------------------------------------------


class IndexedPictures:
    """Pictures and label maps that an index.json names.

    Args:
        place: the folder that its paths are relative to.
        files: (image, mask) of each row.
        void: value of void pixels in the masks; None: there are none.
    """

    def __init__(self, place: str, files: Sequence[tuple[str, str]], void: int | None) -> None:
        self._place, self._files, self._void = place, list(files), void
        self.names: Sequence[str] = [image for image, _ in files]

    def picture(self, row: int) -> Picture:
        return _decoded(join(self._place, self._files[row][0]), decode_picture)

    def class_map(self, row: int) -> ClassMap:
        found = _decoded(join(self._place, self._files[row][1]), decode_mask)
        if self._void in (None, VOID):
            return found
        return np.where(found == self._void, VOID, found).astype(np.uint8)


def read_index_file(place: str) -> ClassIndex:
    """The index of `PLACE/index.json`; paths in it are relative to PLACE, or to the folder above.

    Label maps of one mask folder are taken to be written alike: a class that one of them has under a value has it in
    all. Raises DataError naming the class and entry that is wrong.
    """
    where = join(place, INDEX)
    document, meta = _json(where), _json(join(place, "meta.json")) if exists(join(place, "meta.json")) else {}
    listed = document.get("classes")
    if not isinstance(listed, Mapping) or not listed:
        raise DataError(f"{where}: no object 'classes'", 'write {"classes": {"cat": [{"image": .., "mask": ..}]}}')
    rows: dict[str, int] = {}
    masks: list[str] = []
    members: dict[str, list[int]] = {}
    groups: dict[str, dict[str, int]] = {}
    for name, entries in listed.items():
        for number, entry in enumerate(entries):
            image, mask, value = _entry(entry, f"{where}: {name}, entry {number}")
            row = rows.setdefault(image, len(rows))
            if row == len(masks):
                masks.append(mask)
            known = groups.setdefault(str(PurePosixPath(mask).parent), {}).setdefault(name, value)
            if masks[row] != mask or known != value:
                said = f"mask {masks[row]}" if masks[row] != mask else f"value {known}"
                raise DataError(f"{where}: {name}, entry {number}: was {said} before", "give one mask and one value")
            members.setdefault(name, []).append(row)
    folder = list(groups)
    files = list(zip(rows, masks, strict=True))
    pictures = IndexedPictures(_base(place, files[0][0]), files, meta.get("ignore_index", VOID))
    return ClassIndex(
        pictures,
        tuple(listed),
        tuple(np.unique(np.array(members.get(name, []), np.int64)) for name in listed),
        (),
        np.array([folder.index(str(PurePosixPath(mask).parent)) for mask in masks], np.int64),
        tuple(groups.values()),
        _listed_test(meta, rows),
        tuple(tuple(map(str, fold)) for fold in meta.get("folds", ())),
    )


def _entry(entry: Any, where: str) -> tuple[str, str, int]:
    try:
        image, mask, value = str(entry["image"]), str(entry["mask"]), int(entry["value"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where}: {error!r}", "an entry needs image, mask and value") from error
    if any(PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts for name in (image, mask)):
        raise DataError(f"{where}: a path that leads out of the data", "give paths below the folder of the data sets")
    if not 0 <= value < VOID:
        raise DataError(f"{where}: value {value}", "values go from 0 to 254; 255 is void")
    return image, mask, value


def _listed_test(meta: Mapping[str, Any], rows: Mapping[str, int]) -> frozenset[int] | None:
    """Rows of the pictures that meta.json lists under "test"."""
    if "test" not in meta:
        return None
    return frozenset(rows[str(name)] for name in meta["test"] if str(name) in rows)


def _base(place: str, image: str) -> str:
    """The folder that the paths are relative to. Raises DataError where the first picture is at neither."""
    above = place.rstrip("/").rpartition("/")[0] if is_s3(place) else str(local_path(place).absolute().parent)
    for base in (place, above):
        if exists(join(base, image)):
            return base
    raise DataError(f"{place}: {image} is neither below it nor below {above}", "keep the data sets beside the index")


def _json(where: str) -> dict[str, Any]:
    try:
        document = json.loads(read_bytes(where))
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error})", "mend the file") from error
    if not isinstance(document, dict):
        raise DataError(f"{where}: not a JSON object", "mend the file")
    return document
