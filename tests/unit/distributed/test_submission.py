"""Following a job: pieces of log once each, a stop passed on once, the job's own exit code, an outage survived."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest
from ray.dashboard.modules.job.common import JobStatus

from raygseg.distributed import submission
from raygseg.distributed.submission import Submitted, api_address, exit_code, explained
from raygseg.errors import ConfigError, MissingEnvironmentError


class Cluster:
    """A job client whose log comes in `attempts`: pieces, and whether the connection is then lost."""

    def __init__(self, attempts: list[list[str]], status: JobStatus, code: int | None, outages: int = 0) -> None:
        self.attempts, self.status, self.code, self.outages = attempts, status, code, outages
        self.stopped, self.deaf = 0, 0

    async def tail_job_logs(self, _: str) -> AsyncIterator[str]:
        for piece in self.attempts.pop(0):
            yield piece

    def get_job_info(self, _: str) -> SimpleNamespace:
        if self.outages:
            self.outages -= 1
            raise ConnectionError("gone")
        status = JobStatus.RUNNING if self.attempts else self.status
        return SimpleNamespace(status=status, driver_exit_code=self.code, message="it\nfailed")

    def stop_job(self, _: str) -> None:
        if self.deaf:
            self.deaf -= 1
            raise ConnectionError("gone")
        self.stopped += 1


def follow(cluster: Cluster, stop: bool = False) -> tuple[str, submission.Outcome, int]:
    written: list[str] = []
    told: list[int] = []
    job = Submitted(cluster, "http://head:8265", "job")
    outcome = job.follow(written.append, lambda: stop, lambda: told.append(1))
    return "".join(written), outcome, len(told)


@pytest.mark.parametrize("code", [0, 2, 3])
def test_the_exit_code_is_the_jobs_own(code: int) -> None:
    status = JobStatus.FAILED if code else JobStatus.SUCCEEDED
    log, outcome, _ = follow(Cluster([["one\n", "two\n"]], status, code))
    assert log == "one\ntwo\n"
    assert outcome.exit_code == code


def test_a_lost_connection_repeats_nothing() -> None:
    cluster = Cluster([["one\ntwo"], ["one\n", "twothree"], ["one\ntwothree", "\n"]], JobStatus.SUCCEEDED, 0, outages=1)
    log, outcome, _ = follow(cluster)
    assert log == "one\ntwothree\n"
    assert outcome.exit_code == 0


def test_a_stop_is_passed_on_once_and_followed_to_the_end() -> None:
    cluster = Cluster([["saving\n"], ["saving\n", "saved\n"]], JobStatus.STOPPED, None)
    cluster.deaf = 1
    log, outcome, told = follow(cluster, stop=True)
    assert (log, cluster.stopped, told) == ("saving\nsaved\n", 1, 1)
    assert (outcome.status, outcome.exit_code) == ("STOPPED", 130)


def test_a_head_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "OUTAGE_SECONDS", 0.2)
    with pytest.raises(MissingEnvironmentError, match="may go on without us"):
        follow(Cluster([[] for _ in range(9)], JobStatus.RUNNING, None, outages=99))


class Starting:
    """A head that hangs up or has no agent yet, `troubles` in turn, and takes the job after that."""

    troubles: list[Exception] = []

    def __init__(self, _: str) -> None:
        self.tries = 0

    def submit_job(self, **_: object) -> None:
        self.tries += 1
        if self.troubles:
            raise self.troubles.pop(0)


def test_a_cluster_that_has_just_started_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "JobSubmissionClient", Starting)
    monkeypatch.setattr(submission.time, "sleep", lambda _: None)
    Starting.troubles = [
        RuntimeError("Request failed with status code 500: No available agent."),
        ConnectionResetError("gone"),
        RuntimeError("Request failed with status code 400: job x already exists"),  # our own, from the lost answer
    ]
    assert Submitted.submit("http://h", "x", "true", {}).job == "x"
    Starting.troubles = [RuntimeError("Request failed with status code 400: job x already exists")]
    with pytest.raises(ConfigError, match="of this name"):
        Submitted.submit("http://h", "x", "true", {})
    monkeypatch.setattr(submission, "STARTING_SECONDS", -1.0)
    Starting.troubles = [ConnectionResetError("gone")]
    with pytest.raises(MissingEnvironmentError, match="nothing answers"):
        Submitted.submit("http://h", "x", "true", {})


def test_exit_codes_without_a_driver() -> None:
    assert exit_code(JobStatus.FAILED, None) == 1
    assert exit_code(JobStatus.SUCCEEDED, None) == 0
    assert exit_code(JobStatus.FAILED, -9) == 137
    assert exit_code(JobStatus.STOPPED, 1) == 130


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="no cluster"):
        api_address()
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ConfigError, match="not where jobs are submitted") as caught:
        api_address()
    assert "http://10.0.0.1:8265" in caught.value.hint
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://head:8265/")
    assert api_address() == "http://head:8265"
    assert api_address("https://other") == "https://other"


def test_refusals_are_told_apart() -> None:
    class AuthenticationError(Exception):
        pass

    wants = explained(AuthenticationError("HTTP 401 Unauthorized"), "http://h")
    knows = explained(AuthenticationError("HTTP 403 Forbidden: invalid token"), "http://h")
    assert "wants a token" in str(wants)
    assert "does not know our token" in str(knows)
    assert "RAY_AUTH_TOKEN_PATH" in knows.hint == wants.hint
    assert "nothing answers" in str(explained(ConnectionError("Failed to connect to Ray"), "http://h"))
    assert isinstance(explained(RuntimeError("job x already exists"), "http://h"), ConfigError)
    assert "the last line" in str(explained(RuntimeError("trace\nthe last line\n."), "http://h"))
