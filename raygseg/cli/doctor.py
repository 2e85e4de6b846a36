"""What `raygseg doctor` checks of the machine, each finding with its fix. Imports nothing that it checks."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.version import Version

PACKAGES = ("torch", "ray", "mlflow", "pyarrow", "pydantic", "kornia", "safetensors", "s3fs")
GIB = 1 << 30


class Finding(NamedTuple):
    """state: ok, note (works, but not what was tested) or fail; found: what is there; fix: what to do."""

    name: str
    state: str
    found: str
    fix: str = ""


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


def check_s3() -> Finding:
    endpoint = next((v for n in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if (v := os.environ.get(n))), "")
    if not endpoint:
        return Finding("S3", "ok", "no endpoint set (AWS_ENDPOINT_URL); local folders need none")
    if trouble := unreachable(endpoint):
        return Finding("S3", "fail", f"{endpoint}: {trouble}", "start the server, or correct AWS_ENDPOINT_URL")
    if not (
        os.environ.get("AWS_ACCESS_KEY_ID") or os.environ.get("AWS_PROFILE") or Path("~/.aws").expanduser().is_dir()
    ):
        return Finding(
            "S3", "note", f"{endpoint} answers; no key is set", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    return Finding("S3", "ok", f"{endpoint} answers")


def check_mlflow() -> Finding:
    """The default store's folder can be written, or the server in MLFLOW_TRACKING_URI answers."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///runs/mlflow.db"
    if uri.startswith(("http://", "https://")):
        trouble = unreachable(uri.rstrip("/") + "/health")
        fix = "start it (mlflow server …), or correct MLFLOW_TRACKING_URI"
        return (
            Finding("MLflow", "fail", f"{uri}: {trouble}", fix)
            if trouble
            else Finding("MLflow", "ok", f"{uri} answers")
        )
    if not uri.startswith("sqlite:///"):
        plain_folder = uri.startswith("file:") or "://" not in uri
        fix = "use sqlite:///PATH or the http:// address of a server" if plain_folder else ""
        return Finding("MLflow", "fail" if plain_folder else "note", f"{uri} (not checked)", fix)
    database = Path(uri.removeprefix("sqlite:///"))
    if database.is_file():
        return _check_database(uri, database)
    folder = next(parent for parent in database.absolute().parents if parent.is_dir())
    if not os.access(folder, os.W_OK):
        return Finding("MLflow", "fail", f"{uri}: {folder} cannot be written", "set MLFLOW_TRACKING_URI elsewhere")
    return Finding("MLflow", "ok", f"{uri} (made at the first run)")


def _check_database(uri: str, database: Path) -> Finding:
    try:
        with sqlite3.connect(f"file:{database}?mode=rw", uri=True, timeout=5) as connection:
            count = connection.execute("select count(*) from runs").fetchone()[0]
    except sqlite3.Error as error:
        return Finding(
            "MLflow", "fail", f"{uri}: {error}", "it is damaged or no MLflow store: move it away, or restore it"
        )
    return Finding("MLflow", "ok", f"{uri}, {count} runs")


def unreachable(address: str) -> str:
    """Why an HTTP address does not answer; empty if it does (a refusal such as 403 is an answer)."""
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code}" if error.code >= 500 else ""
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))
    return ""


_MACHINE: tuple[Callable[[], Finding], ...] = (
    check_disk,
    check_memory,
    check_shared_memory,
    check_data,
    check_s3,
    check_mlflow,
)
