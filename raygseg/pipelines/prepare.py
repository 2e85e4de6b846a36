"""Prepare pictures: a folder as it was found becomes checked Parquet shards of one size, and a page that says how.

OUTPUT/pictures/*.parquet, labels.json     read by every other step as `data.source=OUTPUT`
OUTPUT/report.html, findings.csv           what was kept, mended and skipped, file by file
OUTPUT/prepared.json, notes/               what was asked for and which shards are done
"""

from __future__ import annotations

import csv
import io
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from raygseg.data import object_store
from raygseg.data.folder import Classes
from raygseg.data.parquet_rows import ParquetRows
from raygseg.data.picture_files import ClassMap, Picture
from raygseg.data.preparation.findings import Finding
from raygseg.data.preparation.layouts import open_listing
from raygseg.data.preparation.listing import Listing
from raygseg.data.preparation.making import Made, labels_with_void
from raygseg.data.preparation.prepared_set import FileRun, Record, begin, finish, read_notes
from raygseg.data.preparation.production import Production, quiet_decoders
from raygseg.data.preparation.settings import PreparationSettings
from raygseg.data.preparation.summary import Summary
from raygseg.errors import DataError

Progress = Callable[..., None]  # (stage, done, total, facts)
ShardFacts = tuple[int, int, int, str]  # first file, rows, bytes, first digits of sha256
PAGE, FINDINGS = "report.html", "findings.csv"
SHOWN, SAMPLED = 40, 48
GAN_CONFIGS = (32, 256, 512, 1024)  # configs/gan/photos-*.yaml; the first is affordable without a GPU
MAX_BAD_FRACTION = 0.2


@dataclass
class PreparedResult:
    """What `prepare` did.

    Attributes:
        output: the set, a source for every other step. fingerprint: of its settings and files.
        pictures: rows in it. files: of the source. done_before: files of shards that were there already.
        skipped, left_out, mended, noted: findings by kind.
        report, findings: the page, and the table of every finding.
        next: the command that takes the set.
        seconds: of this run; files_per_second: over those it made.
    """

    output: str
    fingerprint: str
    pictures: int = 0
    files: int = 0
    done_before: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    mended: dict[str, int] = field(default_factory=dict)
    noted: dict[str, int] = field(default_factory=dict)
    report: str = ""
    findings: str = ""
    next: str = ""
    seconds: float = 0.0
    files_per_second: float = 0.0


def prepare(
    source: str,
    output: str,
    settings: PreparationSettings,
    *,
    masks: str = "",
    labels: str = "",
    max_bad_fraction: float = MAX_BAD_FRACTION,
    overwrite: bool = False,
    threads: int = 0,
    progress: Progress | None = None,
) -> PreparedResult:
    """Prepare `source` into `output`. The same call again goes on where it stopped, or finds that all is done.

    Args:
        source: folder or s3:// prefix, laid out as `settings.layout` says.
        output: folder or s3:// prefix.
        masks: folder of PNG or labelme files, or a COCO file; empty: none, or `masks/` beside `images/`.
        labels: a labels.json; empty: the one by the masks.
        max_bad_fraction: share of files that may be bad; duplicates and files of other kinds are not.
        overwrite: replace what `output` holds.
        threads: that decode; 0: as many as there are processors.
        progress: called as (stage, done, total, facts).

    Raises:
        ConfigError, DataError: the source is not as `settings` say; too many bad files; nothing is left.
        FingerprintError: `output` holds a set made with other settings or of other files.
        StorageError: a place cannot be reached or written; what is there stays, the same call goes on.
    """
    began = time.perf_counter()
    listing, record = _opened(source, output, settings, masks, labels)
    record, done = begin(output, record, overwrite)
    result = PreparedResult(output, record.fingerprint, files=len(listing.items))
    result.next = next_commands(output, record)[0][1]
    result.report, result.findings = object_store.join(output, PAGE), object_store.join(output, FINDINGS)
    result.done_before = sum(run.count for run in record.planned() if run.name in done)
    follow = _Follower(result.done_before, result.files, max_bad_fraction, progress)
    summary, shards = _produced(Production(listing, settings, record, output, threads), done, follow)
    summary.found(list(listing.left_out))
    _fill(result, summary)
    if not record.complete or not _reported(result):
        _write_findings(result.findings, listing.left_out, record.planned()[: len(shards)], output)
        _write_page(result.report, source, output, record, shards, summary)
    _check(source, result, summary, max_bad_fraction, len(shards) < len(record.planned()))
    finish(output, record, shards)
    result.seconds = time.perf_counter() - began
    result.files_per_second = (result.files - result.done_before) / max(result.seconds, 1e-9)
    return result


