"""Generate pairs on Ray: a pool of actors, each holding the sampler, takes shards from Ray Data.

One row of the data set is one shard to make; an actor writes it whole ("put unless it is there") and
hands back its statistics only, so no pixels pass through the object store and the driver's memory
does not grow. Which shards are still to do is planned from one listing; a killed driver, actor or
host therefore costs the shards in flight, and the same command goes on.
"""

from __future__ import annotations

import importlib
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import ray

from raygseg.data.shard_stats import ShardStats
from raygseg.data.shard_writer import Recording, ShardWriter, stats_from_text, stats_to_text
from raygseg.data.shards import Manifest, Mode, Shard, complete, plan
from raygseg.distributed import cluster
from raygseg.distributed.actor_pool import ANY_NUMBER, ActorPool
from raygseg.errors import RaygsegError, TrainingError
from raygseg.interfaces import PairSampler

SHARDS_PER_TASK = 4  # at most; several let an actor write one shard while it samples the next
__all__ = ["ActorPool", "Progress", "SamplerLoader", "generate_pairs"]

LoadSampler = Callable[[str], PairSampler]  # takes the device, cpu or cuda


@dataclass(frozen=True)
class SamplerLoader:
    """How an actor gets the sampler: `module.function(argument, device)`, imported where it runs."""

    module: str
    function: str
    argument: str

    def __call__(self, device: str) -> PairSampler:
        loaded: PairSampler = getattr(importlib.import_module(self.module), self.function)(self.argument, device)
        return loaded


class Progress(NamedTuple):
    """done and total pairs of the set; pairs a second since the actors began; seconds left (None: not known)."""

    done: int
    total: int
    pairs_per_second: float
    seconds_left: float | None


def generate_pairs(
    load: LoadSampler,
    output: str,
    wanted: Manifest,
    mode: Mode = "resume",
    pool: ActorPool | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Manifest:
    """Make the pair set `wanted` describes at `output`, or what is missing of it; the complete manifest.

    Args:
        load: gives the sampler on a device; called once in each actor (`SamplerLoader`, or a picklable function).
        output: folder or s3:// prefix that every actor can reach.
        wanted: settings must hold batch_size, first_seed and image_format.
        mode: see `shards.plan`.
        pool: actors and their resources.
        progress: called whenever shards are done.

    Raises:
        FingerprintError: the place holds another set.
        StorageError: the place refuses; what is committed stays, the same call goes on from there.
        TrainingError: actors died more often than the pool allows.
    """
    todo = plan(output, wanted, mode)
    pool = pool or ActorPool()
    fresh: dict[int, ShardStats] = {}
    meter = _Meter(todo.manifest.num_pairs, sum(s.rows for s in todo.committed), progress)
    if todo.pending:
        for stats in _run(load, Recording.of(output, todo.manifest), todo.pending, pool):
            fresh[stats.first_row] = stats
            meter.add(stats)
    elif todo.manifest.complete:
        return todo.manifest
    return complete(output, todo.manifest, fresh, meter.steady_rate())


def _run(load: LoadSampler, recording: Recording, pending: Sequence[Shard], pool: ActorPool) -> Iterator[ShardStats]:
    """Statistics of the shards as they are done."""
    cluster.connect()
    group = max(1, min(SHARDS_PER_TASK, len(pending) // (8 * pool.size(len(pending)))))
    tasks = math.ceil(len(pending) / group)
    try:
        for row in _shard_tasks(load, recording, pending, pool, tasks).iter_rows():
            yield stats_from_text(row["stats"])
    except ray.exceptions.RayError as error:
        raise _own_error(error, recording.output) from error


def _shard_tasks(
    load: LoadSampler, recording: Recording, pending: Sequence[Shard], pool: ActorPool, tasks: int
) -> ray.data.Dataset:
    """The plan: pending shards in `tasks` blocks, mapped over the actors."""
    cluster.quiet_data()
    items = [{"first_row": s.first_row, "rows": s.rows} for s in pending]
    with warnings.catch_warnings():
        # Limits on restarts still go in by a way that Ray announces to close; without them a sampler
        # that crashes its process would be restarted for ever.
        warnings.simplefilter("ignore", DeprecationWarning)
        # from_items needs no read tasks, so the actors may hold every CPU of the cluster.
        return ray.data.from_items(items, override_num_blocks=tasks).map_batches(
            _ShardActor,
            fn_constructor_args=(load, recording, pool.threads, pool.device),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=pool.size(tasks), max_tasks_in_flight_per_actor=2),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
            max_restarts=pool.max_failures,
            max_task_retries=ANY_NUMBER,
        )


class _ShardActor:
    """What one actor of the pool runs: blocks of shards in, one row of statistics a shard out."""

    def __init__(self, load: LoadSampler, recording: Recording, threads: int, device: str) -> None:
        from raygseg.engine.process import set_up_worker

        set_up_worker(threads)
        self._writer = ShardWriter(load(device), recording)

    def __call__(self, batch: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        shards = [Shard(int(f), int(n)) for f, n in zip(batch["first_row"], batch["rows"], strict=True)]
        for stats in self._writer.write(shards):
            yield {"stats": np.array([stats_to_text(stats)])}


class _Meter:
    """Counts pairs and tells the caller; rates leave out the time until the actors are up."""

    def __init__(self, total: int, done: int, progress: Callable[[Progress], None] | None) -> None:
        self._total, self._done, self._progress = total, done, progress
        self._finished: list[tuple[float, int]] = []  # (when, rows) of each shard of this run
        self._began = math.inf
        self._tell(0.0)

    def add(self, stats: ShardStats) -> None:
        self._done += stats.rows
        self._finished.append((stats.finished, stats.rows))
        self._began = min(self._began, stats.finished - stats.seconds)
        elapsed = time.time() - self._began
        self._tell(sum(rows for _, rows in self._finished) / elapsed if elapsed > 0 else 0.0)

    def steady_rate(self) -> float:
        """Pairs a second from the first shard's end to the last one's; over all time where there is one only."""
        if not self._finished:
            return 0.0
        self._finished.sort()
        (first, first_rows), (last, _) = self._finished[0], self._finished[-1]
        rows = sum(rows for _, rows in self._finished)
        if last > first:
            return (rows - first_rows) / (last - first)
        return rows / max(last - self._began, 1e-9)

    def _tell(self, rate: float) -> None:
        if self._progress is not None:
            left = (self._total - self._done) / rate if rate > 0 else None
            self._progress(Progress(self._done, self._total, rate, left))


def _own_error(error: BaseException, output: str) -> RaygsegError:
    """The RaygsegError an actor raised, out of Ray's wrapping; else what Ray says."""
    seen: BaseException | None = error
    while seen is not None:
        cause = getattr(seen, "cause", None)
        if isinstance(cause, RaygsegError):
            return cause
        if isinstance(seen, RaygsegError):
            return seen
        seen = cause if isinstance(cause, BaseException) else seen.__cause__
    last = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
    return TrainingError(
        f"generating into {output} failed: {last}",
        "finished shards are safe; see the actor's log, then run the same command again",
    )
