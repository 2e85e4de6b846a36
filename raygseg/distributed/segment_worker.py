"""What one process does with a job of pictures: decode, predict, write masks and overlays, report a row each.

Needs no Ray: `pipelines.segment` runs it in this process, `distributed.inference` in actors.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from raygseg.data import object_store
from raygseg.data.picture_files import Picture, decode_picture, encode_png
from raygseg.data.picture_jobs import PictureEntry, PictureJob
from raygseg.data.segment_table import SegmentRow, mask_name
from raygseg.errors import DataError
from raygseg.interfaces import Segmentation, Segmenter
from raygseg.labels import LabelSpace
from raygseg.viz.overlays import overlay

BATCH_PIXELS = 1 << 24
OVERLAY_QUALITY = 88
LARGEST_JPEG = 65_500  # pixels a side


class _Decoded(NamedTuple):
    entry: PictureEntry
    picture: Picture
    seconds: float


@dataclass
class SegmentWorker:
    """Holds the segmenter and works through jobs.

    Attributes:
        segmenter: predicts; its label space colours the masks.
        output: place of `masks/` and `overlays/`.
        overlays: whether to draw.
        batch_size: pictures a prediction; batches are also cut at BATCH_PIXELS.
    """

    segmenter: Segmenter
    output: str
    overlays: bool
    batch_size: int

    def __call__(self, job: PictureJob) -> Iterator[SegmentRow]:
        """One row a picture, in the job's order. Raises StorageError where the output cannot be written."""
        batch: list[_Decoded | SegmentRow] = []  # rows are those of pictures already skipped
        pixels = 0
        for entry, content in job.contents():
            item = _decoded(entry, content)
            size = item.picture.shape[0] * item.picture.shape[1] if isinstance(item, _Decoded) else 0
            if batch and (len(batch) >= self.batch_size or pixels + size > BATCH_PIXELS):
                yield from self._finish(batch)
                batch, pixels = [], 0
            batch.append(item)
            pixels += size
        yield from self._finish(batch)

    def _finish(self, batch: Sequence[_Decoded | SegmentRow]) -> Iterator[SegmentRow]:
        began = time.perf_counter()
        pictures = [item.picture for item in batch if isinstance(item, _Decoded)]
        answers = iter(self._predict(pictures) if pictures else [])
        each = (time.perf_counter() - began) / max(1, len(pictures))
        for item in batch:
            if isinstance(item, SegmentRow):
                yield item
            elif isinstance(answer := next(answers), str):
                height, width = item.picture.shape[:2]
                yield skipped_row(item.entry, answer, width, height)
            else:
                yield self._write(item, answer, item.seconds + each)

    def _predict(self, pictures: Sequence[Picture]) -> list[Segmentation | str]:
        """Answers, or the reason for a picture on which the model fails; the others go on."""
        try:
            return list(self.segmenter.predict(pictures))
        except (RuntimeError, ValueError, MemoryError) as error:
            if len(pictures) == 1:
                return [f"the model failed: {type(error).__name__}: {error}"]
        return [answer for picture in pictures for answer in self._predict([picture])]

    def _write(self, item: _Decoded, answer: Segmentation, seconds: float) -> SegmentRow:
        began = time.perf_counter()
        labels = self.segmenter.labels
        height, width = item.picture.shape[:2]
        assert answer.label_map.shape == (height, width), "a segmenter answers at the picture's size"
        if self.overlays:
            content, suffix = _compressed(overlay(item.picture, answer.label_map, labels))
            place = object_store.join(self.output, "overlays", f"{item.entry.target}{suffix}")
            object_store.write_bytes(place, content)
        mask = mask_name(item.entry)
        # Written last: where the mask is, all of the picture's files are.
        object_store.write_bytes(
            object_store.join(self.output, mask), encode_png(answer.label_map, mask_palette(labels))
        )
        pixels = np.bincount(answer.label_map.ravel(), minlength=labels.num_classes)[: labels.num_classes]
        return SegmentRow(
            item.entry.name,
            mask,
            width,
            height,
            seconds + time.perf_counter() - began,
            float(answer.confidence.mean()) / 255,
            tuple(float(share) for share in pixels / answer.label_map.size),
            "",
        )


def _decoded(entry: PictureEntry, content: bytes | DataError) -> _Decoded | SegmentRow:
    """The picture, or the row that says why there is none."""
    began = time.perf_counter()
    try:
        if isinstance(content, DataError):
            raise content
        return _Decoded(entry, decode_picture(content), time.perf_counter() - began)
    except DataError as error:
        return skipped_row(entry, error.message)


def skipped_row(entry: PictureEntry, reason: str, width: int = 0, height: int = 0) -> SegmentRow:
    """The row of a picture without a mask; the reason on one line."""
    return SegmentRow(entry.name, "", width, height, 0.0, 0.0, (), " ".join(reason.split()))


def mask_palette(labels: LabelSpace) -> bytes:
    """768 bytes for palette PNGs: the classes' colours, mid grey beyond."""
    return labels.colourise(np.arange(256, dtype=np.uint8)[None]).tobytes()


def _compressed(picture: Picture) -> tuple[bytes, str]:
    """JPEG and its suffix; PNG for sides that JPEG cannot hold."""
    if max(picture.shape) > LARGEST_JPEG:
        return encode_png(picture), ".png"
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=OVERLAY_QUALITY)
    return buffer.getvalue(), ".jpg"
