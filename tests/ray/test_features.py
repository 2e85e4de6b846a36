"""Statistics of features made by actors are those made here, whatever the number of actors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from raygseg.distributed.actor_pool import ActorPool
from raygseg.distributed.features import SHARE, shares, statistics_here, statistics_on_ray
from raygseg.errors import DataError, RaygsegError
from raygseg.metrics.distributions import Features
from raygseg.seeding import numpy_rng

COUNT = 3 * SHARE + 17


def make() -> Callable[[int, int], Features]:
    def features(first: int, count: int) -> Features:
        rows = [numpy_rng(0, "features", row).normal(size=12) for row in range(first, first + count)]
        return np.stack(rows).astype(np.float32)

    return features


def failing() -> Callable[[int, int], Features]:
    def features(first: int, count: int) -> Features:
        raise DataError("the picture is broken", "fetch it again")

    return features


def test_shares_cover_every_row_once() -> None:
    parts = shares(COUNT, 300)
    assert [part.first for part in parts] == [0, 256, 512, 768]
    assert sum(part.rows for part in parts) == COUNT
    assert [part.keep for part in parts] == [256, 44, 0, 0]


@pytest.mark.timeout(200)
def test_actors_give_the_same_statistics_to_the_bit(ray_cluster: None) -> None:
    seen: list[tuple[int, int]] = []
    here = statistics_here(make(), COUNT, 300, None)
    for actors in (1, 2):
        there = statistics_on_ray(make, COUNT, 300, ActorPool(actors), lambda *step: seen.append(step))
        assert there.count == here.count == COUNT
        for name in ("total", "outer", "kept"):
            assert np.array_equal(getattr(there, name), getattr(here, name)), name
    assert seen[-1] == (COUNT, COUNT)
    with pytest.raises(RaygsegError, match="the picture is broken"):
        statistics_on_ray(failing, COUNT, 300, ActorPool(1), None)
