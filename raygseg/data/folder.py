"""Folders as sources: pictures anywhere below, or `images/` and `masks/` with the same stems.

Classes come from `labels.json` or a data set's `meta.json`, in the folder or the one above it (there
splits.json may be keyed by the folder's name). Everything also works below an s3:// prefix.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from raygseg.data.object_store import Entry, exists, is_s3, join, list_files, local_path, read_bytes
from raygseg.data.picture_files import (
    PICTURE_SUFFIXES,
    ClassMap,
    Picture,
    decode_mask,
    decode_picture,
    picture_size,
    resize_class_map,
)
from raygseg.data.source_address import SourceAddress
from raygseg.errors import DataError
from raygseg.labels import LabelSpace


class Classes:
    """How the numbers in masks become classes: the label space, and the merge into coarser ones."""

    def __init__(self, labels: LabelSpace, merge: Sequence[int] | None = None, merged: Sequence[str] = ()) -> None:
        self._stored = labels
        self.labels = labels if merge is None else labels.merged(merge, merged)
        self._lut = np.arange(256, dtype=np.uint8)
        if merge is not None:
            self._lut[: len(merge)] = merge

    def read(self, mask: bytes) -> ClassMap:
        """Decode, check and merge. Raises DataError with the reason."""
        class_map = decode_mask(mask)
        self._stored.check(class_map, "class index out of range")
        return np.asarray(self._lut[class_map], dtype=np.uint8)


class FolderRows:
    """Picture files below a place, with their masks where `classes` are given."""

    checked = False

    def __init__(
        self, place: str, entries: Sequence[Entry], masks: str = "", mask_of: Mapping[str, str] | None = None,
        classes: Classes | None = None,
    ) -> None:  # fmt: skip
        self._place, self._masks, self._mask_of, self._classes = place, masks, dict(mask_of or {}), classes
        self._sizes = [e.size for e in entries]
        self.names: Sequence[str] = [e.name for e in entries]

    def picture(self, row: int, resolution: int | None) -> Picture:
        return decode_picture(read_bytes(join(self._place, self.names[row])), resolution)

    def labelled(self, row: int, resolution: int | None) -> tuple[Picture, ClassMap]:
        assert self._classes is not None, "opened without masks"
        mask_name = self._mask_of.get(_stem(self.names[row]))
        if mask_name is None:
            raise DataError("mask is missing", f"put {_stem(self.names[row])}.png into {self._masks}")
        content = read_bytes(join(self._place, self.names[row]))
        mask = read_bytes(join(self._masks, mask_name))
        return read_labelled(content, mask, resolution, self._classes)

    def identity(self, rows: Sequence[int]) -> Mapping[str, Any]:
        return {"files": [[self.names[i], self._sizes[i]] for i in rows]}


def read_labelled(content: bytes, mask: bytes, resolution: int | None, classes: Classes) -> tuple[Picture, ClassMap]:
    """An encoded picture and mask to arrays of one size. Raises DataError with the reason."""
    picture = decode_picture(content, resolution)
    class_map = classes.read(mask)
    size = picture_size(content)
    if class_map.shape != size:
        raise DataError(
            f"mask of another size: mask {class_map.shape[1]}x{class_map.shape[0]}, picture {size[1]}x{size[0]}",
            "save the mask at the picture's size",
        )
    return picture, resize_class_map(class_map, resolution)


def picture_rows(address: SourceAddress) -> FolderRows:
    """All picture files below the folder (masks beside `images/` are not pictures), of the split if one is named."""
    entries = [e for e in list_files(address.place) if e.name.lower().endswith(PICTURE_SUFFIXES)]
    if any("images" in PurePosixPath(e.name).parts[:-1] for e in entries):
        entries = [e for e in entries if "masks" not in PurePosixPath(e.name).parts[:-1]]
    if not entries:
        raise DataError(*_nothing(address.place, "pictures"))
    return FolderRows(address.place, _of_split(address, entries))


def labelled_rows(address: SourceAddress) -> tuple[FolderRows, LabelSpace]:
    """`images/` + `masks/` + labels. Raises DataError naming what is missing."""
    images, masks = join(address.place, "images"), join(address.place, "masks")
    entries = [e for e in list_files(images) if e.name.lower().endswith(PICTURE_SUFFIXES)]
    mask_of = {_stem(e.name): e.name for e in list_files(masks, ".png")}
    if not entries or not mask_of:
        raise DataError(*_nothing(address.place, "images/ and masks/"))
    classes = read_classes(address.place, address.coarse)
    return FolderRows(images, _of_split(address, entries), masks, mask_of, classes), classes.labels


def read_classes(place: str, coarse: bool) -> Classes:
    """The classes of the data set at `place`: labels.json or meta.json there or in the folder above."""
    where, document = find_document(place, ("labels.json", "meta.json"))
    if where is None:
        raise DataError(f"{place}: no labels.json", 'write one there: {"classes": ["background", "wheel", ...]}')
    labels = labels_from(document, where)
    if not coarse:
        return Classes(labels)
    try:
        merge, merged = [int(i) for i in document["fine_to_coarse"]], [str(n) for n in document["coarse_classes"]]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where}: no fine_to_coarse and coarse_classes", "take ?coarse=1 off the source") from error
    if len(merge) != labels.num_classes or not all(0 <= i < len(merged) for i in merge):
        raise DataError(f"{where}: fine_to_coarse does not fit the classes", "give one coarse index for each class")
    return Classes(labels, merge, merged)


def labels_from(document: Mapping[str, Any], where: str) -> LabelSpace:
    """The label space that a labels.json says. Raises DataError naming `where`."""
    return LabelSpace.from_dict({"swaps": _left_right(document), **document}, where)


def _left_right(document: Mapping[str, Any]) -> list[list[str]]:
    """Where `swaps` is not given: classes whose names differ only in left and right trade places."""
    names = [str(n) for n in document.get("classes") or ()]
    pairs = ((n, re.sub(r"(?<![a-z])left(?![a-z])", "right", n)) for n in names)
    return [[left, right] for left, right in pairs if left != right and right in names]


def find_document(place: str, names: Sequence[str]) -> tuple[str | None, dict[str, Any]]:
    """The first JSON file of these names in the place or above it."""
    above = place.rstrip("/").rpartition("/")[0] if is_s3(place) else str(local_path(place).absolute().parent)
    for folder in (place, above):
        for name in names:
            where = join(folder, name)
            if folder and folder != "s3:/" and exists(where):
                try:
                    content = json.loads(read_bytes(where))
                except ValueError as error:
                    raise DataError(f"{where}: not JSON ({error})", "mend the file") from error
                if not isinstance(content, dict):
                    raise DataError(f"{where}: not a JSON object", "mend the file")
                return where, content
    return None, {}


def _of_split(address: SourceAddress, entries: Sequence[Entry]) -> list[Entry]:
    """The entries whose name, stem or path is in the named split."""
    if not address.split:
        return list(entries)
    wanted, where = split_members(address.place, address.split)
    chosen = [e for e in entries if wanted & {e.name, _stem(e.name), e.name.rpartition("/")[2], _last_stem(e.name)}]
    if not chosen:
        raise DataError(f"{address.place}: no file of split '{address.split}' is there", f"compare {where}")
    return chosen


def split_members(place: str, split: str) -> tuple[set[str], str]:
    """Names in a split of the splits.json at `place` or above it, and where that lies. Raises DataError."""
    where, splits = find_document(place, ("splits.json",))
    if where is None:
        raise DataError(f"{place}: no splits.json", "ask for no split, or write the file")
    return set(_find_split(splits, split, place.rstrip("/").rpartition("/")[2], where)), where


def _find_split(splits: Mapping[str, Any], name: str, folder: str, where: str) -> list[str]:
    """`name` in splits.json: at the top, under the folder's name, as a path `a/b`, or in the only group that has it."""
    flat: dict[str, list[str]] = {}
    for key, value in splits.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}/{inner}": list(members) for inner, members in value.items()})
        else:
            flat[key] = list(value)
    ending = [key for key in flat if key.endswith(f"/{name}")]
    for key in (name, name.replace(".", "/"), f"{folder}/{name}", *(ending if len(ending) == 1 else ())):
        if key in flat:
            return flat[key]
    raise DataError(f"{where}: no split '{name}'", f"use one of {', '.join(sorted(flat))}")


def _stem(name: str) -> str:
    """Path below the listed folder without its suffix."""
    return str(PurePosixPath(name).with_suffix(""))


def _last_stem(name: str) -> str:
    return PurePosixPath(name).stem


def _nothing(place: str, what: str) -> tuple[str, str]:
    """Message and hint for a place without usable files; hints at a folder below that has them."""
    if not is_s3(place) and not local_path(place).is_dir():
        return f"{place}: no such folder", "check the path"
    below = sorted({e.name.partition("/images/")[0] for e in list_files(place) if "/images/" in e.name})
    hint = f"did you mean {', '.join(join(place, b) for b in below[:3])}?" if below else f"put {what} there"
    return f"{place}: no {what} in it", hint
