"""Who does not know a secret is refused, with an error that says which; and no secret is anywhere it should not be.

On the rehearsal cluster (`cluster/lab`, root), with its tokens, keys and passwords on. A short training is submitted
with all of them known; then everything that it left behind is read: logs of Ray, S3 and MLflow, MLflow's database,
every object in the bucket (checkpoints, bundles, artifacts), and S3's own files.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from raygseg.benchmarks.support.rehearsal import Rehearsal, rehearsal
from raygseg.errors import TrainingError

SHORT_TRAINING = (
    "train", "configs/toy/gan.yaml", "name=locks", "schedule.total_kimg=0.064", "runtime.checkpoint_kimg=0.032",
    "runtime.tick_kimg=0.032",
)  # fmt: skip
PIECE = 1 << 22  # bytes read at a time
TAKEN = "-u"  # of `env`: a variable that the desk has, taken away


def run(folder: str = "/var/tmp/raygseg-locks", job: bool = True) -> dict[str, Any]:
    """Try every lock, then search. `ratio`: refusals with our words / all.

    Args:
        folder: of the lab; one that is up there is used and left.
        job: whether the training runs and all is searched; else the locks are tried only.
    """
    with rehearsal(folder, 1) as lab:
        place = f"s3://lab/drills/locks-{int(time.time())}"
        search = searched_after(lab, place) if job else {}
        refusals = {name: refused(lab, *words) for name, words in attempts(lab, place).items()}
        told = sum(row["told"] for row in refusals.values())
        return {"ratio": round(told / len(refusals), 3), "refusals": refusals, **search}


def searched_after(lab: Rehearsal, place: str) -> dict[str, Any]:
    """Run the training; where secrets were found, and how much was read."""
    job = lab.at_desk("raygseg", "submit", *SHORT_TRAINING, f"runtime.output={place}")
    if job.end() != 0:
        raise TrainingError("the training with all secrets known failed", job.last(8))
    bucket = lab.asked("search", "s3://lab", str(lab.folder / "secrets"))
    log = "\n".join(text for _, text in job.lines)
    found = [*leaks(lab), *bucket.pop("found"), *(f"the job's log: {name}" for name in spoken(lab, log))]
    return {"leaks": found, "searched": {**searched(lab), "bucket": bucket}}


def attempts(lab: Rehearsal, place: str) -> dict[str, tuple[tuple[str, ...], str]]:
    """A command at the desk that lacks one secret, and what its refusal must say (a regular expression)."""
    head = lab.address("head")
    no_token = ("env", TAKEN, "RAY_AUTH_TOKEN_PATH", f"HOME={lab.folder}/nobody")
    raygseg = ("raygseg", "train", "configs/toy/gan.yaml", "schedule.total_kimg=0.016")
    return {
        "submitter without the token": (
            (*no_token, "raygseg", "submit", *SHORT_TRAINING, f"runtime.output={place}-2"), "token"),
        "driver without the token": (
            (*no_token, f"RAY_ADDRESS={head}:6379", *raygseg, f"runtime.output={place}-3"), "RAY_AUTH_TOKEN_PATH"),
        "worker without the token": (
            (*no_token, "ray", "start", f"--address={head}:6379", "--num-cpus=1", "--block"), "(?i)token"),
        "S3 with a wrong key": (
            ("env", "AWS_SECRET_ACCESS_KEY=wrong", "raygseg", "inspect", f"{place}/bundle"), "AWS_SECRET_ACCESS_KEY"),
        "MLflow without a password": (
            ("env", TAKEN, "MLFLOW_TRACKING_PASSWORD", TAKEN, "MLFLOW_TRACKING_USERNAME", "raygseg", "pull",
             "models:/locks/1", "--output", f"{lab.folder}/pulled"), "MLFLOW_TRACKING_PASSWORD"),
    }  # fmt: skip


def refused(lab: Rehearsal, words: tuple[str, ...], wanted: str) -> dict[str, Any]:
    """How it ended, whether it says what is wrong, and its last words."""
    try:
        done = subprocess.run(lab.line("exec", "--", *words), capture_output=True, text=True, timeout=180, check=False)
        code, said = done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired:
        code, said = 0, "it was not refused"
    lines = [line for line in said.splitlines() if line.strip()]
    return {
        "code": code,
        "told": code != 0 and re.search(wanted, said) is not None,
        "said": next((line.strip() for line in lines if re.search(wanted, line)), lines[-1] if lines else "")[:300],
    }


def secrets_of(lab: Rehearsal) -> Mapping[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((lab.folder / "secrets").iterdir())}


def spoken(lab: Rehearsal, text: str) -> list[str]:
    return [name for name, secret in secrets_of(lab).items() if secret.decode() in text]


def files_of(lab: Rehearsal) -> Iterator[Path]:
    """All that the lab's hosts wrote; S3's files hold the objects and its logs."""
    yield from (file for file in sorted((lab.folder / "hosts").rglob("*")) if file.is_file() and not file.is_symlink())


def leaks(lab: Rehearsal) -> list[str]:
    """`FILE: SECRET` for every file that holds one."""
    known = secrets_of(lab)
    return [f"{file.relative_to(lab.folder)}: {name}" for file in files_of(lab) for name in held(file, known)]


def held(file: Path, known: Mapping[str, bytes]) -> list[str]:
    """Names of the secrets in a file, read in pieces that overlap."""
    found: set[str] = set()
    reach = max(len(secret) for secret in known.values())
    before = b""
    try:
        with file.open("rb") as opened:
            while piece := opened.read(PIECE):
                found |= {name for name, secret in known.items() if secret in before + piece}
                before = piece[-reach:]
    except OSError:  # a socket's file, or gone
        return []
    return sorted(found)


def searched(lab: Rehearsal) -> dict[str, Any]:
    """How much was read, so that an empty search cannot pass for a clean one."""
    sizes = [file.stat().st_size for file in files_of(lab)]
    return {"files": len(sizes), "mib": round(sum(sizes) / 2**20, 1), "secrets": len(secrets_of(lab))}
