"""Score episodes on Ray: resident actors, each holding the network and its own cache, take tasks from Ray Data.

What travels are lists of integers and pixel counts. Counts add up, so they do not depend on the number of actors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import ray

from raygseg.distributed import cluster
from raygseg.distributed.actor_pool import ANY_NUMBER, ActorPool
from raygseg.distributed.episode_worker import EpisodeAnswer, EpisodeJob, EpisodeWorker
from raygseg.errors import RaygsegError

MakeWorker = Callable[[str], EpisodeWorker]  # from the device


def score_with_actors(
    tasks: Sequence[Sequence[EpisodeJob]], make_worker: MakeWorker, pool: ActorPool
) -> Iterator[EpisodeAnswer]:
    """Answers of all episodes, task by task.

    Args:
        make_worker: called once in each actor with its device.

    Raises:
        MissingEnvironmentError: no cluster. RaygsegError: what an actor raised, or that actors kept dying.
    """
    cluster.connect()
    if not tasks:
        return
    context = cluster.quiet_data()
    kept_order = context.execution_options.preserve_order
    context.execution_options.preserve_order = True
    try:
        items = [{"task": json.dumps(task)} for task in tasks]
        answers = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            _EpisodeActor,
            fn_constructor_args=(make_worker, pool.device, pool.threads),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=pool.size(len(items)), max_tasks_in_flight_per_actor=2),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
            max_restarts=pool.max_failures,
            max_task_retries=ANY_NUMBER,
        )
        for row in answers.iter_rows():
            yield from _answers(str(row["answers"]))
    except ray.exceptions.RayError as error:
        last = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise RaygsegError(f"the actors that score episodes failed: {last}", "run the same command again") from error
    finally:
        context.execution_options.preserve_order = kept_order


class _EpisodeActor:
    """What one actor runs. Errors meant for users come back as values: Ray would wrap them beyond reading."""

    def __init__(self, make_worker: MakeWorker, device: str, threads: int) -> None:
        from raygseg.engine.process import set_up_worker

        set_up_worker(threads)
        self._failure: RaygsegError | None = None
        try:
            self._worker = make_worker(device)
        except RaygsegError as error:
            self._failure = error

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[str]]:
        return {"answers": [self._answered(str(text)) for text in batch["task"]]}

    def _answered(self, text: str) -> str:
        try:
            if self._failure is not None:
                raise self._failure
            found = [a for lists, numbers in json.loads(text) for a in self._worker(EpisodeJob(lists, tuple(numbers)))]
        except RaygsegError as error:
            return json.dumps({"error": [type(error).__name__, error.message, error.hint]})
        counted = [None if answer.confusion is None else answer.confusion.tolist() for answer in found]
        return json.dumps({"rows": [(a.lists, a.number, c, a.reason) for a, c in zip(found, counted, strict=True)]})


def _answers(text: str) -> Iterator[EpisodeAnswer]:
    """The answers of a task. Raises the error that it reports instead."""
    from raygseg import errors

    told = json.loads(text)
    if "error" in told:
        name, message, hint = told["error"]
        kind = getattr(errors, name, RaygsegError)
        raise kind(message, hint)
    for lists, number, confusion, reason in told["rows"]:
        yield EpisodeAnswer(lists, number, None if confusion is None else np.array(confusion, np.int64), reason)
