"""What the driver of a training knows of its workers: who was lost, whether they have room, how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ray.train import UserCallback

from raygseg.distributed.noticeboard import Failed, Finished, Lost, Notice, Placed, Recovered, Started, Stepped
from raygseg.errors import RaygsegError


class Outcome:
    """Passes notices on, tells of recoveries, remembers how it ended and since when the workers have no room."""

    def __init__(self, listen: Callable[[Notice], None]) -> None:
        self._listen = listen
        self._waiting_since: float | None = time.monotonic()
        self._clock = _RecoveryClock()
        self.finished: Finished | None = None
        self.failed: RaygsegError | None = None

    def hear(self, notices: list[Notice]) -> None:
        for notice in notices:
            if isinstance(notice, Lost):
                self._waiting_since = time.monotonic()
            if isinstance(notice, Placed | Started):  # not a tick, which may have been on its way
                self._waiting_since = None
            if isinstance(notice, Finished):
                self.finished = notice
            if isinstance(notice, Failed):
                self.failed = notice.error
            self._listen(notice)
            recovered = self._clock.hear(notice)
            if recovered is not None:
                self._listen(recovered)

    def waits_for_room(self) -> float:
        """Seconds since workers were asked for or lost; 0 where they run, load or have ended for good."""
        if self._waiting_since is None or self.failed is not None:
            return 0.0
        return time.monotonic() - self._waiting_since


class _RecoveryClock:
    """Times of the last loss, placement and start, and how many workers stepped before."""

    def __init__(self) -> None:
        self._lost = self._placed = self._started = 0.0
        self._workers = self._before = 0

    def hear(self, notice: Notice) -> Recovered | None:
        """What there is to tell once a run steps again: after a loss, or with more or fewer workers."""
        now = time.monotonic()
        if isinstance(notice, Lost):
            self._lost = self._lost or now  # the first of several
        elif isinstance(notice, Placed):
            self._placed = now
        elif isinstance(notice, Started):
            self._started, self._workers = now, len(notice.pids)
        elif isinstance(notice, Stepped):
            before, lost = self._before, self._lost
            self._before, self._lost = self._workers, 0.0
            if before and (lost or before != self._workers):
                room = self._placed - lost if lost else 0.0
                loading = self._started - self._placed
                return Recovered(notice.nimg, self._workers, before, room, loading, now - self._started)
        return None


class TellLosses(UserCallback):
    """In Ray's controller: puts on the board which workers were lost."""

    def __init__(self, board: Any) -> None:
        self.board = board

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        reasons = {rank: reason_of(error) for rank, error in worker_exceptions.items()}
        self.board.post.remote(Lost(reasons))


def reason_of(error: BaseException) -> str:
    """The last line of what an error says."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
