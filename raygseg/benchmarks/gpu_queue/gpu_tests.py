"""Item gpu-tests: tests/gpu, the part of the test suite that needs a CUDA device."""

from __future__ import annotations

import subprocess
import sys

from raygseg.benchmarks.gpu_queue.lease import Lease
from raygseg.benchmarks.support.peers import REPOSITORY

LIMIT_SECONDS = 240.0


def run(lease: Lease, item: str) -> bool:
    """Their outcome on record; True if they passed, so that failed ones run again the next time."""
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-q", "-p", "no:cacheprovider"]
    limit = max(10.0, min(LIMIT_SECONDS, lease.remaining()))
    try:
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        lease.record(item, "pytest", {"error": f"not over after {limit:.0f} s"})
        return False
    said = (done.stdout + done.stderr).strip()
    summary = said.splitlines()[-1] if said else ""
    trace = {} if done.returncode == 0 else {"said": said[-6000:]}
    lease.record(item, "pytest", {"passed": done.returncode == 0, "summary": summary, **trace})
    return done.returncode == 0
