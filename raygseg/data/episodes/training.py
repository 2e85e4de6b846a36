"""Which pictures a fold trains on and which it is tested on, and the endless sequence of training episodes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from raygseg.data.episodes.draws import Distinct, Episode, checked_classes, draw_row
from raygseg.data.episodes.folds import CocoOrder, fold_classes
from raygseg.data.episodes.index import ClassIndex
from raygseg.data.episodes.reading import Reading, read_episode
from raygseg.errors import DataError
from raygseg.seeding import numpy_rng


class Choosing(Reading, Protocol):
    """The keys of a protocol that decide which pictures and classes are used (`config.episodes.EpisodeProtocol`)."""

    @property
    def novel_pixels(self) -> Literal["background", "removed"]: ...
    @property
    def split(self) -> Literal["separate", "same"]: ...
    @property
    def min_pixels(self) -> int: ...
    @property
    def coco_order(self) -> CocoOrder: ...
    @property
    def distinct(self) -> Distinct: ...
    def described(self) -> str: ...


def halves(index: ClassIndex) -> frozenset[int]:
    """A test half of the pictures in which every class has about half of its pictures; always the same.

    The rarest class is parted first; pictures that were parted with an earlier class stay where they are.
    """
    side = np.full(len(index), -1, np.int64)
    for c in sorted(range(len(index.classes)), key=lambda c: (len(index.members[c]), index.classes[c])):
        rows = index.members[c]
        open_rows = rows[side[rows] < 0]
        wanted = len(rows) // 2 - int((side[rows] == 1).sum())
        order = numpy_rng(0, "halves", c).permutation(open_rows)
        side[order] = 0
        side[order[: max(0, wanted)]] = 1
    return frozenset(np.flatnonzero(side == 1).tolist())


def tested_pictures(index: ClassIndex, protocol: Choosing) -> frozenset[int]:
    """What `split` says: everything, the source's own test list, or a fixed half where it has none."""
    if protocol.split == "same":
        return frozenset(range(len(index)))
    return index.test if index.test is not None else halves(index)


def evaluation_index(index: ClassIndex, protocol: Choosing) -> ClassIndex:
    """The pictures that test episodes show."""
    return index.narrowed(tested_pictures(index, protocol), protocol.min_pixels)


def training_index(index: ClassIndex, fold: int, protocol: Choosing) -> ClassIndex:
    """The pictures that training episodes of a fold show.

    With `novel_pixels: removed` without those that the index lists for a test class of the fold.
    """
    allowed = set(range(len(index)))
    if protocol.split == "separate":
        allowed -= tested_pictures(index, protocol)
    if protocol.novel_pixels == "removed":
        for name in fold_classes(index, fold, "test", protocol.coco_order):
            allowed -= set(index.members[index.position(name)].tolist())
    if not allowed:
        raise DataError(f"fold {fold}: no picture is left to train on", "set protocol.novel_pixels=background")
    return index.narrowed(allowed, protocol.min_pixels)


def split_in_words(index: ClassIndex, protocol: Choosing) -> str:
    """Which pictures are tested, for reports."""
    if protocol.split == "same":
        return "training and test from the same pictures"
    return "the source's own test list" if index.test is not None else "a fixed half of the pictures"


class TrainingEpisodes:
    """Episode after episode of the training classes; number n follows from (seed, n) alone.

    Args:
        index: of `training_index`. classes: to draw from; with too few pictures they are refused.
        flip: mirror each picture with its labels half of the time (spec 1.6).

    Raises:
        DataError: a class with fewer pictures than shots + queries.
    """

    def __init__(
        self,
        index: ClassIndex,
        classes: Sequence[str],
        ways: int,
        shots: int,
        queries: int,
        resolution: int,
        seed: int,
        protocol: Choosing,
        flip: bool = True,
    ) -> None:
        self._positions = checked_classes(index, classes, ways, shots, queries)
        self.classes = tuple(classes)
        self._index, self._shape, self._protocol = index, (ways, shots, queries), protocol
        self._resolution, self._seed, self._flip = resolution, seed, flip

    def drawn(self, number: int) -> Episode:
        """The positions of episode `number`."""
        ways, shots, queries = self._shape
        rng = numpy_rng(self._seed, "training-episode", number)
        row = draw_row(self._index, self._positions, ways, shots, queries, rng, self._protocol.distinct)
        support = [tuple(row[ways + way * shots : ways + (way + 1) * shots]) for way in range(ways)]
        return Episode(tuple(row[:ways]), tuple(support), tuple(row[ways + ways * shots :]))

    def episode(self, number: int) -> dict[str, NDArray[np.uint8]]:
        """The arrays of `reading.read_episode`. Raises DataError naming a file that cannot be used."""
        arrays = read_episode(self._index, self.drawn(number), self._resolution, self._protocol)
        return self._mirrored(arrays, number) if self._flip else arrays

    def identity(self) -> str:
        """16 digits over index, classes, shape, seed and protocol."""
        facts = [self._index.fingerprint, self.classes, self._shape, self._resolution, self._seed, self._flip]
        text = json.dumps([*facts, self._protocol.described()])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _mirrored(self, arrays: dict[str, NDArray[np.uint8]], number: int) -> dict[str, NDArray[np.uint8]]:
        ways, shots, queries = self._shape
        turned = numpy_rng(self._seed, "training-flip", number).random(ways * shots + queries) < 0.5
        support, asked = turned[: ways * shots].reshape(ways, shots), turned[ways * shots :]
        for names, chosen in ((("support_images", "fore", "back"), support), (("query_images", "query_labels"), asked)):
            for name in names:
                arrays[name][chosen] = arrays[name][chosen][..., ::-1]
        return arrays
