"""Lists of episodes as plain integers: which classes, which support pictures, which queries (PANet spec 1.8).

Episode n of a list follows from (seed, fold, run, n) alone, and is the same whoever draws it. The query is drawn
before the support, so that the episodes of 1 shot and of 5 shots ask about the same pictures, and the one support
picture is the first of the five.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from raygseg.data.episodes.index import ClassIndex
from raygseg.data.object_store import read_bytes, write_bytes
from raygseg.errors import DataError
from raygseg.seeding import numpy_rng

Distinct = Literal["episode", "class"]


@dataclass(frozen=True)
class Episode:
    """Positions in an index. ways: [W] classes; support: [W][K] pictures; queries: [Q] pictures."""

    ways: tuple[int, ...]
    support: tuple[tuple[int, ...], ...]
    queries: tuple[int, ...]


@dataclass(frozen=True)
class EpisodeList:
    """A run's episodes.

    Attributes:
        rows: int32 [E, W + W K + Q]: classes, support pictures way by way, queries; positions in the index.
        ways, shots, queries: W, K, Q. seed, fold, run: what the draws follow from.
        index: fingerprint of the index that the positions are of.
        distinct: within what a picture is not repeated.
    """

    rows: NDArray[np.int32]
    ways: int
    shots: int
    queries: int
    seed: int
    fold: int
    run: int
    index: str
    distinct: Distinct = "episode"

    def __len__(self) -> int:
        return len(self.rows)

    def episode(self, number: int) -> Episode:
        row = [int(value) for value in self.rows[number]]
        support = row[self.ways : self.ways + self.ways * self.shots]
        parts = [tuple(support[i : i + self.shots]) for i in range(0, len(support), self.shots)]
        return Episode(tuple(row[: self.ways]), tuple(parts), tuple(row[self.ways + len(support) :]))

    def pictures(self) -> list[int]:
        """The pictures that any episode shows, ascending."""
        return [int(row) for row in np.unique(self.rows[:, self.ways :])]

    @cached_property
    def digest(self) -> str:
        """16 digits of SHA-256 over everything: two lists with the same digest are the same episodes."""
        facts = json.dumps(self._facts(), sort_keys=True).encode()
        return hashlib.sha256(facts + self.rows.astype("<i4").tobytes()).hexdigest()[:16]

    def _facts(self) -> dict[str, Any]:
        names = ("ways", "shots", "queries", "seed", "fold", "run", "index", "distinct")
        return {name: getattr(self, name) for name in names}

    def save(self, place: str) -> None:
        """Write one JSON file, digest included."""
        document = {**self._facts(), "digest": self.digest, "rows": self.rows.tolist()}
        write_bytes(place, (json.dumps(document) + "\n").encode())

    @classmethod
    def load(cls, place: str) -> EpisodeList:
        """Read such a file. Raises DataError where it is none or was altered."""
        try:
            document = json.loads(read_bytes(place))
            digest, rows = document.pop("digest"), np.array(document.pop("rows"), np.int32)
            loaded = cls(rows, **document)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{place}: not a list of episodes ({error!r})", "draw it again") from error
        width = loaded.ways + loaded.ways * loaded.shots + loaded.queries
        if rows.ndim != 2 or rows.shape[1] != width or loaded.digest != digest:
            raise DataError(f"{place}: the episodes are not those of its digest {digest}", "draw it again")
        return loaded


def draw_episodes(
    index: ClassIndex,
    classes: Sequence[str],
    ways: int,
    shots: int,
    queries: int,
    count: int,
    seed: int,
    fold: int,
    run: int,
    distinct: Distinct = "episode",
) -> EpisodeList:
    """`count` episodes of `classes`.

    Raises:
        DataError: fewer classes than ways, or a class with fewer pictures than shots + queries; names it.
    """
    positions = checked_classes(index, classes, ways, shots, queries)
    rows = np.zeros((count, ways + ways * shots + queries), np.int32)
    for number in range(count):
        rng = numpy_rng(seed, "episode", fold, run, number)
        rows[number] = draw_row(index, positions, ways, shots, queries, rng, distinct)
    return EpisodeList(rows, ways, shots, queries, seed, fold, run, index.fingerprint, distinct)


def checked_classes(index: ClassIndex, classes: Sequence[str], ways: int, shots: int, queries: int) -> list[int]:
    """Positions of `classes`. Raises DataError where episodes cannot be drawn of them."""
    positions = [index.position(name) for name in classes]
    if len(positions) < ways:
        raise DataError(f"{ways} ways need as many classes, there are {len(positions)}", "lower ways")
    index.check_enough(positions, shots + queries)
    return positions


def draw_row(
    index: ClassIndex,
    classes: Sequence[int],
    ways: int,
    shots: int,
    queries: int,
    rng: np.random.Generator,
    distinct: Distinct,
) -> list[int]:
    """One episode as a row of an `EpisodeList`. Raises DataError where its pictures cannot all be different."""
    chosen = [classes[int(i)] for i in rng.permutation(len(classes))[:ways]]
    asked = [int(rng.integers(ways)) for _ in range(queries)]
    orders = [[int(p) for p in rng.permutation(index.members[c])] for c in chosen]
    taken: list[set[int]] = [set() for _ in chosen]
    if distinct == "episode":
        taken = [taken[0]] * ways

    def next_of(way: int) -> int:
        for picture in orders[way]:
            if picture not in taken[way]:
                taken[way].add(picture)
                return picture
        names = ", ".join(index.classes[c] for c in chosen)
        raise DataError(f"the pictures of {names} overlap too much for an episode", "set protocol.distinct=class")

    query_pictures = [next_of(way) for way in asked]
    support = [next_of(way) for way in range(ways) for _ in range(shots)]
    return [*chosen, *support, *query_pictures]
