"""What a binary mask is made of: connected pieces, distance to its outline, its skeleton and the longest way along it.

Plain NumPy on masks of a few hundred pixels a side.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Path = NDArray[np.int64]  # [n, 2] rows and columns

# The eight neighbours, clockwise from above, as Zhang and Suen (1984) number them.
RING = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))


def pieces(mask: Mask) -> NDArray[np.int64]:
    """[H, W]: 0 outside, 1 .. n the 8-connected pieces in raster order of their first pixel.

    Runs of a row are joined with those they touch in the row above.
    """
    parent: list[int] = [0]

    def root(label: int) -> int:
        while parent[label] != label:
            parent[label] = parent[parent[label]]
            label = parent[label]
        return label

    labels = np.zeros(mask.shape, dtype=np.int64)
    for y in range(mask.shape[0]):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], mask[y].view(np.int8), [0]])))
        for first, end in edges.reshape(-1, 2):
            parent.append(len(parent))
            label = len(parent) - 1
            above = labels[y - 1, max(first - 1, 0) : end + 1] if y else labels[y, :0]
            for other in np.unique(above[above > 0]):
                low, high = sorted((root(int(other)), root(label)))
                parent[high] = low
            labels[y, first:end] = label
    roots = np.array([root(i) for i in range(len(parent))])
    return np.searchsorted(np.unique(roots), roots)[labels]


def inner_distance(mask: Mask) -> NDArray[np.float64]:
    """[H, W]: Euclidean distance to the nearest pixel outside (the frame counts as outside); 0 outside."""
    padded = np.pad(mask, 1)
    height, width = padded.shape
    rows = np.arange(height)[:, None]
    above = np.maximum.accumulate(np.where(padded, -1, rows), axis=0)
    below = np.minimum.accumulate(np.where(padded, height, rows)[::-1], axis=0)[::-1]
    column = np.minimum(rows - above, below - rows).astype(np.float64) ** 2  # within each column
    across = (np.arange(width)[:, None] - np.arange(width)) ** 2  # [to, from]
    squared = np.stack([(column[y] + across).min(axis=1) for y in range(height)])
    return np.asarray(np.sqrt(squared)[1:-1, 1:-1], dtype=np.float64)


def eroded(mask: Mask, radius: float) -> Mask:
    """Pixels more than `radius` inside; the picture's frame is no edge."""
    margin = int(np.ceil(radius)) + 1
    inside = np.pad(mask, margin, mode="edge")
    return np.asarray(inner_distance(inside)[margin:-margin, margin:-margin] > radius)


def skeleton(mask: Mask) -> Mask:
    """One pixel wide, connected as the mask is: the thinning of Zhang and Suen (1984).

    Two passes in turn take away edge pixels that end no line and join nothing, until none is left.
    """
    thin = np.pad(mask, 1)
    tables = _thinning_tables()
    changed = True
    while changed:
        changed = False
        for table in tables:
            gone = thin & table[_neighbour_codes(thin)]
            changed |= bool(gone.any())
            thin = thin & ~gone
    return np.asarray(thin[1:-1, 1:-1] if thin.any() else mask)


def _neighbour_codes(padded: Mask) -> NDArray[np.uint8]:
    """[H, W]: which of the eight neighbours are set, bit i for RING[i]; the border has none."""
    code = np.zeros(padded.shape, dtype=np.uint8)
    inner = code[1:-1, 1:-1]
    height, width = padded.shape
    for bit, (dy, dx) in enumerate(RING):
        inner |= padded[1 + dy : height - 1 + dy, 1 + dx : width - 1 + dx].astype(np.uint8) << bit
    return code


def _thinning_tables() -> list[Mask]:
    """For each pass, which neighbourhoods let their pixel go."""
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1  # [256, 8]
    count = bits.sum(1)
    turns = ((bits == 0) & (np.roll(bits, -1, axis=1) == 1)).sum(1)
    north, east, south, west = (bits[:, i] for i in (0, 2, 4, 6))
    ring = (count >= 2) & (count <= 6) & (turns == 1)
    first = ring & (north * east * south == 0) & (east * south * west == 0)
    second = ring & (north * east * west == 0) & (north * south * west == 0)
    return [np.asarray(first), np.asarray(second)]


def longest_way(line: Mask) -> Path:
    """The longest shortest way along the pixels of a line from end to end, [n, 2]; exact where it has no loops.

    From any pixel the farthest is an end; from that end the farthest is the other.
    """
    start = tuple(int(v) for v in np.argwhere(line)[0])
    end = _walk(line, start)[0][-1]
    order, came_from = _walk(line, end)
    way: list[Any] = [order[-1]]
    while way[-1] != end:
        way.append(came_from[way[-1]])
    return np.array(way, dtype=np.int64)


Place = tuple[int, ...]


def _walk(line: Mask, start: Place) -> tuple[list[Place], dict[Place, Place]]:
    """Pixels reached from `start`, nearest first, and from where each was reached."""
    padded = np.pad(line, 1)
    came_from, order, waiting = {start: start}, [start], deque([start])
    while waiting:
        y, x = waiting.popleft()
        for dy, dx in RING:
            near = (y + dy, x + dx)
            if padded[near[0] + 1, near[1] + 1] and near not in came_from:
                came_from[near] = (y, x)
                order.append(near)
                waiting.append(near)
    return order, came_from
