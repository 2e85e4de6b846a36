"""The house itself: light floors, thin jobs, one bootstrap, pins that agree with the ranges."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
# gpu_queue.py is no verb of the command line: it also runs where little besides torch is installed.
JOBS = sorted(place for place in (ROOT / "jobs").glob("*.py") if place.stem != "gpu_queue")


def test_floor_0_needs_no_torch() -> None:
    code = (
        "import sys, raygseg, raygseg.interfaces, raygseg.labels, raygseg.seeding, raygseg.errors, raygseg.bundle\n"
        "import raygseg.config.loader, raygseg.config.reference\n"
        "print([m for m in ('torch', 'ray', 'mlflow', 'pyarrow', 'safetensors.torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_job_is_the_verb_and_runs_from_a_bare_checkout(job: Path, tmp_path: Path) -> None:
    source = job.read_text()
    assert len(source.splitlines()) < 15
    imports = {n.module for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ImportFrom)}
    assert imports <= {"pathlib", "raygseg.cli.app"}
    # -I would hide the checkout too; an unrelated folder and no PYTHONPATH is how a submitted job starts.
    done = subprocess.run(
        [sys.executable, str(job), "--help"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert f"Usage: raygseg {job.stem}" in done.stdout


def pins() -> dict[str, str]:
    lines = (ROOT / "cluster" / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {name.lower(): version for name, version in pairs}


def test_every_requirement_is_pinned_within_its_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *(t for group in project["optional-dependencies"].values() for t in group)]
    tested = pins()
    for requirement in map(Requirement, texts):
        assert requirement.name.lower() in tested, f"{requirement.name} has no pin"
        assert requirement.specifier.contains(tested[requirement.name.lower()]), str(requirement)


def test_pins_carry_no_build_of_one_machine() -> None:
    assert not [f"{name}=={version}" for name, version in pins().items() if "+" in version or name.startswith("nvidia")]
