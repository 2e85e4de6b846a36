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
from raygseg.distributed.actor_pool import ActorPool
from raygseg.distributed.episode_worker import EpisodeAnswer, EpisodeJob, EpisodeWorker
from raygseg.distributed.worker_errors import own_error
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
            max_task_retries=pool.max_failures,
        )
        for row in answers.iter_rows():
            for lists, number, confusion, reason in json.loads(row["answers"]):
                counted = None if confusion is None else np.array(confusion, np.int64)
                yield EpisodeAnswer(lists, number, counted, reason)
    except ray.exceptions.RayError as error:
        own = own_error(error)
        if own is not None:
            raise own from error
        last = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise RaygsegError(f"the actors that score episodes failed: {last}", "run the same command again") from error
    finally:
        context.execution_options.preserve_order = kept_order


class _EpisodeActor:
    """What one actor runs."""

    def __init__(self, make_worker: MakeWorker, device: str, threads: int) -> None:
        from raygseg.engine.process import use_cpu

        use_cpu(threads)
        self._worker = make_worker(device)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[str]]:
        return {"answers": [json.dumps(list(self._answers(str(text)))) for text in batch["task"]]}

    def _answers(self, text: str) -> Iterator[tuple[int, int, Any, str]]:
        for lists, numbers in json.loads(text):
            for answer in self._worker(EpisodeJob(lists, tuple(numbers))):
                counted = None if answer.confusion is None else answer.confusion.tolist()
                yield answer.lists, answer.number, counted, answer.reason
