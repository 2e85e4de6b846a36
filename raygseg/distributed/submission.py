"""A job on a cluster from outside: submit it, follow its log, stop it, and know its own exit code.

`ray job submit` returns 1 for every failure and, interrupted, leaves the job running; here the code is the
job's and Ctrl-C is passed on.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ray.dashboard.modules.job.common import JobStatus
from ray.job_submission import JobSubmissionClient

from raygseg.errors import ConfigError, MissingEnvironmentError, RaygsegError

INTERRUPTED = 130
STARTING_SECONDS = 60.0  # for so long a head may answer that its agent is not up yet (HTTP 500), or hang up
OUTAGE_SECONDS = 60.0  # for so long the head may not answer before following is given up
TOKEN_HINT = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN) to the cluster's token"


@dataclass(frozen=True)
class Outcome:
    """How a job ended: Ray's status (SUCCEEDED, FAILED, STOPPED), the code to leave with, Ray's message."""

    status: str
    exit_code: int
    message: str


def api_address(given: str = "") -> str:
    """The address of the cluster's dashboard: the argument, RAY_API_SERVER_ADDRESS, or RAY_ADDRESS.

    Raises ConfigError where there is none, or it is not http(s).
    """
    names = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
    address = given or next((value for name in names if (value := os.environ.get(name))), "")
    if not address:
        hint = "give --address http://HEAD:8265, or set RAY_API_SERVER_ADDRESS"
        raise ConfigError("no cluster to submit to", hint)
    if not address.startswith(("http://", "https://")):
        host = address.removeprefix("ray://").partition(":")[0] or "HEAD"
        raise ConfigError(f"'{address}' is not where jobs are submitted", f"give --address http://{host}:8265")
    return address.rstrip("/")


class Submitted:
    """One job of one cluster."""

    def __init__(self, client: Any, address: str, job: str) -> None:
        self._client, self.address, self.job = client, address, job

    @classmethod
    def submit(cls, address: str, job: str, entrypoint: str, runtime_env: Mapping[str, Any]) -> Submitted:
        """Upload the files and start the job; a cluster that has only just started is waited for.

        Raises:
            MissingEnvironmentError: nothing answers there, or it refuses our token.
            ConfigError: a job of that name exists.
        """
        try:
            client = JobSubmissionClient(address)
        except Exception as error:
            raise explained(error, address) from error
        until, repeated = time.monotonic() + STARTING_SECONDS, False
        while True:
            try:
                client.submit_job(entrypoint=entrypoint, submission_id=job, runtime_env=dict(runtime_env))
                return cls(client, address, job)
            except Exception as error:
                if repeated and "already exists" in str(error):  # the answer to our first try was lost
                    return cls(client, address, job)
                passing = isinstance(error, OSError) or "status code 50" in str(error)
                if not passing or time.monotonic() > until:
                    raise explained(error, address) from error
                repeated = True
                time.sleep(1.0)

    def follow(self, write: Callable[[str], None], stop: Callable[[], bool], on_stop: Callable[[], None]) -> Outcome:
        """Write the job's log as it comes, until the job has ended.

        Args:
            write: gets pieces of text.
            stop: asked several times a second; once True, the job is told to stop, and followed to its end.
            on_stop: called when it was told.

        Raises MissingEnvironmentError where the head is gone for longer than a minute; the job may go on.
        """
        log, asked, answered = _Tail(self._client, self.job), False, time.monotonic()
        while True:
            write(log.read(0.25))
            if stop() and not asked and self._stop():
                asked = True
                on_stop()
            if not log.ended:
                continue
            try:
                outcome = self.outcome()
                answered = time.monotonic()
            except (OSError, RuntimeError) as error:
                if time.monotonic() - answered > OUTAGE_SECONDS:
                    raise lost(self.address, self.job) from error
                outcome = None
            if outcome is not None:
                return outcome
            time.sleep(0.5)
            log.again()

    def _stop(self) -> bool:
        """Tell the job to stop; False where the head did not hear it, and is to be told again."""
        try:
            self._client.stop_job(self.job)
        except (OSError, RuntimeError):
            return False
        return True

    def outcome(self) -> Outcome | None:
        """None while the job runs."""
        info = self._client.get_job_info(self.job)
        if not info.status.is_terminal():
            return None
        return Outcome(info.status.value, exit_code(info.status, info.driver_exit_code), info.message or "")


def exit_code(status: JobStatus, driver: int | None) -> int:
    """The code to leave with: the job's own; 130 where it was stopped; 128 + n where signal n killed it."""
    if status == JobStatus.STOPPED:
        return INTERRUPTED
    if driver is None:
        return 0 if status == JobStatus.SUCCEEDED else 1
    return 128 - driver if driver < 0 else driver


def explained(error: Exception, address: str) -> RaygsegError:
    """Ray's error as ours."""
    text, name = str(error), type(error).__name__
    if name == "AuthenticationError":
        wrong = "403" in text or "invalid" in text.lower()
        known = "does not know our token" if wrong else "wants a token, and there is none here"
        return MissingEnvironmentError(f"{address}: the cluster {known}", TOKEN_HINT)
    if isinstance(error, OSError) or ("Failed to connect" in text and "status code" not in text):
        hint = "start the cluster, correct --address, or open the way to it (kubectl port-forward, ray dashboard)"
        return MissingEnvironmentError(f"{address}: nothing answers there", hint)
    if "already exists" in text:
        return ConfigError(f"{address}: a job of this name exists", "choose another --job name")
    line = next((line for line in reversed(text.splitlines()) if any(map(str.isalpha, line))), name).strip()
    return MissingEnvironmentError(f"{address}: the job was not taken: {line}", "mend that, then submit again")


def lost(address: str, job: str) -> MissingEnvironmentError:
    return MissingEnvironmentError(
        f"{address}: has not answered for {OUTAGE_SECONDS:.0f} s; the job {job} may go on without us",
        f"when it is back: ray job logs --follow --address {address} {job}",
    )


class _Tail:
    """The job's log, read by a thread of its own; after a lost connection it goes on where it was."""

    def __init__(self, client: Any, job: str) -> None:
        self._client, self._job = client, job
        self._pieces: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._written = 0
        self._thread = threading.Thread()
        self.again()

    def again(self) -> None:
        """Read from the start, without what was written already."""
        self._thread = threading.Thread(target=self._run, args=(self._written,), name="job-log", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive() and self._pieces.empty()

    def read(self, seconds: float) -> str:
        """What has come; waits for at most so long."""
        if not self._thread.is_alive() and self._pieces.empty():
            return ""
        try:
            text = self._pieces.get(timeout=seconds)
        except queue.Empty:
            return ""
        self._written += len(text)
        return text

    def _run(self, known: int) -> None:
        try:
            asyncio.run(self._tail(known))
        except Exception:  # noqa: BLE001 - the caller asks for the job's state and connects again
            return

    async def _tail(self, known: int) -> None:
        async for text in self._client.tail_job_logs(self._job):
            fresh = text[known:]
            known = max(0, known - len(text))
            if fresh:
                self._pieces.put(fresh)
