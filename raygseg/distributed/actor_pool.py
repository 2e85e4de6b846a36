"""How many actors work on something, and what each holds."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import ray

from raygseg.distributed import cluster
from raygseg.errors import MissingEnvironmentError

# Of a task's retries after a failure of the system: on a host that is gone they fail within milliseconds, until Ray
# knows that it is gone. What ends a task that crashes its actor is the limit on restarts.
ANY_NUMBER = -1


@dataclass(frozen=True)
class ActorPool:
    """Attributes:
    actors: how many; 0: as many as the cluster has room for.
    cpus, gpus: what Ray sets aside for each.
    threads: torch threads in each.
    max_failures: restarts of an actor; -1: any number.
    """

    actors: int = 0
    cpus: float = 1.0
    gpus: float = 0.0
    threads: int = 1
    max_failures: int = 3

    @classmethod
    def on(
        cls, device: Literal["auto", "cpu", "cuda"], actors: int = 0, threads: int = 1, max_failures: int = 3
    ) -> ActorPool:
        """Actors with `threads` CPUs, and a GPU each where `device` is cuda, or auto and the cluster has any."""
        cluster.connect()
        gpu = device == "cuda" or (device == "auto" and ray.cluster_resources().get("GPU", 0) >= 1)
        return cls(actors, float(threads), 1.0 if gpu else 0.0, threads, max_failures)

    @property
    def device(self) -> str:
        """cuda or cpu: where an actor's networks live."""
        return "cuda" if self.gpus > 0 else "cpu"

    def size(self, tasks: int) -> int:
        """Actors to start. Raises MissingEnvironmentError where the cluster can never hold one."""
        total = ray.cluster_resources()
        room = [total.get(name, 0.0) / need for name, need in (("CPU", self.cpus), ("GPU", self.gpus)) if need > 0]
        fits = int(min(room)) if room else 1
        if fits < 1:
            needs = cluster.resources_in_words({"CPU": self.cpus, "GPU": self.gpus})
            raise MissingEnvironmentError(
                f"an actor needs {needs}, the Ray cluster has {cluster.resources_in_words(total)}",
                "add a node, lower runtime.threads, or set runtime.device=cpu",
            )
        if self.actors == 0 and len(ray.nodes()) == 1 and self.gpus == 0:
            # A cluster on one machine may count more CPUs than there are; computing gains nothing from those.
            fits = min(fits, max(1, (os.cpu_count() or 1) // self.threads))
        return max(1, min(self.actors or fits, fits, tasks))
