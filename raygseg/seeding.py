"""Randomness by name: every draw is seeded by (seed, purpose, index), never by global state.

Any row of a data set and any step of a training run can therefore be made again, in any process.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, purpose: str, *index: int) -> int:
    """A 63-bit seed that depends on all of (seed, purpose, index) and on nothing else."""
    text = f"{seed}|{purpose}|{'|'.join(str(int(i)) for i in index)}"
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def numpy_rng(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """A NumPy generator for the named draw."""
    return np.random.default_rng(derive_seed(seed, purpose, *index))


def torch_rng(seed: int, purpose: str, *index: int) -> torch.Generator:
    """A CPU torch generator for the named draw.

    Draws are made on the CPU and moved, so that a CPU and a GPU run see the same numbers.
    """
    import torch

    return torch.Generator().manual_seed(derive_seed(seed, purpose, *index))
