"""An endless shuffled order over tables too large to keep: a function of position that reads whole blocks.

Any row at any time would cost a row group each, read from the store for one picture. Here the blocks (row groups) are
dealt once to `lanes`, one for each micro-batch of a step; a lane takes its blocks in a new order every epoch of its
own, a window of them at a time, whose rows it shuffles. A host reads the blocks of the lanes whose micro-batches it
computes and no others, so that all hosts together read the table once an epoch; and since lanes belong to
micro-batches, not to hosts, the order does not depend on how many there are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raygseg.seeding import numpy_rng

Positions = NDArray[np.int64]
KEPT_WINDOWS = 4  # a lane is read in order: the window before and after are enough, two steps being read at a time


class Portions(NamedTuple):
    """How a step's pictures are shared out: `lanes` micro-batches of `size` pictures."""

    size: int
    lanes: int


class TableOrder:
    """Picture number n of a table (`streams.PictureStream`).

    Args:
        blocks: positions of the pictures in each block; none is empty, and there are at least as many as lanes.
        seed: decides everything.
        portions: of a step; a lane each.
        window: blocks of a lane that are shuffled together.
    """

    def __init__(self, blocks: Sequence[Positions], seed: int, portions: Portions, window: int) -> None:
        self._blocks, self._seed, self._portions = list(blocks), seed, portions
        self._window = max(1, window)
        self._lanes = _dealt([len(block) for block in blocks], portions.lanes, seed)
        self._rows = [sum(len(blocks[b]) for b in lane) for lane in self._lanes]
        self._windows: list[OrderedDict[tuple[int, int], Positions]] = [OrderedDict() for _ in self._lanes]
        self._orders: list[OrderedDict[int, tuple[list[list[int]], Positions]]] = [OrderedDict() for _ in self._lanes]

    def index(self, number: int) -> int:
        """The position of picture number `number`."""
        lane, place = self._place(number)
        epoch, row = divmod(place, self._rows[lane])
        _, starts = self._epoch(lane, epoch)
        window = int(np.searchsorted(starts, row, side="right")) - 1
        return int(self._shuffled(lane, epoch, window)[row - int(starts[window])])

    def ahead(self, number: int) -> list[int]:
        """The blocks that the lane of picture number `number` will turn to after its window."""
        lane, place = self._place(number)
        epoch, row = divmod(place, self._rows[lane])
        windows, starts = self._epoch(lane, epoch)
        window = int(np.searchsorted(starts, row, side="right")) - 1
        return windows[window + 1] if window + 1 < len(windows) else self._epoch(lane, epoch + 1)[0][0]

    def _place(self, number: int) -> tuple[int, int]:
        """(lane, how many pictures of the lane came before)."""
        size, lanes = self._portions
        step, rest = divmod(number, size * lanes)
        lane, offset = divmod(rest, size)
        return lane, step * size + offset

    def _epoch(self, lane: int, epoch: int) -> tuple[list[list[int]], Positions]:
        """Blocks by window, and the row of the lane at which each window begins."""
        kept = self._orders[lane]
        if epoch not in kept:
            order = numpy_rng(self._seed, "blocks", lane, epoch).permutation(len(self._lanes[lane]))
            blocks = [self._lanes[lane][i] for i in order]
            windows = [blocks[i : i + self._window] for i in range(0, len(blocks), self._window)]
            sizes = [sum(len(self._blocks[b]) for b in window) for window in windows]
            kept[epoch] = windows, np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
            while len(kept) > 2:
                kept.popitem(last=False)
        return kept[epoch]

    def _shuffled(self, lane: int, epoch: int, window: int) -> Positions:
        kept = self._windows[lane]
        if (epoch, window) not in kept:
            rows = np.concatenate([self._blocks[b] for b in self._epoch(lane, epoch)[0][window]])
            kept[epoch, window] = numpy_rng(self._seed, "window", lane, epoch, window).permutation(rows)
            while len(kept) > KEPT_WINDOWS:
                kept.popitem(last=False)
        return kept[epoch, window]


def _dealt(sizes: Sequence[int], lanes: int, seed: int) -> list[list[int]]:
    """Blocks by lane: in a seeded order, each to the lane that has the fewest rows."""
    dealt: list[list[int]] = [[] for _ in range(lanes)]
    rows = [0] * lanes
    for block in numpy_rng(seed, "deal").permutation(len(sizes)):
        lane = rows.index(min(rows))
        dealt[lane].append(int(block))
        rows[lane] += sizes[block]
    return dealt
