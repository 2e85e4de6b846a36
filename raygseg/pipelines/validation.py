"""Checkpoints measured while their run goes on: FID and the like, and a grid of pictures, in tasks of their own.

One at a time; where training is faster, the newest checkpoint is measured next and the ones between are passed over.
What fails here is a warning: no run ends because it could not be measured.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raygseg.config.sections import AdversarialRun
from raygseg.engine.loop import crossed
from raygseg.errors import RaygsegError
from raygseg.pipelines.fidelity import Fidelity, fidelity

if TYPE_CHECKING:
    from raygseg.distributed.background import BackgroundCall

logger = logging.getLogger(__name__)
Tell = Callable[[int, Mapping[str, float], NDArray[np.uint8]], None]  # (nimg, figures, grid)
GRID_PICTURES = 36


class ValidationBeside:
    """What a run's driver calls.

    Args:
        config: of the run. folder: of the run, where fidelity.jsonl is.
        tell: given the figures and grid of each measured checkpoint, in the thread that calls `poll`.
    """

    def __init__(self, config: AdversarialRun, folder: str, tell: Tell) -> None:
        self.config, self.folder, self.tell = config, folder, tell
        self._last = 0
        self._waiting: tuple[int, str] | None = None
        self._running: tuple[int, BackgroundCall] | None = None
        self.passed_over = 0

    def begin(self, nimg: int) -> None:
        """The run begins or goes on here."""
        self._last = nimg

    def offer(self, nimg: int, checkpoint: str) -> None:
        """A checkpoint was written."""
        if crossed(self._last, nimg, self.config.validation.every_kimg):
            self.passed_over += self._waiting is not None
            self._waiting, self._last = (nimg, checkpoint), nimg
        self.poll()

    def poll(self) -> None:
        """Take up what is done, begin what waits; returns at once."""
        if self._running is not None and self._running[1].done():
            self._collect()
        if self._running is None and self._waiting is not None:
            self._start(*self._waiting)
            self._waiting = None

    def finish(self) -> None:
        """Wait for what is under way and measure the last checkpoint."""
        while self._running is not None or self._waiting is not None:
            if self._running is not None:
                self._collect()
            self.poll()

    def _start(self, nimg: int, checkpoint: str) -> None:
        from raygseg.distributed.background import BackgroundCall, spare_gpus

        validation, runtime = self.config.validation, self.config.runtime
        gpu = runtime.device != "cpu" and spare_gpus(runtime.workers)
        arguments = (validation.model_dump(), self.config.data.source, checkpoint, self.folder, gpu)
        self._running = nimg, BackgroundCall(measure, arguments, validation.threads, gpu)

    def _collect(self) -> None:
        assert self._running is not None
        nimg, call = self._running
        self._running = None
        try:
            record, picture = call.result()
        except RaygsegError as error:
            logger.warning("the checkpoint of %.1f kimg was not measured: %s", nimg / 1000, error)
            return
        found = Fidelity(**record)
        self.tell(nimg, found.figures(), picture)


def measure(
    validation: Mapping[str, Any], source: str, checkpoint: str, folder: str, gpu: bool
) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    """In a task: the record of `fidelity`, which it also appends to the run's, and a grid of pictures."""
    from raygseg.pipelines.kinds import load_generator
    from raygseg.pipelines.sheets import grid

    device = "cuda" if gpu else "cpu"
    (found,) = fidelity(
        checkpoint, validation["pictures"] or source, folder, count=validation["count"], network=validation["network"],
        weights=validation["weights"], limit=validation["limit"], precision=validation["precision"], device=device,
        here=True, keep_reals=True,
    )  # fmt: skip
    return asdict(found), grid(load_generator(checkpoint, device=device), range(GRID_PICTURES), 1.0)
