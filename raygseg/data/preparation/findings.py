"""What can be wrong with a file: every kind that `prepare` finds, what becomes of it and how to mend it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

Outcome = Literal["skipped", "left out", "mended", "noted"]


class Kind(NamedTuple):
    """One kind of finding.

    outcome: skipped (the file is bad and counts towards the limit), left out (unwanted, not bad), mended
    (kept, after something was done), noted (kept as it is).
    """

    outcome: Outcome
    meaning: str
    fix: str = ""


KINDS: Mapping[str, Kind] = {
    "empty file": Kind("skipped", "has no bytes", "copy it again"),
    "unreadable": Kind(
        "skipped", "could not be opened", "check permissions and the disk, then prepare with --overwrite"
    ),
    "not a picture": Kind("skipped", "has a picture's extension but other content", "remove it"),
    "truncated": Kind("skipped", "ends before its picture does", "copy or download it again"),
    "corrupt": Kind("skipped", "is damaged inside", "copy or download it again"),
    "unsupported format": Kind(
        "skipped", "is a picture that cannot be read here", "save it as JPEG; for HEIC: pip install pillow-heif"
    ),
    "too large": Kind("skipped", "has more pixels than is safe to decode", "shrink it"),
    "too small": Kind("skipped", "has a side shorter than --min-side", "lower --min-side or --resolution"),
    "extreme aspect": Kind("skipped", "is longer than --max-aspect times its width", "cut it, or raise --max-aspect"),
    "one colour": Kind("skipped", "shows one colour only", "remove it"),
    "mask missing": Kind("skipped", "has no mask or annotation", "add one, or take the picture out"),
    "mask unreadable": Kind("skipped", "has a mask or annotation that cannot be read", "save it again"),
    "mask of another size": Kind("skipped", "has a mask that does not fit it", "save the mask at the picture's size"),
    "unknown class": Kind("skipped", "has a mask with classes that are not in the labels", "mend mask or labels.json"),
    "duplicate": Kind("left out", "shows the very pixels of an earlier file"),
    "other file": Kind("left out", "is no picture"),
    "mask without picture": Kind("left out", "belongs to no picture"),
    "no object": Kind("left out", "shows no object of the wanted class"),
    "object too small": Kind("left out", "an object's box is below the smallest size"),
    "object overlapped": Kind("left out", "an object's box is covered by another's"),
    "turned upright": Kind("mended", "is stored rotated or mirrored (EXIF)"),
    "transparent": Kind("mended", "has transparency; laid on white"),
    "grey": Kind("mended", "has no colours"),
    "16 bit": Kind("mended", "has 16 bits a channel; 8 are kept"),
    "CMYK": Kind("mended", "is separated for print; turned into RGB"),
    "several frames": Kind("mended", "is animated or has pages; the first is taken"),
    "wrong extension": Kind("mended", "is in another format than its name says"),
    "enlarged": Kind("mended", "is smaller than the resolution"),
    "mask already upright": Kind("mended", "has a mask that was drawn on the upright picture"),
    "mask of 0 and 255": Kind("mended", "has a two-class mask whose 255 is read as class 1"),
    "shape ignored": Kind("mended", "has annotation shapes without an area"),
    "near duplicate": Kind("noted", "looks like an earlier file; both are kept"),
}


class Finding(NamedTuple):
    """name: the file. kind: a key of KINDS. detail: the particulars, may be empty."""

    name: str
    kind: str
    detail: str = ""

    @property
    def outcome(self) -> Outcome:
        return KINDS[self.kind].outcome

    @property
    def bad(self) -> bool:
        """Whether it counts towards the limit of bad files."""
        return self.outcome == "skipped"


class UnusableError(Exception):
    """Why one file cannot be kept; never leaves the preparation.

    Args:
        kind: a key of KINDS.
        detail: the particulars.
    """

    def __init__(self, kind: str, detail: str = "") -> None:
        assert kind in KINDS, kind
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail = kind, detail


def printable(name: str) -> str:
    """A file name that can be written as UTF-8: bytes of another encoding become escapes."""
    return name.encode("utf-8", "backslashreplace").decode()
