"""One file to the rows that it gives, with everything that was found on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from raygseg.data.pairs import mask_palette
from raygseg.data.picture_files import ClassMap, encode_picture, encode_png
from raygseg.data.preparation.decoding import Decoded, decode
from raygseg.data.preparation.duplicates import content_digest, gradient_hash
from raygseg.data.preparation.findings import Finding, UnusableError
from raygseg.data.preparation.framing import (
    Box,
    Size,
    frame_class_map,
    frame_of,
    frame_picture,
    turn_class_map,
)
from raygseg.data.preparation.listing import Annotation, Annotations, Item, Listing, Reading, join_item
from raygseg.data.preparation.reading import read_file
from raygseg.data.preparation.settings import PreparationSettings
from raygseg.errors import DataError, StorageError
from raygseg.labels import LabelSpace

DETAIL = 2  # a JPEG is decoded at no less than so many times the resolution
PLAIN = 2  # levels within which a picture is of one colour
VOID = 255


@dataclass(frozen=True)
class Row:
    """A row of the set. size: (height, width) of what it shows in its source. classes: pixels by class."""

    name: str
    picture: bytes
    mask: bytes | None
    size: Size
    classes: tuple[int, ...]


@dataclass(frozen=True)
class Made:
    """What a file gave. digest, gradients: of its decoded picture; empty and 0 where it has none."""

    item: Item
    rows: tuple[Row, ...] = ()
    findings: tuple[Finding, ...] = ()
    digest: str = ""
    gradients: int = 0


def labels_with_void(labels: LabelSpace, fit: str) -> LabelSpace:
    """The label space of the rows: padding is void, so that there must be one."""
    if fit != "pad" or labels.void is not None or labels.num_classes > VOID:
        return labels
    return replace(labels, void=VOID)


class Maker:
    """Makes rows; may be called from several threads.

    Args:
        listing: the source.
        settings: how.
        labels: of the rows; None without masks.
    """

    def __init__(self, listing: Listing, settings: PreparationSettings, labels: LabelSpace | None) -> None:
        self._listing, self._settings, self._labels = listing, settings, labels
        self._palette = mask_palette(labels) if labels else b""

    def __call__(self, item: Item) -> Made:
        """Never raises for a bad file: that is a finding. Raises StorageError where the place cannot be reached."""
        found: list[tuple[str, str]] = []
        try:
            made = self._made(item, found)
        except UnusableError as error:
            made, found = Made(item), [(error.kind, error.detail)]
        return replace(made, findings=tuple(Finding(item.shown, kind, detail) for kind, detail in found))

    def _made(self, item: Item, found: list[tuple[str, str]]) -> Made:
        annotations = self._listing.annotations
        reading = Reading([])
        if annotations is not None and annotations.by_object:
            reading = self._reading(annotations, item)
            found += reading.found
            if not reading.annotations:
                return Made(item)
        whole = annotations is not None and annotations.by_object
        decoded = decode(self._content(item), item.name, 0 if whole else DETAIL * self._settings.resolution)
        found += decoded.mended
        if annotations is None:
            parts: Sequence[Annotation | None] = [None]
        else:
            if not annotations.by_object:
                self._check(decoded.size)
                reading = self._reading(annotations, item)
                found += reading.found
            parts = reading.annotations
        rows = [self._row(item, decoded, part, found) for part in parts]
        square = frame_picture(decoded.picture, decoded.size, frame_of(decoded.size, "squash", 32))
        return Made(item, tuple(rows), (), content_digest(decoded.picture, decoded.size), gradient_hash(square))

    def _content(self, item: Item) -> bytes:
        if item.size == 0:
            raise UnusableError("empty file")
        return read_file(join_item(self._listing, item), "unreadable")

    def _reading(self, annotations: Annotations, item: Item) -> Reading:
        try:
            return annotations.read(item)
        except (UnusableError, StorageError):
            raise
        except Exception as error:  # files of other tools hold what nobody thought of
            raise UnusableError("mask unreadable", f"{type(error).__name__}: {error}") from error

    def _check(self, size: Size) -> None:
        short, long = min(size), max(size)
        if short < self._settings.min_side:
            raise UnusableError("too small", f"{size[1]}x{size[0]}, shorter side below {self._settings.min_side}")
        if long > self._settings.max_aspect * short:
            raise UnusableError("extreme aspect", f"{size[1]}x{size[0]}, {long / short:.1f} to 1")

    def _row(self, item: Item, decoded: Decoded, part: Annotation | None, found: list[tuple[str, str]]) -> Row:
        region = part.region if part else None
        size = _extent(region) if region else decoded.size
        if part is None:
            self._check(size)
        frame = frame_of(decoded.size, self._settings.fit, self._settings.resolution, region)
        picture = frame_picture(decoded.picture, decoded.size, frame)
        if int(np.ptp(picture.reshape(-1, 3), axis=0).max()) <= PLAIN:
            raise UnusableError("one colour", f"about {tuple(picture[0, 0].tolist())}")
        if min(size) < self._settings.resolution and not any(kind == "enlarged" for kind, _ in found):
            found.append(("enlarged", f"{size[1]}x{size[0]}"))
        encoded = encode_picture(picture, self._settings.image_format)
        if part is None or self._labels is None:
            return Row(item.shown, encoded, None, size, ())
        upright = self._upright(part, decoded, found)
        outside = self._labels.void if self._labels.void is not None else self._labels.background or 0
        class_map = frame_class_map(upright, decoded.size, frame, outside)
        counts = np.bincount(class_map.ravel(), minlength=256)[: self._labels.num_classes]
        classes = tuple(int(n) for n in counts)
        return Row(item.shown + part.suffix, encoded, encode_png(class_map, self._palette), size, classes)

    def _upright(self, part: Annotation, decoded: Decoded, found: list[tuple[str, str]]) -> ClassMap:
        """The label map in the upright picture's frame, checked for size and classes."""
        assert self._listing.annotations is not None and self._labels is not None
        annotations, class_map = self._listing.annotations, part.class_map
        fits_stored = _fits(class_map.shape, decoded.stored, annotations.any_scale)
        fits_upright = _fits(class_map.shape, decoded.size, annotations.any_scale)
        if not (fits_stored or fits_upright):
            (height, width), (down, across) = class_map.shape, decoded.size
            raise UnusableError("mask of another size", f"mask {width}x{height}, picture {across}x{down}")
        try:
            self._labels.check(class_map, "mask")
        except DataError as error:
            raise UnusableError("unknown class", error.message.partition(": ")[2]) from error
        if decoded.orientation == 1:
            return class_map
        if fits_upright and (annotations.upright or not fits_stored):
            found.append(("mask already upright", ""))
            return class_map
        return turn_class_map(class_map, decoded.orientation)


def _extent(region: Box) -> Size:
    return round(region[3] - region[1]), round(region[2] - region[0])


def _fits(shape: tuple[int, ...], size: Size, any_scale: bool) -> bool:
    """Whether a map is of the picture's size, or of its aspect to the nearest pixel."""
    if tuple(shape) == size:
        return True
    if not any_scale:
        return False
    scale = shape[0] / size[0]
    return abs(shape[1] - size[1] * scale) <= max(1.0, scale)
