"""A source of pictures is one string: a place or `toy://STYLE`, and after `?` what to take of it."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl

from raygseg.data.object_store import is_s3, local_path
from raygseg.errors import DataError

TOY_PREFIX = "toy://"
TOY_SIZE = 128
_PLACE_KEYS = ("split", "coarse", "contrast")
CONTRASTS = ("", "stretch")
_TOY_KEYS = ("count", "seed", "start", "size")


@dataclass(frozen=True)
class SourceAddress:
    """A parsed source string.

    Attributes:
        place: folder, file or s3:// prefix; for the toy set the style.
        toy: whether it is the procedural set.
        split: name of a split in splits.json, nested names joined by `/`; empty: all.
        coarse: whether classes are merged by meta.json's `fine_to_coarse`.
        contrast: `stretch`: each picture to the whole range of brightness.
        count, seed, start: of the toy set: pictures start .. start + count - 1 of set `seed`.
        size: side of a toy picture that is asked for at its own size, in pixels.
    """

    place: str
    toy: bool = False
    split: str = ""
    coarse: bool = False
    contrast: str = ""
    count: int = 1000
    seed: int = 0
    start: int = 0
    size: int = TOY_SIZE

    @property
    def is_table(self) -> bool:
        return self.place.endswith(".parquet")


def parse_source(source: str) -> SourceAddress:
    """Read a source string. Raises DataError naming the string and the key that is wrong."""
    place, _, query = source.partition("?")
    toy = place.startswith(TOY_PREFIX)
    if not toy and not is_s3(source) and "?" in source and local_path(source).exists():
        place, query = source, ""  # a path that really has a question mark in it
    values = dict(parse_qsl(query, keep_blank_values=True))
    allowed = _TOY_KEYS if toy else _PLACE_KEYS
    for key in values:
        if key not in allowed:
            raise DataError(f"{source}: unknown key '{key}' after '?'", f"use {', '.join(allowed)}")
    if toy:
        numbers = {key: _whole_number(source, key, values[key]) for key in values}
        if numbers.get("count", 1) < 1:
            raise DataError(f"{source}: count must be at least 1", "ask for one picture or more")
        style = place.removeprefix(TOY_PREFIX) or "default"
        count, seed, start = numbers.get("count", 1000), numbers.get("seed", 0), numbers.get("start", 0)
        return SourceAddress(style, True, count=count, seed=seed, start=start, size=numbers.get("size", TOY_SIZE))
    if not place:
        raise DataError("the source of pictures is empty", "give a folder, a Parquet file, s3:// or toy://")
    coarse = values.get("coarse", "0").lower() in ("1", "true", "yes")
    contrast = values.get("contrast", "")
    if contrast not in CONTRASTS:
        raise DataError(f"{source}: contrast={contrast} is not known", "write contrast=stretch, or leave it out")
    return SourceAddress(place, False, values.get("split", ""), coarse, contrast)


def _whole_number(source: str, key: str, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise DataError(f"{source}: {key}={text} is not a whole number from 0 up", f"write {key}=100, for example")
    return number
