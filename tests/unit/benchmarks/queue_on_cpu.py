"""The GPU queue at a tiny size on a CPU: words of its verbs, a lease, what is not there."""

from __future__ import annotations

import time
from pathlib import Path

from raygseg.benchmarks.gpu_queue.lease import Lease

ABSENT = ("ray", "mlflow", "pyarrow", "s3fs", "fsspec", "botocore", "kornia", "typer", "click", "rich")


def words(root: Path, verb: str, *rest: str, call: str = "1") -> list[str]:
    places = ["--travels", str(root / "travels"), "--keep", str(root / "keep"), "--scale", "tiny"]
    if verb == "run":
        places += ["--minutes", "5", "--output", str(root / f"out-{call}"), "--device", "cpu"]
        places += ["--work", str(root / f"work-{call}")]
    return [verb, *rest, *places]


def lease(root: Path, seconds: float = 60.0) -> Lease:
    return Lease(root / "travels", root / "work", root / "out", "cpu", "tiny", time.monotonic() + seconds)
