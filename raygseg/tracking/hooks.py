"""What a training run tells the outside: ticks, sample grids and its end, told to MLflow.

Workers report to the driver or to Ray Train's controller, and those call the hook: a live MLflow client
never travels. A pickled hook carries its settings and the run's id and opens the run again where it lands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from raygseg.tracking.identity import RunSettings
from raygseg.tracking.runs import Status, TrackedRun


class TrainingHook(Protocol):
    """What pipelines call while training; `nimg` is the number of images seen."""

    def on_facts(self, facts: Mapping[str, Any]) -> None: ...

    def on_tick(self, nimg: int, metrics: Mapping[str, float]) -> None: ...

    def on_images(self, nimg: int, name: str, picture: NDArray[np.uint8]) -> None: ...

    def on_end(self, status: Status) -> None: ...


class TrackingHook:
    """A `TrainingHook` that records into one MLflow run; picklable at any time.

    Call `start` on the driver before workers begin, so that everybody finds the same run. Only the
    driver calls `on_end`; it also sends what another process journalled and could not send.
    """

    def __init__(self, settings: RunSettings) -> None:
        self.settings = settings
        self._run: TrackedRun | None = None

    def __getstate__(self) -> dict[str, Any]:
        run_id = self._run.run_id if self._run else self.settings.run_id
        return {"settings": replace(self.settings, run_id=run_id), "_run": None}

    @property
    def run(self) -> TrackedRun:
        """The run, opened at first use in this process."""
        if self._run is None:
            self._run = TrackedRun.open(self.settings)
        return self._run

    @property
    def run_id(self) -> str:
        """MLflow's id; empty as long as the store has not answered."""
        return self.run.run_id

    def start(self) -> str:
        """Find or create the run now; its id, or empty if the store does not answer."""
        return self.run_id

    def on_facts(self, facts: Mapping[str, Any]) -> None:
        """What the run found out about its data: `data` in facts is {role: {source, fingerprint, ...}}."""
        data = facts.get("data")
        known = {
            str(role): (str(entry.get("source", "")), str(entry.get("fingerprint", "")))
            for role, entry in (data.items() if isinstance(data, Mapping) else ())
            if isinstance(entry, Mapping)
        }
        if known:
            self.run.log_data(known)

    def on_tick(self, nimg: int, metrics: Mapping[str, float]) -> None:
        """Metrics at a tick; `kimg` is added, for curves over thousands of images."""
        self.run.log_metrics(nimg, {"kimg": nimg / 1000.0, **metrics})

    def on_images(self, nimg: int, name: str, picture: NDArray[np.uint8]) -> None:
        """An [H, W, 3] uint8 sample grid."""
        self.run.log_picture(nimg, name, picture)

    def on_end(self, status: Status = "FINISHED") -> None:
        """Send everything, set the final status and let go of the run."""
        self.run.finish(status)
        self._run = None

    def release(self) -> None:
        """Send what can be sent within seconds and let go without a final status (a controller's end)."""
        if self._run is not None:
            self._run.flush(5.0)
            self._run.close()
            self._run = None
