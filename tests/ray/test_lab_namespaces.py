"""The lab with hosts of their own: a job on it, its locks, a plug that is pulled. Needs root and namespaces."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.lab import fabric
from raygseg import benchmarks
from raygseg.benchmarks.support.rehearsal import PROGRAM, Rehearsal, wait_until

_REASON = fabric.reason_against() or ("" if shutil.which("weed", path=Path(sys.executable).parent) else "no SeaweedFS")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(_REASON), reason=f"NO NAMESPACE SUITE: {_REASON}"),
]


@pytest.fixture(scope="module")
def lab() -> Iterator[Rehearsal]:
    """A head, one worker host, S3, MLflow."""
    folder = Path(tempfile.mkdtemp(prefix="rgs-", dir="/var/tmp"), "lab")
    made = Rehearsal(folder, 1)
    try:
        made("up", "--hosts", "1")
        yield made
    finally:
        made("down", check=False)
        shutil.rmtree(folder.parent, ignore_errors=True)


def test_who_lacks_a_secret_is_refused(lab: Rehearsal) -> None:
    found = benchmarks.run("lab-locks", folder=str(lab.folder), job=False)
    assert len(found["refusals"]) == 5 and found["ratio"] == 1, found["refusals"]


@pytest.mark.skipif(os.environ.get("RAYGSEG_DRILLS") != "1", reason="takes two minutes: RAYGSEG_DRILLS=1 runs it")
def test_no_secret_is_left_lying_about(lab: Rehearsal) -> None:
    found = benchmarks.run("lab-locks", folder=str(lab.folder))
    assert found["leaks"] == []
    read = found["searched"]
    assert read["secrets"] >= 3 and read["files"] > 20 and read["bucket"]["objects"] > 5, (
        "there was something to search"
    )


def test_a_host_that_is_cut_off_does_not_answer_until_it_is_healed(lab: Rehearsal) -> None:
    lab("cut", "h1")
    assert "cut off" in line_of(lab, "h1")
    lab.heal("h1")
    assert line_of(lab, "h1").split()[2:] == ["answers"]
    lab("kill", "s3")
    wait_until(lambda: "dead" in line_of(lab, "s3"), "S3 is gone", 1.0)
    lab.heal("s3")


def test_a_second_lab_is_refused_and_named(lab: Rehearsal, tmp_path: Path) -> None:
    other = [sys.executable, str(PROGRAM), "--folder", str(tmp_path / "other"), "up"]
    done = subprocess.run(other, capture_output=True, text=True, check=False)
    assert done.returncode == 3 and f"a lab is up in {lab.folder}" in done.stderr


def line_of(lab: Rehearsal, host: str) -> str:
    said = lab("status", check=False).stdout
    return next(line for line in said.splitlines() if line.split()[0] == host)
