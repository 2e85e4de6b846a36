"""One MLflow run a training run: found again on resume, never a reason for training to stop.

Points go to a local journal at once and from there to MLflow on a thread of their own, in batches.
A store that does not answer is tried again with growing pauses and warned about once an outage; what it
missed is sent when it answers, at the end, or by the next resume.

`step` in MLflow is `nimg`, images seen: exact at any tick length (whole kimg would let ticks collide).
A resumed run repeats the steps since its last checkpoint with the same values, so a step that is
already there is not logged again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from raygseg.errors import RaygsegError
from raygseg.tracking.identity import RunSettings
from raygseg.tracking.journal import Entry, Journal
from raygseg.tracking.parameters import safe_key
from raygseg.tracking.remote_run import RemoteRun
from raygseg.tracking.store import connect

if TYPE_CHECKING:
    from mlflow import MlflowClient

Status = Literal["FINISHED", "FAILED", "KILLED"]

_log = logging.getLogger("raygseg.tracking")
_ENTRIES_A_BATCH = 100
_PAUSES = (1.0, 2.0, 5.0, 15.0, 60.0)


class TrackedRun:
    """A run being recorded. Methods are thread-safe and raise nothing of MLflow's."""

    def __init__(self, settings: RunSettings, client_of: Callable[[str], MlflowClient] = connect) -> None:
        self.settings = settings
        self.journal = Journal(settings.journal_folder)
        self._client_of = client_of
        self._remote: RemoteRun | None = None
        self._last: dict[str, int] = {}
        self._position = 0
        self._closing = False
        self._stale = False
        self._failures = 0
        self._warned = False
        self._state = threading.Condition()
        for entry in self.journal.since(0):
            self._remember(entry)
        self._thread = threading.Thread(target=self._work, name="raygseg-tracking", daemon=True)
        self._thread.start()

    @classmethod
    def find_or_create(
        cls,
        tracking_uri: str,
        experiment: str,
        name: str,
        fingerprint: str,
        config: Mapping[str, Any],
        tags: Mapping[str, str] | None = None,
        *,
        run_dir: str = "",
        data: Mapping[str, tuple[str, str]] | None = None,
        patience: float = 20.0,
    ) -> Self:
        """The run of the same name, fingerprint and run_dir, reopened (RUNNING); else a new one.

        Waits at most `patience` seconds for the store, then goes on without it. Raises ConfigError for
        a `tracking_uri` that MLflow cannot use at all.
        """
        settings = RunSettings(
            name, fingerprint, tracking_uri, experiment, run_dir, config, dict(tags or {}), dict(data or {})
        )
        return cls.open(settings, patience)

    @classmethod
    def open(cls, settings: RunSettings, patience: float = 20.0) -> Self:
        """As `find_or_create`, from settings."""
        run = cls(settings)
        run._wait(patience, lambda: run._remote is not None or run._failures > 0)
        return run

    @property
    def run_id(self) -> str:
        """MLflow's id; empty as long as the store has not answered."""
        return self._remote.run_id if self._remote else ""

    def log_metrics(self, nimg: int, metrics: Mapping[str, float]) -> None:
        """Metrics at `nimg` images seen; those at or before a step already recorded are left out."""
        with self._state:
            fresh = {
                key: float(value)
                for key, value in ((safe_key(k), v) for k, v in metrics.items())
                if nimg > self._last.get(key, -1)
            }
            if fresh:
                self._record(Entry(nimg, _now_ms(), fresh))

    def log_picture(self, nimg: int, name: str, picture: NDArray[np.uint8]) -> None:
        """An [H, W, 3] uint8 picture (a sample grid) at `nimg` images seen."""
        assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3, picture.shape
        key = safe_key(name)
        with self._state:
            if nimg <= self._last.get(_picture_key(key), -1):
                return
            file = self.journal.keep_picture(nimg, key, picture)
            if file:
                self._record(Entry(nimg, _now_ms(), picture=key, file=file))

    def log_data(self, data: Mapping[str, tuple[str, str]]) -> None:
        """{role: (source, fingerprint)} of data that the run sees, known only once it was opened."""
        with self._state:
            if all(self.settings.data.get(role) == known for role, known in data.items()):
                return
            self.settings = replace(self.settings, data={**self.settings.data, **data})
            connected = self._remote is not None
        if connected:  # otherwise it goes along when the store answers
            self._now("describing the data", lambda remote: remote.describe_data(data))

    def log_file(self, path: str | Path, folder: str = "") -> bool:
        """Attach a file now; False, with a warning, if the store refused."""
        return self._now(f"attaching {path}", lambda r: r.client.log_artifact(r.run_id, str(path), folder or None))

    def set_tags(self, tags: Mapping[str, str]) -> bool:
        """Set tags now; False, with a warning, if the store refused."""
        return self._now("setting tags", lambda remote: remote.set_tags(tags))

    def flush(self, timeout: float = 30.0) -> bool:
        """Wait until everything recorded so far is in MLflow; False if that took longer than `timeout` s."""
        return self._wait(timeout, self._all_sent)

    def finish(self, status: Status = "FINISHED", timeout: float = 30.0) -> bool:
        """Send what is left, including what other processes of this run journalled; set the final status.

        False, with a warning, if the store does not answer: the journal keeps the points for a resume.
        """
        with self._state:
            self.journal.reload()
            self._position, self._stale = 0, True
            self._failures = 0  # no pause: this is the last chance in this process
            self._state.notify_all()
        self._wait(timeout, lambda: self._all_sent() or self._failures > 1)
        complete = self._all_sent()
        complete &= self._now("closing the run", lambda r: r.client.set_terminated(r.run_id, status))
        if not complete:
            _log.warning("not everything reached MLflow; %s is sent when the run is resumed", self.journal.path)
        self.close()
        return complete

    def close(self) -> None:
        """Stop the sending thread without a final status; the run stays RUNNING in MLflow."""
        with self._state:
            self._closing = True
            self._state.notify_all()
        self._thread.join(timeout=5.0)

    def _wait(self, timeout: float, until: Callable[[], bool]) -> bool:
        with self._state:
            return self._state.wait_for(until, timeout)

    def _all_sent(self) -> bool:
        return self._remote is not None and not self._stale and self._position >= len(self.journal)

    def _record(self, entry: Entry) -> None:
        self._remember(entry)
        self.journal.append(entry)
        self._state.notify_all()

    def _remember(self, entry: Entry) -> None:
        for key in [_picture_key(entry.picture)] if entry.picture else entry.metrics:
            self._last[key] = max(entry.nimg, self._last.get(key, -1))

    def _now(self, doing: str, action: Callable[[RemoteRun], object]) -> bool:
        """Do something in the caller's thread; a store's trouble becomes a warning and False."""
        if self._remote is None:
            _log.warning("MLflow at %s: %s failed (it has not answered yet)", self.settings.tracking_uri, doing)
            return False
        try:
            action(self._remote)
        except Exception as error:  # noqa: BLE001  (whatever a store raises must not end a training run)
            _log.warning("MLflow at %s: %s failed (%s)", self.settings.tracking_uri, doing, _in_short(error))
            return False
        return True

    # --- the sending thread ----------------------------------------------------------------------

    def _work(self) -> None:
        while not self._closing:
            try:
                self._send()
            except Exception as error:  # noqa: BLE001  (the barrier between a store's troubles and training)
                self._failed(error)
            else:
                self._succeeded()

    def _send(self) -> None:
        if self._remote is None:
            self._connect()
        assert self._remote is not None
        if self._stale:
            self._remote.refresh()
            self._stale = False
        while not self._closing and (entries := self.journal.since(self._position)[:_ENTRIES_A_BATCH]):
            start = self._position
            self._remote.send(entries, self.journal.folder)
            with self._state:
                # `finish` may have rewound the position meanwhile; then everything is looked at again.
                if self._position == start:
                    self._position = start + len(entries)
                self._state.notify_all()

    def _connect(self) -> None:
        settings = self.settings
        remote = RemoteRun(self._client_of(settings.tracking_uri), settings)
        with self._state:
            self._remote = remote
            late = {} if self.settings is settings else self.settings.data
            for key, step in remote.last.items():
                self._last[key] = max(step, self._last.get(key, -1))
            self._state.notify_all()
        remote.describe_data(late)

    def _succeeded(self) -> None:
        with self._state:
            if self._warned:
                _log.warning("MLflow at %s answers again", self.settings.tracking_uri)
            self._failures, self._warned = 0, False
            self._state.notify_all()
            self._state.wait_for(lambda: self._closing or not self._all_sent())

    def _failed(self, error: Exception) -> None:
        with self._state:
            self._failures += 1
            if not self._warned:
                self._warned = True
                _log.warning(
                    "MLflow at %s does not take points (%s); training goes on, %s keeps them and they are sent later",
                    self.settings.tracking_uri,
                    _in_short(error),
                    self.journal.path,
                )
            self._state.notify_all()
            pause = _PAUSES[min(self._failures, len(_PAUSES)) - 1]
            self._state.wait_for(lambda: self._closing or self._failures == 0, pause)


def _in_short(error: Exception) -> str:
    text = error.message if isinstance(error, RaygsegError) else (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {text[:300]}"


def _now_ms() -> int:
    return int(time.time() * 1000)


def _picture_key(name: str) -> str:
    return f"\0picture/{name}"
