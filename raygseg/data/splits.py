"""Few-shot subsets: seeded, nested, and the same whatever order the files were listed in."""

from __future__ import annotations

from collections.abc import Sequence

from raygseg.errors import DataError
from raygseg.seeding import numpy_rng


def nested_subset(names: Sequence[str], k: int, seed: int) -> list[int]:
    """Positions in `names` of the k-shot subset of draw `seed`.

    The subset of k = 1 lies in that of k = 5, and so on; it follows from the set of names alone.

    Args:
        names: distinct names.
        k: at least 1, at most len(names).
        seed: which draw.

    Raises:
        DataError: too few names, or names that repeat.
    """
    if not 1 <= k <= len(names):
        raise DataError(f"cannot take {k} of {len(names)} labelled pictures", f"choose k from 1 to {len(names)}")
    if len(set(names)) != len(names):
        raise DataError("names of labelled pictures repeat", "give every picture its own name")
    alphabetical = sorted(range(len(names)), key=names.__getitem__)
    order = numpy_rng(seed, "k-shot").permutation(len(names))
    return [alphabetical[int(i)] for i in order[:k]]
