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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import ray

from raygseg.data.shard_stats import ShardStats
from raygseg.data.shard_writer import Recording, ShardWriter, stats_from_text, stats_to_text
from raygseg.data.shards import Manifest, Mode, Shard, complete, plan
from raygseg.errors import MissingEnvironmentError, RaygsegError, TrainingError
from raygseg.interfaces import PairSampler

SHARDS_PER_TASK = 8  # at most; several let an actor write one shard while it samples the next


@dataclass(frozen=True)
class SamplerLoader:
    """How an actor gets the sampler: `module.function(argument)`, imported where it runs."""

    module: str
    function: str
    argument: str

    def __call__(self) -> PairSampler:
        loaded: PairSampler = getattr(importlib.import_module(self.module), self.function)(self.argument)
        return loaded


class Progress(NamedTuple):
    """done and total pairs of the set; pairs a second since the actors began; seconds left (None: not known)."""

    done: int
    total: int
    pairs_per_second: float
    seconds_left: float | None


@dataclass(frozen=True)
class ActorPool:
    """Who samples.

    actors: how many; 0: as many as the cluster has room for. cpus, gpus: what each holds.
    threads: torch threads in each. max_failures: restarts of an actor and retries of a task; -1: any number.
    """

    actors: int = 0
    cpus: float = 1.0
    gpus: float = 0.0
    threads: int = 1
    max_failures: int = 3

    def size(self, tasks: int) -> int:
        """Actors to start. Raises MissingEnvironmentError where the cluster can never hold one."""
        total = ray.cluster_resources()
        room = [total.get(name, 0.0) / need for name, need in (("CPU", self.cpus), ("GPU", self.gpus)) if need > 0]
        fits = int(min(room)) if room else 1
        if fits < 1:
            raise MissingEnvironmentError(
                f"the Ray cluster has {total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} GPUs, "
                f"an actor needs {self.cpus:g} and {self.gpus:g}",
                "add a node, lower runtime.threads, or set runtime.device=cpu",
            )
        return max(1, min(self.actors or fits, fits, tasks))


def generate_pairs(
    load: Callable[[], PairSampler],
    output: str,
    wanted: Manifest,
    mode: Mode = "resume",
    pool: ActorPool | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Manifest:
    """Make the pair set `wanted` describes at `output`, or what is missing of it; the complete manifest.

    Args:
        load: gives the sampler; called once in each actor (`SamplerLoader`, or any picklable function).
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


def _run(
    load: Callable[[], PairSampler], recording: Recording, pending: Sequence[Shard], pool: ActorPool
) -> Iterator[ShardStats]:
    """Statistics of the shards as they are done."""
    connect()
    group = max(1, min(SHARDS_PER_TASK, len(pending) // (4 * pool.size(len(pending)))))
    tasks = math.ceil(len(pending) / group)
    actors = pool.size(tasks)
    items = [{"first_row": s.first_row, "rows": s.rows} for s in pending]
    _quiet(ray.data.DataContext.get_current())
    # from_items needs no read tasks, so the actors may hold every CPU of the cluster.
    done = ray.data.from_items(items, override_num_blocks=tasks).map_batches(
        _ShardActor,
        fn_constructor_args=(load, recording, pool.threads),
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=2),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
        max_restarts=pool.max_failures,
        max_task_retries=pool.max_failures,
    )
    try:
        for row in done.iter_rows():
            yield stats_from_text(row["stats"])
    except ray.exceptions.RayError as error:
        raise _own_error(error, recording.output) from error


class _ShardActor:
    """What one actor of the pool runs: blocks of shards in, one row of statistics a shard out."""

    def __init__(self, load: Callable[[], PairSampler], recording: Recording, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._writer = ShardWriter(load(), recording)

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


def connect() -> None:
    """Join the cluster of RAY_ADDRESS, or start a local one for this process."""
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False, logging_level="warning")


def _quiet(context: Any) -> None:
    """No progress bars and no plans on the console: the caller has its own status line."""
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.print_on_execution_start = False


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
