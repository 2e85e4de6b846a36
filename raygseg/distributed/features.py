"""Statistics of many pictures' features, made by Ray actors and added up in the order of the pictures.

A share has always the same size and shares are added in order, so the figures do not depend on how many
actors there were. What travels is a share's moments and the few rows kept, not pictures.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import ray

from raygseg.distributed import cluster
from raygseg.distributed.actor_pool import ActorPool
from raygseg.distributed.worker_errors import own_error
from raygseg.errors import RaygsegError
from raygseg.metrics.distributions import Features, FeatureStatistics, merged

SHARE = 256  # pictures; part of the result, for sums of floats depend on their order
FeaturesOf = Callable[[int, int], Features]  # rows [first, first + count) of a set of pictures
Progress = Callable[[int, int], None]  # (done, total)


class Share(NamedTuple):
    """Rows [first, first + rows), of whose features the first `keep` are kept."""

    first: int
    rows: int
    keep: int


def shares(count: int, keep: int) -> list[Share]:
    """`count` rows in shares; of all of them the first `keep` are kept."""
    firsts = range(0, count, SHARE)
    return [Share(first, min(SHARE, count - first), max(0, min(SHARE, keep - first))) for first in firsts]


def statistics_here(features_of: FeaturesOf, count: int, keep: int, progress: Progress | None) -> FeatureStatistics:
    """In this process."""
    parts = []
    for share in shares(count, keep):
        parts.append(FeatureStatistics.of(features_of(share.first, share.rows), share.keep))
        if progress is not None:
            progress(share.first + share.rows, count)
    return merged(parts)


def statistics_on_ray(
    make: Callable[[], FeaturesOf], count: int, keep: int, pool: ActorPool, progress: Progress | None
) -> FeatureStatistics:
    """By actors, each of which calls `make` once.

    Raises:
        MissingEnvironmentError: no cluster. RaygsegError: what an actor raised, or that actors kept dying.
    """
    cluster.connect()
    todo = shares(count, keep)
    context = cluster.quiet_data()
    kept_order = context.execution_options.preserve_order
    context.execution_options.preserve_order = True
    parts: list[FeatureStatistics] = []
    try:
        items = [{"share": np.array(share)} for share in todo]
        answers = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            _FeatureActor,
            fn_constructor_args=(make, pool.threads),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=pool.size(len(items)), max_tasks_in_flight_per_actor=2),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
        )
        for share, row in zip(todo, answers.iter_rows(), strict=True):
            parts.append(statistics_from_bytes(row["statistics"]))
            if progress is not None:
                progress(share.first + share.rows, count)
    except ray.exceptions.RayError as error:
        own = own_error(error)
        if own is not None:
            raise own from error
        last = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise RaygsegError(f"the actors that look at pictures failed: {last}", "run the same command again") from error
    finally:
        context.execution_options.preserve_order = kept_order
    return merged(parts)


class _FeatureActor:
    """What one actor runs."""

    def __init__(self, make: Callable[[], FeaturesOf], threads: int) -> None:
        from raygseg.engine.process import set_up_worker

        set_up_worker(threads)
        self._features_of = make()

    def __call__(self, batch: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        for row in batch["share"]:
            share = Share(*map(int, row))
            statistics = FeatureStatistics.of(self._features_of(share.first, share.rows), share.keep)
            yield {"statistics": [statistics_to_bytes(statistics)]}


def statistics_to_bytes(statistics: FeatureStatistics) -> bytes:
    """For the way between processes, and to keep them."""
    buffer = io.BytesIO()
    np.savez(buffer, count=statistics.count, total=statistics.total, outer=statistics.outer, kept=statistics.kept)
    return buffer.getvalue()


def statistics_from_bytes(data: bytes) -> FeatureStatistics:
    """Raises ValueError, KeyError or BadZipFile for what was cut short."""
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        return FeatureStatistics(int(stored["count"]), stored["total"], stored["outer"], stored["kept"])