def _produced(production: Production, done: set[str], follow: _Follower) -> tuple[Summary, list[ShardFacts]]:
    """Make what is missing, up to the limit of bad files; totals, and the facts of each shard."""
    summary = Summary()
    shards: list[ShardFacts] = []
    with quiet_decoders():
        for notes in production.shards(done, follow):
            summary.add(notes)
            shards.append((notes.first, len(notes.rows), notes.stored, notes.sha256[:16]))
            if follow.past_limit(summary):
                break
    return summary, shards


def plan(
    source: str, output: str, settings: PreparationSettings, *, masks: str = "", labels: str = "", threads: int = 0
) -> dict[str, Any]:
    """What `prepare` would do, with a few files tried out. Writes nothing; same errors for a wrong source."""
    listing, record = _opened(source, output, settings, masks, labels)
    summary, rows, pixels = Summary(), 0, 0
    summary.found(list(listing.left_out))
    began = time.perf_counter()
    with quiet_decoders():
        tried = list(Production(listing, settings, record, output, threads).sample(SAMPLED))
    seconds = time.perf_counter() - began
    for made in tried:
        rows, pixels = rows + len(made.rows), pixels + sum(len(row.picture) for row in made.rows)
        summary.found(made.findings)
    share = len(listing.items) / max(1, len(tried))
    return {
        "files": len(listing.items),
        "bytes": sum(item.size for item in listing.items),
        "classes": list(record.labels.names) if record.labels else "no masks",
        "shards": len(record.planned()),
        "files_per_shard": record.files_per_shard,
        "tried": len(tried),
        "usable_of_those": rows,
        "found": dict(summary.counts),
        "minutes": round(seconds * share / 60, 1),
        "mebibytes": round(pixels * share / 2**20, 1),
        "output": output,
        "settings": settings.identity(),
        "fingerprint": record.fingerprint,
    }


class _Follower:
    """Counts files as they are made, for the progress and for the limit."""

    def __init__(self, done: int, total: int, max_bad_fraction: float, progress: Progress | None) -> None:
        self._done, self._total, self._allowed = done, total, max_bad_fraction * total
        self._progress, self._bad, self._kept = progress, 0, 0
        if progress is not None:
            progress("prepare", done, total, {})

    def __call__(self, made: Made) -> None:
        self._done += 1
        self._bad += any(finding.bad for finding in made.findings)
        self._kept += len(made.rows)
        if self._progress is not None:
            self._progress("prepare", self._done, self._total, {"kept": self._kept, "skipped": self._bad})

    def past_limit(self, summary: Summary) -> bool:
        """Whether the files to come cannot make up for the bad ones."""
        return summary.bad > self._allowed


def _opened(source: str, output: str, settings: PreparationSettings, masks: str, labels: str) -> tuple[Listing, Record]:
    """The source, and what the set that is made of it will be."""
    listing = open_listing(source, settings, masks, labels, output)
    if settings.limit:
        listing = Listing(listing.place, listing.items[: settings.limit], listing.annotations, listing.left_out)
    space = labels_with_void(listing.annotations.labels, settings.fit) if listing.annotations else None
    identity = {**settings.identity(), **listing.identity()}
    return listing, Record(identity, space, len(listing.items), settings.files_per_shard)


