"""What a source holds before anything is decoded: files, what is left out, and who knows the labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, NamedTuple, Protocol

from raygseg.data.object_store import Entry, is_s3, join, list_files, local_path
from raygseg.data.picture_files import ClassMap
from raygseg.data.preparation.decoding import PHOTO_SUFFIXES
from raygseg.data.preparation.findings import Finding, printable
from raygseg.data.preparation.framing import Box
from raygseg.errors import DataError
from raygseg.labels import LabelSpace

# Files of these kinds are not opened to see whether they hold a picture after all.
OTHER_SUFFIXES = (
    *(".txt", ".md", ".json", ".jsonl", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".html", ".htm", ".pdf", ".log"),
    *(".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mp3", ".wav", ".aae", ".xmp", ".ini", ".db", ".lock"),
    *(".zip", ".gz", ".tar", ".tgz", ".7z", ".rar", ".py", ".sh", ".ipynb", ".npy", ".npz", ".mat", ".parquet"),
    *(".pkl", ".pt", ".pth", ".safetensors", ".h5", ".exe", ".dll", ".svg", ".eps", ".ps", ".doc", ".docx"),
)


class Item(NamedTuple):
    """A file to prepare: its path below the listing's place, its size in bytes."""

    name: str
    size: int

    @property
    def shown(self) -> str:
        """The name as it can be written."""
        return printable(self.name)


@dataclass(frozen=True)
class Annotation:
    """The label map of a picture, or of one object in it.

    Attributes:
        class_map: [H, W] class indices of the whole picture, stored or upright, maybe at another scale.
        region: the part of the upright picture that becomes a row; None: all.
        suffix: added to the picture's name where it gives several rows.
    """

    class_map: ClassMap
    region: Box | None = None
    suffix: str = ""


class Reading(NamedTuple):
    """What is known of one picture: its annotations, and (kind, detail) of what was found on the way."""

    annotations: Sequence[Annotation]
    found: Sequence[tuple[str, str]] = ()


class Annotations(Protocol):
    """Where label maps come from. Reading may be called from several threads.

    Attributes:
        labels: their classes.
        upright: whether maps fit the upright picture where their size does not tell.
        any_scale: whether maps may be smaller or larger than the picture, at the same aspect.
        by_object: whether a picture gives a row for each object, so that it must be decoded in full.
    """

    labels: LabelSpace
    upright: bool
    any_scale: bool
    by_object: bool

    def read(self, item: Item) -> Reading:
        """Raises UnusableError where there is none, or it is damaged."""
        ...

    def identity(self) -> Mapping[str, Any]:
        """JSON facts that decide the label maps."""
        ...


@dataclass(frozen=True)
class Listing:
    """A source, listed.

    Attributes:
        place: to which the items' names are relative.
        items: in name order.
        annotations: None for pictures alone.
        left_out: files that are no pictures, masks that have none.
    """

    place: str
    items: Sequence[Item]
    annotations: Annotations | None = None
    left_out: Sequence[Finding] = field(default=(), repr=False)

    def identity(self) -> dict[str, Any]:
        """What the rows follow from: names and sizes, not where they lie."""
        facts: dict[str, Any] = {
            "source.files": len(self.items),
            "source.bytes": sum(item.size for item in self.items),
            "source.names": names_digest(self.items),
        }
        if self.annotations is not None:
            facts |= {f"masks.{key}": value for key, value in self.annotations.identity().items()}
        return facts


def names_digest(entries: Sequence[tuple[str, int]]) -> str:
    """16 hex digits over names and sizes."""
    digest = hashlib.sha256()
    for name, size in entries:
        digest.update(json.dumps([name, size]).encode())
    return digest.hexdigest()[:16]


def photo_items(place: str, leave_out: Sequence[str] = ()) -> tuple[list[Item], list[Finding]]:
    """All files below `place` that may be pictures, and what is none; places of `leave_out` not at all.

    Raises DataError where there is no such place, or no picture in it.
    """
    prefixes = [prefix for prefix in (_below(place, other) for other in leave_out) if prefix]
    closed: list[str] = []
    entries = [e for e in list_files(place, closed=closed) if not e.name.startswith(tuple(prefixes))]
    items = [Item(e.name, e.size) for e in entries if not e.name.lower().endswith(OTHER_SUFFIXES)]
    if not items or not any(i.name.lower().endswith(PHOTO_SUFFIXES) for i in items):
        missing = not is_s3(place) and not local_path(place).is_dir()
        hint = "check the path" if missing else "name the folder that holds the photos"
        raise DataError(f"{place}: {'no such folder' if missing else 'no pictures in it'}", hint)
    others = [Finding(printable(e.name), "other file") for e in entries if e.name.lower().endswith(OTHER_SUFFIXES)]
    return items, [*(Finding(f"{printable(name)}/", "unreadable", "a folder") for name in sorted(closed)), *others]


def stem(name: str) -> str:
    """A path without its suffix."""
    return str(PurePosixPath(name).with_suffix(""))


class ByStem:
    """Finds the file that belongs to a picture: by its path without suffix, else by its last part alone.

    `images/a/1.jpg` finds `a/1.png` and `1.png`; a last part that several files share finds none.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._whole = {stem(name): name for name in names}
        self._last: dict[str, str | None] = {}
        for name in names:
            last = PurePosixPath(name).stem
            self._last[last] = name if last not in self._last else None

    def find(self, picture: str) -> str | None:
        """The name of the file of this picture, or None."""
        path = PurePosixPath(picture).with_suffix("")
        for start in range(len(path.parts)):
            found = self._whole.get("/".join(path.parts[start:]))
            if found is not None:
                return found
        return self._last.get(path.name)

    def without_picture(self, pictures: Sequence[Item]) -> list[Finding]:
        """The files that no picture finds."""
        used = {self.find(item.name) for item in pictures}
        unused = sorted(name for name in self._whole.values() if name not in used)
        return [Finding(printable(name), "mask without picture") for name in unused]


def of_split(items: Sequence[Item], names: set[str], where: str) -> list[Item]:
    """The items named (path, stem or last part of it) in a split. Raises DataError where there is none."""
    chosen = [
        i for i in items if names & {i.name, stem(i.name), PurePosixPath(i.name).name, PurePosixPath(i.name).stem}
    ]
    if not chosen:
        raise DataError(f"{where}: names none of the pictures", "one name a line, with or without its extension")
    return chosen


def sized(entries: Sequence[Entry]) -> str:
    """The digest of a listing of annotation files."""
    return names_digest([(e.name, e.size) for e in entries])


def _below(place: str, other: str) -> str:
    """The prefix that names below `place` have if they lie in `other`; empty where that is elsewhere."""
    if not other:
        return ""
    if is_s3(place) or is_s3(other):
        inside = other.rstrip("/").startswith(place.rstrip("/") + "/")
        return other.rstrip("/")[len(place.rstrip("/")) + 1 :] + "/" if inside else ""
    folder, whole = local_path(other).resolve(), local_path(place).resolve()
    if not folder.is_relative_to(whole) or folder == whole:
        return ""
    return folder.relative_to(whole).as_posix() + "/"


def join_item(listing: Listing, item: Item) -> str:
    """Where the item's file is."""
    return join(listing.place, item.name)
