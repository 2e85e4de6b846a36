"""What tests of runs in Ray workers look at: the notices of a run, and what it left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from raygseg.distributed.noticeboard import Notice, Started, Tick
from raygseg.engine import state_tree
from raygseg.engine.checkpoint import CheckpointFolder


def final_state(folder: Path, images: int) -> dict[str, Tensor]:
    """The tensors of a run's newest checkpoint, which is that of its end."""
    found = CheckpointFolder(str(folder)).latest()
    assert found is not None and found.facts["nimg"] == images
    return state_tree.split(found.state)[0]


class Listener:
    """Keeps notices; calls `at_tick` once, at the first tick past `nimg`."""

    def __init__(self, nimg: int, at_tick: Callable[[], None]) -> None:
        self.notices: list[Notice] = []
        self.nimg, self.at_tick, self.done = nimg, at_tick, False

    def __call__(self, notice: Notice) -> None:
        self.notices.append(notice)
        if isinstance(notice, Tick) and notice.nimg > self.nimg and not self.done:
            self.done = True
            self.at_tick()

    def starts(self) -> list[Started]:
        return [notice for notice in self.notices if isinstance(notice, Started)]
