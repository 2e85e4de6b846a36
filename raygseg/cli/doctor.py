"""What `raygseg doctor` checks, each finding with its fix: the machine here, the services beside."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from raygseg.cli.doctor_services import SERVICES
from raygseg.cli.finding import Finding

PACKAGES = ("torch", "ray", "mlflow", "pyarrow", "pydantic", "kornia", "safetensors", "s3fs")
GIB = 1 << 30


def checks() -> Iterator[Finding]:
    """All findings, cheapest first."""
    yield check_python()
    tested, ranges = tested_versions(), declared_ranges()
    for package in PACKAGES:
        yield check_package(package, tested.get(package), ranges.get(package))
    for check in _MACHINE:
        yield check()


def check_python(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Finding:
    text = ".".join(map(str, version))
    if version < (3, 11):
        return Finding("Python", "fail", text, "make the environment with Python 3.11 or newer")
    return Finding("Python", "ok", text)


def tested_versions() -> dict[str, str]:
    """Pins of cluster/constraints.txt beside the package; empty where only a wheel is installed."""
    file = Path(__file__).resolve().parents[2] / "cluster" / "constraints.txt"
    if not file.is_file():
        return {}
    lines = [line for line in file.read_text().splitlines() if "==" in line and not line.startswith("#")]
    return {name.strip().lower(): version.strip() for name, _, version in (line.partition("==") for line in lines)}


def declared_ranges() -> dict[str, Requirement]:
    """The ranges raygseg was installed with; empty when it runs from a folder without being installed."""
    try:
        texts = metadata.requires("raygseg") or []
    except metadata.PackageNotFoundError:
        return {}
    requirements = [Requirement(text) for text in texts]
    return {r.name.lower(): r for r in requirements if r.marker is None}


def check_package(name: str, tested: str | None, wanted: Requirement | None) -> Finding:
    """Missing or outside the declared range: fail. Inside it but not the tested version: note."""
    install = (
        f"pip install -c cluster/constraints.txt '{name}=={tested}'" if tested else f"pip install '{wanted or name}'"
    )
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(name, "fail", "not installed", install)
    if wanted is not None and not wanted.specifier.contains(found, prereleases=True):
        return Finding(name, "fail", f"{found}, outside {wanted.specifier}", install)
    if tested is not None and Version(found).public != Version(tested).public:
        return Finding(name, "note", f"{found}; tested with {tested}", install)
    return Finding(name, "ok", found)


def check_disk(folder: str | Path = ".") -> Finding:
    free = shutil.disk_usage(folder).free / GIB
    found = f"{free:.1f} GiB free here"
    if free < 2:
        return Finding("disk", "fail", found, "free at least 2 GiB, or run in another folder")
    return Finding("disk", "ok" if free >= 10 else "note", found, "" if free >= 10 else "real data wants 10 GiB")


def check_memory() -> Finding:
    """Physical memory, or the control group's limit where it is lower."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(limit).read_text()))
        except (OSError, ValueError):
            continue
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = f"{total / GIB:.1f} GiB, {cpus} CPUs"
    if total < 3 * GIB:
        return Finding(
            "memory", "fail", found, "Ray and MLflow need 3 GiB; train with runtime.in_process=true elsewhere"
        )
    return Finding("memory", "ok", found)


def check_shared_memory() -> Finding:
    """Ray's object store lives in /dev/shm; containers often give it 64 MiB."""
    if not Path("/dev/shm").is_dir():
        return Finding("shared memory", "ok", "no /dev/shm here; Ray uses files")
    free = shutil.disk_usage("/dev/shm").free / GIB
    if free < 0.5:
        return Finding(
            "shared memory", "note", f"{free:.2f} GiB in /dev/shm", "docker run --shm-size=2g …; Ray is slow without"
        )
    return Finding("shared memory", "ok", f"{free:.1f} GiB in /dev/shm")


def check_data() -> Finding:
    folder = os.environ.get("RAYGSEG_DATA", "")
    if not folder:
        return Finding(
            "RAYGSEG_DATA", "note", "not set", "set it to a folder of real pictures to run their tests and configs"
        )
    if not Path(folder).is_dir():
        return Finding("RAYGSEG_DATA", "fail", f"{folder} is not a folder", "correct or unset RAYGSEG_DATA")
    return Finding("RAYGSEG_DATA", "ok", folder)


_MACHINE: tuple[Callable[[], Finding], ...] = (
    check_disk,
    check_memory,
    check_shared_memory,
    check_data,
    *SERVICES,
)
