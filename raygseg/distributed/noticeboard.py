"""A small actor between driver and workers: ticks and pictures up, the wish to stop down.

MLflow, terminals and signals live on the driver; workers only post here. The board outlives workers
that are killed and started again, and ends with the driver.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raygseg.errors import RaygsegError


class Tick(NamedTuple):
    """Statistics since the last tick."""

    step: int
    nimg: int
    metrics: Mapping[str, float]


class Images(NamedTuple):
    """A sample grid, [H, W, 3] uint8."""

    nimg: int
    name: str
    picture: NDArray[np.uint8]


class Warned(NamedTuple):
    """A warning that a worker logged."""

    text: str


class Written(NamedTuple):
    """A checkpoint is whole, at this place."""

    nimg: int
    uri: str


class Lost(NamedTuple):
    """Workers ended before their time: why, by rank."""

    reasons: Mapping[int, str]

    @property
    def told(self) -> str:
        return "; ".join(f"worker {rank}: {reason}" for rank, reason in sorted(self.reasons.items()))


class Placed(NamedTuple):
    """There is room for the workers, and they begin to load."""

    workers: int


class Started(NamedTuple):
    """Workers began, at this position; again after every restart. pids by rank; facts as in `Training`."""

    nimg: int
    pids: tuple[int, ...]
    facts: Mapping[str, Any]


class Stepped(NamedTuple):
    """The first step after `Started` is done."""

    nimg: int


class Recovered(NamedTuple):
    """A run steps again after workers were lost, or with another number of them; the driver's own notice.

    workers, before: how many now and before. Seconds: seen from the first word of the loss (0: none was lost)
    until they had room again, from then until all was loaded, and from then until a step was done.
    """

    nimg: int
    workers: int
    before: int
    room_s: float
    loading_s: float
    step_s: float

    @property
    def told(self) -> str:
        who = f"{self.workers} worker{'s' if self.workers > 1 else ''}"
        who += f" instead of {self.before}" if self.workers != self.before else ""
        room = f"{self.room_s:.1f} s until there was room, " if self.room_s else ""
        return (
            f"going on at {self.nimg / 1000:g} kimg with {who} "
            f"({room}{self.loading_s:.1f} s to load, {self.step_s:.1f} s to the first step)"
        )


class Failed(NamedTuple):
    """An error that starting again would not cure."""

    error: RaygsegError


class Finished(NamedTuple):
    """The loop ended; complete is False if it was stopped."""

    nimg: int
    complete: bool
    metrics: Mapping[str, float]


Notice = Tick | Images | Warned | Written | Lost | Placed | Started | Stepped | Recovered | Failed | Finished


class Noticeboard:
    """Notices in the order they came, and one flag. Lives in an actor: see `open_board`."""

    def __init__(self) -> None:
        self._notices: list[Notice] = []
        self._stop = False
        self._failed = False

    def post(self, notice: Notice) -> None:
        self._failed = self._failed or isinstance(notice, Failed)
        self._notices.append(notice)

    def take(self) -> list[Notice]:
        """Everything posted since the last call."""
        notices, self._notices = self._notices, []
        return notices

    def ask_stop(self) -> None:
        self._stop = True

    def stop_asked(self) -> bool:
        return self._stop

    def has_failed(self) -> bool:
        return self._failed


def open_board() -> Any:
    """A handle on a new board; it takes no CPU and ends with this process.

    It lies on this process's host: on a worker's, the loss of that host would end the whole run.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(Noticeboard).remote()


class StopFlag:
    """Asks the board in the background, so that a training step never waits for the answer."""

    def __init__(self, board: Any, seconds: float = 0.5) -> None:
        self._board, self._seconds = board, seconds
        self._asked, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._poll, name="stop-flag", daemon=True)
        self._thread.start()

    def __call__(self) -> bool:
        return self._asked.is_set()

    def close(self) -> None:
        self._ended.set()

    def _poll(self) -> None:
        while not self._ended.wait(self._seconds):
            try:
                if ray.get(self._board.stop_asked.remote()):
                    self._asked.set()
                    return
            except RayError:  # the driver is gone, and this process goes with it
                return


class PostWarnings(logging.Handler):
    """Sends what raygseg warns about in a worker to the driver's terminal."""

    def __init__(self, board: Any) -> None:
        super().__init__(logging.WARNING)
        self._board = board

    def emit(self, record: logging.LogRecord) -> None:
        self._board.post.remote(Warned(record.getMessage()))
