"""Segment many pictures on Ray: resident actors, each holding the segmenter, take jobs from Ray Data.

A job is a few dozen names; pixels never pass through the object store, for each actor reads its
pictures and writes its masks itself. Rows come back in the order of the jobs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ray

from raygseg.data.picture_jobs import PictureJob, job_from_text, job_to_text
from raygseg.data.segment_table import SegmentRow
from raygseg.distributed import cluster
from raygseg.distributed.actor_pool import ANY_NUMBER, ActorPool
from raygseg.distributed.segment_worker import SegmentWorker
from raygseg.errors import RaygsegError

WorkerFactory = Callable[[], SegmentWorker]
MOST_TASKS = 2000  # a task is a run of jobs; more would only slow the planning


def segment_with_actors(
    jobs: Sequence[PictureJob], make_worker: WorkerFactory, actors: int = 0, max_failures: int = 3
) -> Iterator[SegmentRow]:
    """Rows of all pictures of the jobs.

    Args:
        jobs: places in them must be reachable from every node.
        make_worker: called once in each actor.
        actors: how many; 0: one a CPU, or one a GPU where the cluster has any.
        max_failures: restarts of an actor, whose task writes the same files again.

    Raises:
        MissingEnvironmentError: no cluster. RaygsegError: what a worker raised, or that actors kept dying.
    """
    cluster.connect()
    if not jobs:
        return
    gpus = 1.0 if ray.cluster_resources().get("GPU", 0) >= 1 else 0.0
    pool = ActorPool(actors, gpus=gpus, max_failures=max_failures)
    tasks = min(len(jobs), MOST_TASKS)
    context = cluster.quiet_data()
    kept = context.execution_options.preserve_order
    context.execution_options.preserve_order = True
    try:
        answers = ray.data.from_items(
            [{"job": job_to_text(job)} for job in jobs], override_num_blocks=tasks
        ).map_batches(
            _SegmentActor,
            fn_constructor_args=(make_worker, pool.threads),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=pool.size(tasks), max_tasks_in_flight_per_actor=2),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
            max_restarts=max_failures,
            max_task_retries=ANY_NUMBER,
        )
        for answer in answers.iter_rows():
            yield from _rows(answer["answer"])
    except ray.exceptions.RayError as error:
        last = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise RaygsegError(
            f"the segmenting actors failed: {last}", "run the same command again: it goes on where it stopped"
        ) from error
    finally:
        context.execution_options.preserve_order = kept


class _SegmentActor:
    """What one actor runs. Errors meant for users come back as values: Ray would wrap them beyond reading."""

    def __init__(self, make_worker: WorkerFactory, threads: int) -> None:
        from raygseg.engine.process import set_up_worker

        set_up_worker(threads)
        self._failure: RaygsegError | None = None
        try:
            self._worker = make_worker()
        except RaygsegError as error:
            self._failure = error

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[str]]:
        return {"answer": [self._answer(job_from_text(str(text))) for text in batch["job"]]}

    def _answer(self, job: PictureJob) -> str:
        try:
            if self._failure is not None:
                raise self._failure
            return json.dumps({"rows": list(self._worker(job))})
        except RaygsegError as error:
            return json.dumps({"error": [type(error).__name__, error.message, error.hint]})


def _rows(text: str) -> Iterator[SegmentRow]:
    """The rows of an answer. Raises the error it reports instead."""
    from raygseg import errors

    answer = json.loads(text)
    if "error" in answer:
        name, message, hint = answer["error"]
        kind = getattr(errors, name, RaygsegError)
        raise kind(message, hint)
    for row in answer["rows"]:
        yield SegmentRow(*row)._replace(shares=tuple(row[6]))
