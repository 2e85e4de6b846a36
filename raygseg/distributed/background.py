"""One call at a time in a process of its own, somewhere in the cluster, while this one goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray

from raygseg.distributed import cluster
from raygseg.distributed.worker_errors import own_error
from raygseg.errors import RaygsegError


class BackgroundCall:
    """`function(*arguments)` as a Ray task; a host that dies meanwhile is made good by another try.

    Args:
        function: of a module; it and its arguments travel to the task.
        threads: CPU threads and Ray CPUs. gpus: whether it asks for a GPU.
    """

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...], threads: int, gpu: bool) -> None:
        cluster.connect()
        # A process for this call alone: nobody who comes after shall be as unhurried.
        task = ray.remote(num_cpus=threads, num_gpus=int(gpu), max_retries=2, max_calls=1)(_run)
        self._answer = task.remote(function, arguments, threads)

    def done(self) -> bool:
        return bool(ray.wait([self._answer], timeout=0)[0])

    def result(self) -> Any:
        """What the call returned; waits for it. Raises what it raised if that is a RaygsegError, else RaygsegError."""
        try:
            return ray.get(self._answer)
        except ray.exceptions.RayError as error:
            own = own_error(error)
            if own is not None:
                raise own from error
            lines = str(error).strip().splitlines()
            raise RaygsegError(
                f"the task failed: {lines[-1] if lines else type(error).__name__}", "see Ray's logs"
            ) from error


def spare_gpus(used: int) -> bool:
    """Whether the cluster has more GPUs than are used."""
    return bool(ray.cluster_resources().get("GPU", 0) > used)


def _run(function: Callable[..., Any], arguments: tuple[Any, ...], threads: int) -> Any:
    import os

    from raygseg.engine.process import set_up_worker

    set_up_worker(threads)
    if hasattr(os, "nice"):
        os.nice(10)  # on a machine that it shares with training workers these go first
    return function(*arguments)
