"""Shards one after the other: files are decoded in threads a little ahead, duplicates are told in name order.

What is held is one shard's encoded rows and a few decoded pictures, whatever the number of files; besides
that some hundred bytes a file for names and hashes.
"""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from raygseg.data.picture_sets import usable_threads
from raygseg.data.preparation.duplicates import SeenPictures
from raygseg.data.preparation.findings import Finding
from raygseg.data.preparation.listing import Item, Listing
from raygseg.data.preparation.making import Made, Maker, Row
from raygseg.data.preparation.prepared_set import FileRun, Notes, Record, read_notes, write_shard
from raygseg.data.preparation.settings import PreparationSettings

AHEAD = 4  # decoded files a thread that may wait for their turn


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """Without Pillow's warnings on single files: what matters of them is a finding."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


@dataclass
class _Draft:
    """A shard in the making."""

    rows: list[Row] = field(default_factory=list)
    kept: list[tuple[str, str, int]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def notes(self, run: FileRun, classes: int, seconds: float) -> Notes:
        pixels = [sum(row.classes[c] for row in self.rows) for c in range(classes)]
        rows = [sum(row.classes[c] > 0 for row in self.rows) for c in range(classes)]
        shown = tuple((row.name, row.size[1], row.size[0]) for row in self.rows)
        return Notes(
            run.first, run.count, shown, tuple(self.kept), tuple(self.findings), tuple(pixels), tuple(rows),
            seconds=seconds,
        )  # fmt: skip


class Production:
    """Makes the shards of a set that are missing.

    Args:
        listing: the source. settings: how. record: what the set is. output: where it is.
        threads: that decode; 0: as many as there are processors.
    """

    def __init__(
        self, listing: Listing, settings: PreparationSettings, record: Record, output: str, threads: int = 0
    ) -> None:
        self._listing, self._settings, self._output = listing, settings, output
        self._record, self._threads = record, threads or usable_threads()
        self._make = Maker(listing, settings, record.labels)
        self._seen = SeenPictures()

    def shards(self, done: set[str], each: Callable[[Made], None]) -> Iterator[Notes]:
        """The notes of every shard in order; those in `done` are read, the others made.

        Args:
            each: called with what every file of a made shard gave, in order.

        Raises:
            StorageError: the place refuses (full disk, missing bucket); finished shards stay.
        """
        runs = self._record.planned()
        missing = (item for run in runs if run.name not in done for item in self._items(run))
        made = self._ahead(missing)
        try:
            for run in runs:
                if run.name in done:
                    notes = read_notes(self._output, run)
                    for name, digest, gradients in notes.kept:
                        self._seen.add(name, digest, gradients)
                    yield notes
                else:
                    yield self._shard(run, made, each)
        finally:
            made.close()

    def sample(self, count: int) -> Iterator[Made]:
        """What some files, evenly over the source, would give; nothing is written."""
        items = self._listing.items
        step = max(1, len(items) // max(1, count))
        return self._ahead(items[::step][:count])

    def _items(self, run: FileRun) -> Iterable[Item]:
        return self._listing.items[run.first : run.first + run.count]

    def _shard(self, run: FileRun, made: Iterator[Made], each: Callable[[Made], None]) -> Notes:
        began, draft = time.perf_counter(), _Draft()
        for _ in range(run.count):
            one = self._judged(next(made))
            draft.rows += one.rows
            draft.findings += one.findings
            if one.rows:
                draft.kept.append((one.item.shown, one.digest, one.gradients))
            each(one)
        classes = self._record.labels.num_classes if self._record.labels else 0
        return write_shard(self._output, run, draft.rows, draft.notes(run, classes, time.perf_counter() - began))

    def _judged(self, made: Made) -> Made:
        """Without its rows where the pixels came before."""
        if not made.rows:
            return made
        same, name = self._seen.same(made.digest), made.item.shown
        if same is not None and not self._settings.keep_duplicates:
            return Made(made.item, (), (Finding(name, "duplicate", f"of {same}"),))
        similar = same or self._seen.similar(made.gradients)
        self._seen.add(name, made.digest, made.gradients)
        if similar is None:
            return made
        findings = (*made.findings, Finding(name, "near duplicate", f"of {similar}"))
        return Made(made.item, made.rows, findings, made.digest, made.gradients)

    def _ahead(self, items: Iterable[Item]) -> Generator[Made, None, None]:
        """What the files give, in order, made in threads."""
        pool = ThreadPoolExecutor(self._threads, "prepare")
        waiting: deque[Future[Made]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(self._make, item))
                if len(waiting) >= AHEAD * self._threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