def _fill(result: PreparedResult, summary: Summary) -> None:
    result.pictures = summary.rows
    result.skipped, result.left_out = summary.by_outcome("skipped"), summary.by_outcome("left out")
    result.mended, result.noted = summary.by_outcome("mended"), summary.by_outcome("noted")


def _reported(result: PreparedResult) -> bool:
    return object_store.exists(result.report) and object_store.exists(result.findings)


def _check(source: str, result: PreparedResult, summary: Summary, max_bad_fraction: float, stopped: bool) -> None:
    """Raise DataError past the limit, or where nothing is left."""
    first = "; ".join(f"{f.name}: {f.kind}" + (f" ({f.detail})" if f.detail else "") for f in summary.first_bad())
    if stopped or summary.bad > max_bad_fraction * result.files:
        raise DataError(
            f"{source}: {summary.bad} of the first {summary.files} files are bad ({result.skipped}), e.g. {first}",
            f"see {result.report}; mend or remove them, or raise --max-bad-fraction (now {max_bad_fraction:g})",
        )
    if not result.pictures:
        raise DataError(f"{source}: not one of {result.files} files is left", f"see {result.report} for the reasons")


def _write_findings(place: str, left_out: Sequence[Finding], runs: Sequence[FileRun], output: str) -> None:
    """One line a finding: file, kind, outcome, detail."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("file", "kind", "outcome", "detail"))
    writer.writerows((*f[:2], f.outcome, f.detail) for f in left_out)
    for run in runs:
        writer.writerows((*f[:2], f.outcome, f.detail) for f in read_notes(output, run).findings)
    object_store.write_bytes(place, text.getvalue().encode())


def _write_page(
    place: str, source: str, output: str, record: Record, shards: Sequence[ShardFacts], summary: Summary
) -> None:
    from raygseg.viz.preparation_page import preparation_sections
    from raygseg.viz.report import write_report

    pictures, class_maps = _sample(output, record, shards, summary.rows)
    sections = preparation_sections(
        source,
        summary,
        record.settings,
        record.labels,
        pictures,
        class_maps,
        next_commands(output, record),
    )
    write_report(place, sections)


def next_commands(output: str, record: Record) -> list[tuple[str, str]]:
    """(what it does, command) that take the set."""
    resolution, place = int(record.settings["resolution"]), shlex.quote(output)
    base = next((size for size in GAN_CONFIGS if size >= resolution), GAN_CONFIGS[-1]) if resolution > 128 else 32
    gan = f"configs/gan/photos-{base}.yaml" + ("" if base == resolution else f" data.resolution={resolution}")
    commands = [("train a generator on the pictures", f"raygseg train {gan} data.source={place} name=NAME")]
    if record.labels is not None:
        direct = f"raygseg train configs/toy/segmenter-direct.yaml labelled={place} resolution={resolution} name=NAME"
        commands.insert(0, ("train a segmenter on the labelled pictures", direct))
    return [*commands, ("see what the place holds", f"raygseg inspect {place}")]


def _sample(
    output: str, record: Record, shards: Sequence[ShardFacts], rows: int
) -> tuple[list[Picture], list[ClassMap]]:
    """Some rows, evenly over the set, read back from its shards."""
    classes = Classes(record.labels) if record.labels else None
    wanted = {round(i * (rows - 1) / max(1, SHOWN - 1)) for i in range(min(rows, SHOWN))} if rows else set()
    pictures: list[Picture] = []
    class_maps: list[ClassMap] = []
    first = 0
    for run, (_, count, _, _) in zip(record.planned(), shards, strict=False):
        inside = sorted(row - first for row in wanted if first <= row < first + count)
        first += count
        if not inside:
            continue
        shard = ParquetRows([run.pictures_uri(output)], classes)
        for row in inside:
            if classes is None:
                pictures.append(shard.picture(row, None))
            else:
                picture, class_map = shard.labelled(row, None)
                pictures.append(picture)
                class_maps.append(class_map)
    return pictures, class_maps
