"""What a prepared set holds and what its making found, added up over shards in constant memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from raygseg.data.preparation.findings import KINDS, Finding
from raygseg.data.preparation.prepared_set import Notes

NAMED = 200  # files named for each kind; all are in findings.csv
# Edges of the aspect classes, width to height; the first and last class are open.
ASPECTS = (0.4, 0.55, 0.7, 0.85, 0.97, 1.03, 1.18, 1.43, 1.82, 2.5)
SIDES = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


@dataclass
class Summary:
    """Totals of all shards so far.

    Attributes:
        files, rows, bytes: of the source, of the set, of its Parquet files.
        counts: findings by kind. named: the first of each. bad: files that count towards the limit.
        aspects, sides: rows by class of aspect and of shorter side, as they were in the source.
        smallest, largest: (width, height) by area.
        class_pixels, class_rows: by class.
    """

    files: int = 0
    rows: int = 0
    bytes: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    named: dict[str, list[Finding]] = field(default_factory=dict)
    bad: int = 0
    aspects: Counter[int] = field(default_factory=Counter)
    sides: Counter[int] = field(default_factory=Counter)
    smallest: tuple[int, int] | None = None
    largest: tuple[int, int] | None = None
    class_pixels: list[int] = field(default_factory=list)
    class_rows: list[int] = field(default_factory=list)

    def add(self, notes: Notes) -> None:
        """Count a shard in."""
        self.files += notes.files
        self.rows += len(notes.rows)
        self.bytes += notes.stored
        self.found(notes.findings)
        for _, width, height in notes.rows:
            self.aspects[int(np.searchsorted(ASPECTS, width / height))] += 1
            self.sides[int(np.searchsorted(SIDES, min(width, height), side="right"))] += 1
            if self.smallest is None or width * height < self.smallest[0] * self.smallest[1]:
                self.smallest = (width, height)
            if self.largest is None or width * height > self.largest[0] * self.largest[1]:
                self.largest = (width, height)
        self.class_pixels = _sum(self.class_pixels, notes.class_pixels)
        self.class_rows = _sum(self.class_rows, notes.class_rows)

    def found(self, findings: tuple[Finding, ...] | list[Finding]) -> None:
        """Count findings in."""
        for finding in findings:
            self.counts[finding.kind] += 1
            self.bad += finding.bad
            names = self.named.setdefault(finding.kind, [])
            if len(names) < NAMED:
                names.append(finding)

    def by_outcome(self, outcome: str) -> dict[str, int]:
        """How many of each kind with this outcome, the most frequent first."""
        chosen = {kind: count for kind, count in self.counts.items() if KINDS[kind].outcome == outcome}
        return dict(sorted(chosen.items(), key=lambda item: (-item[1], item[0])))

    def first_bad(self, count: int = 3) -> list[Finding]:
        """A few bad files, one of each kind at first."""
        chosen = [named[0] for named in self.named.values() if named[0].bad]
        more = [finding for named in self.named.values() for finding in named[1:] if finding.bad]
        return [*chosen, *more][:count]


def _sum(total: list[int], part: tuple[int, ...]) -> list[int]:
    if not part:
        return total
    return [a + b for a, b in zip(total or [0] * len(part), part, strict=True)]
