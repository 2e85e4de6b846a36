"""`raygseg submit` on a real cluster that demands a token: refusals, exit codes, a stop that saves."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = "import sys; from raygseg.cli.app import main; sys.exit(main(sys.argv[1:]))"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def head() -> Iterator[tuple[str, dict[str, str]]]:
    """The dashboard's address of a cluster with tokens on, and the environment of one who may use it."""
    folder = Path(tempfile.mkdtemp(prefix="rgs-", dir="/tmp"))
    (folder / "token").write_text(secrets.token_hex(32))
    bare = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_TRACKING"))}
    path = f"{Path(sys.executable).parent}:{bare['PATH']}"
    known = {**bare, "PATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    known |= {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": ""}
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    # Given, the node does not wait for its agents to choose theirs: 15 s at most, too few on a busy machine.
    names = (
        "dashboard-agent-listen-port",
        "dashboard-agent-grpc-port",
        "metrics-export-port",
        "runtime-env-agent-port",
    )
    agents = {name: free_port() for name in names}
    command = [
        "ray", "start", "--head", "--block", "--num-cpus=4", f"--port={free_port()}", f"--dashboard-port={port}",
        f"--ray-client-server-port={free_port()}", "--object-store-memory=100000000", f"--temp-dir={folder}/r",
        "--node-ip-address=127.0.0.1", "--disable-usage-stats", *(f"--{name}={own}" for name, own in agents.items()),
    ]  # fmt: skip
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, env=known, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    try:
        wait_for(f"{address}/api/gcs_healthz", process, folder / "log")
        # Jobs are started by the node's agent, which is up last.
        wait_for(f"http://127.0.0.1:{agents['dashboard-agent-listen-port']}/api/healthz", process, folder / "log")
        yield address, known
    finally:
        process.terminate()  # --block: it ends its own processes, and no other cluster's
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 90
    while True:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except urllib.error.HTTPError:  # it refuses us, who give no token: it is up
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"no cluster: {log.read_text()[-2000:]}")
            time.sleep(0.3)


def submit(words: list[str], environment: dict[str, str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CODE, "submit", *words], env={**environment, "PYTHONPATH": str(ROOT)}, cwd=folder,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_refused_without_the_token_ends_as_the_job_ends_and_saves_when_stopped(
    head: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    address, known = head
    stranger = {**known, "RAY_AUTH_TOKEN_PATH": str(tmp_path / "other")}
    (tmp_path / "other").write_text(secrets.token_hex(32))
    run = tmp_path / "run"
    gan = [
        "train", "kind=gan", "name=stopped", "data.source=toy://default?count=64", "data.resolution=16",
        "schedule.total_kimg=100", "schedule.batch_size=8", "generator.capacity=0.02", "loss.path_weight=0",
        "runtime.in_process=true", "runtime.tick_kimg=0.1", "runtime.checkpoint_kimg=90",
        f"runtime.output={run}", f"runtime.tracking_uri=sqlite:///{tmp_path}/mlflow.db",
    ]  # fmt: skip
    # All at once: most of each is waiting.
    long = submit([*gan, "--address", address], known, tmp_path)
    wrong = submit(["benchmark", "no-such-benchmark", "--address", address], known, tmp_path)
    refused = submit(["benchmark", "list", "--address", address], stranger, tmp_path)

    assert "does not know our token" in refused.communicate(timeout=120)[1]
    assert refused.returncode == 3

    log, remarks = wrong.communicate(timeout=120)
    assert "there is no benchmark 'no-such-benchmark'" in log, remarks
    assert wrong.returncode == 2, remarks  # the job's own code, where `ray job submit` says 1

    assert long.stdout is not None and long.stderr is not None
    assert any(line.startswith("train: ") and "loss" in line for line in long.stdout), "it ended before it trained"
    long.send_signal(signal.SIGINT)
    rest, remarks = long.communicate(timeout=120)
    assert long.returncode == 130, rest + remarks
    assert "stopping: the job finishes its step and saves" in remarks
    assert list(run.glob("checkpoint-*")), rest
