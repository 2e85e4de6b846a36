"""Segment someone's own pictures: a file, a folder or Parquet of any size; masks at their original size."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from raygseg.bundle import CHECKSUMS, CONFIG, LABELS, file_sha256
from raygseg.data import object_store
from raygseg.data.picture_jobs import PictureJob, TableJob, list_pictures
from raygseg.data.segment_table import SegmentRow, SegmentTable
from raygseg.data.sources import open_labelled
from raygseg.errors import CheckpointError, DataError
from raygseg.interfaces import Segmenter
from raygseg.labels import LabelSpace
from raygseg.pipelines.few_shot import FEW_SHOT, check_support

if TYPE_CHECKING:
    from raygseg.distributed.segment_worker import SegmentWorker

Progress = Callable[..., None]  # (stage, done, total, facts)
IN_PROCESS_PICTURES = 400  # up to here starting a cluster costs more than it saves
LISTED_FAILURES = 20


@dataclass
class SegmentResult:
    """What `segment` did.

    Attributes:
        pictures: how many the input holds. segmented: by this run. done_before: by earlier runs.
        skipped: how many could not be used. reasons: the first of them, `name: reason`.
        ignored: files that are no pictures, by suffix.
        output: with masks/ and overlays/. table: segments.csv, one line a picture.
        seconds: of this run; seconds_per_picture: over those it segmented.
    """

    pictures: int
    output: str
    table: str
    segmented: int = 0
    done_before: int = 0
    skipped: int = 0
    reasons: list[str] = field(default_factory=list)
    ignored: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    seconds_per_picture: float = 0.0

    def count(self, row: SegmentRow) -> None:
        if row.reason:
            self.skipped += 1
            if len(self.reasons) < LISTED_FAILURES:
                self.reasons.append(f"{row.name}: {row.reason}")
        else:
            self.segmented += 1


@dataclass(frozen=True)
class WorkerLoader:
    """Makes a worker in any process; refuses a model that is not the one the driver saw."""

    model_uri: str
    tracking_uri: str
    checksum: str
    device: str
    output: str
    overlays: bool
    batch_size: int
    segmenter: Segmenter | None = None
    support: str = ""

    def __call__(self) -> SegmentWorker:
        from raygseg.distributed.segment_worker import SegmentWorker

        segmenter = self.segmenter
        if segmenter is None:
            from raygseg.pipelines.kinds import load_segmenter

            folder, checksum = _bundle(self.model_uri, self.tracking_uri)
            if self.checksum != _with_support(checksum, self.support)[1]:
                raise CheckpointError(f"{self.model_uri} changed during the run", "run the same command again")
            segmenter = load_segmenter(folder, self.tracking_uri, usable_device(self.device), self.support)
        return SegmentWorker(segmenter, self.output, self.overlays, self.batch_size)


def segment(
    model_uri: str,
    source: str,
    output: str,
    *,
    overlays: bool = True,
    batch_size: int = 16,
    actors: int = 0,
    device: str = "auto",
    tracking_uri: str = "",
    segmenter: Segmenter | None = None,
    support: str = "",
    progress: Progress | None = None,
) -> SegmentResult:
    """Write a palette PNG for every picture of `source` under output/masks, and segments.csv.

    The same call again does only what is missing. Corrupt pictures are skipped, counted and listed.

    Args:
        model_uri: folder, s3:// or models:/NAME@alias.
        source: picture, folder (any depth), Parquet file or folder of them; on disk or s3://.
        output: folder or s3:// prefix; the masks' paths follow the pictures'.
        overlays: also draw the parts over the pictures, under output/overlays.
        batch_size: pictures a prediction.
        actors: Ray actors; 0: none for few pictures, else as many as fit into the cluster.
        device: auto, cpu or cuda.
        segmenter: used instead of loading `model_uri`.
        support: labelled pictures (a source) that show a few-shot network its classes.
        progress: called as (stage, done, total, facts).

    Raises:
        ConfigError: a few-shot network without support, or support for another model.
        DataError: no pictures, or not one of them could be segmented.
        FingerprintError: `output` holds masks of another model.
        StorageError: `output` cannot be written; what is there stays, the same call goes on.
    """
    began = time.perf_counter()
    listing = list_pictures(source, leave_out=output)
    labels, checksum = (segmenter.labels, "") if segmenter else _labels(model_uri, tracking_uri, support)
    load = WorkerLoader(model_uri, tracking_uri, checksum, device, output, overlays, batch_size, segmenter, support)
    result = SegmentResult(listing.count, output, "", ignored=listing.ignored)
    with SegmentTable(output, labels, model_uri, checksum, overlays) as table:
        result.table = table.place
        jobs = list(listing.jobs(table.is_done))
        result.done_before = listing.count - sum(map(_size, jobs))
        for row in _rows(jobs, load, actors):
            table.add(row)
            result.count(row)
            if progress is not None:
                finished = result.done_before + result.segmented + result.skipped
                progress("segment", finished, result.pictures, {"skipped": result.skipped})
    result.seconds = time.perf_counter() - began
    result.seconds_per_picture = result.seconds / max(1, result.segmented)
    if result.segmented + result.done_before == 0:
        raise DataError(
            f"{source}: none of {result.pictures} pictures could be segmented, e.g. {result.reasons[0]}",
            f"see {table.place} for the reason of each",
        )
    return result


def usable_device(device: str) -> str:
    """cuda where `auto` finds one; else what was asked for."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def _rows(jobs: Sequence[PictureJob], load: WorkerLoader, actors: int) -> Iterator[SegmentRow]:
    """In this process where that is quicker, else in Ray actors."""
    if not jobs:
        return
    if actors == 0 and sum(map(_size, jobs)) <= IN_PROCESS_PICTURES:
        worker = load()
        for job in jobs:
            yield from worker(job)
        return
    from raygseg.distributed.inference import segment_with_actors

    yield from segment_with_actors(jobs, load, actors)


def _size(job: PictureJob) -> int:
    return job.count - len(job.done) if isinstance(job, TableJob) else len(job.entries)


def _bundle(model_uri: str, tracking_uri: str) -> tuple[str, str]:
    """(local folder, checksum of its checksums) of a verified bundle."""
    from raygseg.tracking.retrieval import resolve

    folder = resolve(model_uri, tracking_uri)
    return str(folder), file_sha256(folder / CHECKSUMS)


def _labels(model_uri: str, tracking_uri: str, support: str) -> tuple[LabelSpace, str]:
    """Classes of the answers, and a checksum of all that decides them."""
    folder, checksum = _bundle(model_uri, tracking_uri)
    kind = (yaml.safe_load((Path(folder) / CONFIG).read_text()) or {}).get("kind")
    check_support(model_uri, str(kind), support)
    if kind == FEW_SHOT:
        labels, checksum = _with_support(checksum, support)
        assert labels is not None
        return labels, checksum
    place = object_store.local_path(folder) / LABELS
    if not place.is_file():
        raise CheckpointError(f"{model_uri} is not a segmenter: no {LABELS}", "name a bundle of `train segmenter`")
    return LabelSpace.load(place), checksum


def _with_support(checksum: str, support: str) -> tuple[LabelSpace | None, str]:
    """The support's classes, and the model's checksum with that of its pixels; without support as it is."""
    if not support:
        return None, checksum
    labelled = open_labelled(support, None)
    digest = hashlib.sha256(json.dumps(labelled.labels.to_dict()).encode())
    for picture, class_map in labelled:
        digest.update(picture.tobytes() + class_map.tobytes())
    return labelled.labels, f"{checksum} {digest.hexdigest()}"
