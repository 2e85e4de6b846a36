"""Rounds of training steps, each kind in a process of its own, so that both sides can be as they are used.

What a process is set up with (the allocator, above all) belongs to one side and must not reach the other.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Self

MakeRound = Callable[..., Callable[[], None]]


class Setting(NamedTuple):
    """How a process is set up: torch's threads, and whether as raygseg sets up its workers or as it comes."""

    threads: int
    tuned: bool


class RoundProcess:
    """Holds `make(*arguments)` in a fresh process; a call runs one round there and returns its seconds.

    Args:
        make: a function of a module, which returns the round; it is called and warmed up at once.
        arguments: plain values.

    Attributes:
        cpu_seconds: processor time of the last round, all threads together; what else runs meanwhile hardly counts.
    """

    cpu_seconds = 0.0

    def __init__(self, setting: Setting, make: MakeRound, *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, setting, make, arguments), daemon=True)
        self._process.start()
        there.close()
        self._here.recv()

    def __call__(self) -> float:
        self._here.send(True)
        seconds, self.cpu_seconds = self._here.recv()
        return float(seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.join()


def _serve(pipe: Connection, setting: Setting, make: MakeRound, arguments: tuple[Any, ...]) -> None:
    import torch

    from raygseg.engine.process import use_cpu

    if setting.tuned:
        use_cpu(setting.threads)
    else:
        torch.set_num_threads(setting.threads)
    work = make(*arguments)
    work()
    pipe.send(0.0)
    while pipe.recv():
        start, cpu = time.perf_counter(), time.process_time()
        work()
        pipe.send((time.perf_counter() - start, time.process_time() - cpu))
