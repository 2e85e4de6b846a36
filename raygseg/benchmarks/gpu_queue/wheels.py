"""Packages that the machine with the GPU lacks, carried as wheels."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from email.parser import Parser
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from raygseg.errors import MissingEnvironmentError

WHEELS = "wheels"
WANTED = "pydantic"  # and what it needs
EXPECTED = ("torch", "numpy", "safetensors", "yaml", "PIL", "packaging")  # are there, in whatever version
PYTHON = "3.12"
PLATFORMS = tuple(f"manylinux{name}_x86_64" for name in ("_2_28", "_2_27", "_2_17", "2014"))


def fetch(folder: Path, python: str = PYTHON) -> None:
    """Download what `WANTED` needs, in this environment's version, for `python` on x86-64 Linux.

    Raises MissingEnvironmentError: pip found nothing that fits, or the wheels do not fit one another.
    """
    if complete(folder, python):
        return
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--dest", str(folder)]
    command += ["--python-version", python, "--implementation", "cp"]
    command += [word for platform in PLATFORMS for word in ("--platform", platform)]
    done = subprocess.run([*command, f"{WANTED}=={version(WANTED)}"], capture_output=True, text=True)
    if done.returncode:
        raise MissingEnvironmentError(f"pip download failed:\n{done.stderr[-1500:]}", "see pip's message above")
    if fault := misfit(folder, python):
        raise MissingEnvironmentError(f"{folder}: {fault}", "delete the folder and run `prepare` again")


def complete(folder: Path, python: str = PYTHON) -> bool:
    wanted = [parse_wheel_filename(path.name)[:2] for path in folder.glob(f"{WANTED}-*.whl")]
    return any(str(found) == version(WANTED) for _, found in wanted) and not misfit(folder, python)


def misfit(folder: Path, python: str = PYTHON) -> str:
    """Why these wheels cannot be used together by `python` on x86-64 Linux; empty: they can."""
    found = {}
    for path in sorted(folder.glob("*.whl")):
        name, number, _, tags = parse_wheel_filename(path.name)
        if name in found:
            return f"two versions of {name}"
        interpreters = {"py3", "cp" + python.replace(".", "")}
        if not any(t.interpreter in interpreters and (t.platform == "any" or "x86_64" in t.platform) for t in tags):
            return f"{path.name} is not for Python {python} on x86-64"
        found[name] = number
    for path in sorted(folder.glob("*.whl")):
        for need in _needs(path, python):
            there = found.get(canonicalize_name(need.name))
            if there is None or not need.specifier.contains(there, prereleases=True):
                return f"{path.name} needs {need}, there is {there or 'none'}"
    return ""


def _needs(wheel: Path, python: str) -> list[Requirement]:
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    every = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    there = {"python_version": python, "python_full_version": f"{python}.0", "extra": "", "sys_platform": "linux"}
    return [need for need in every if need.marker is None or need.marker.evaluate(there)]


def provide(folder: Path) -> None:
    """Make what is missing here importable, in this process and those it starts; a wheel is a zip file.

    Raises MissingEnvironmentError: something is missing and was not carried, or the wheels are for another Python.
    """
    missing = [name for name in EXPECTED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingEnvironmentError(f"this Python has no {', '.join(missing)}", "use the Python that holds torch")
    if importlib.util.find_spec(WANTED) is not None:
        return
    carried = sorted(folder.glob("*.whl"))
    fault = misfit(folder, f"{sys.version_info.major}.{sys.version_info.minor}") if carried else "no wheels there"
    if fault:
        raise MissingEnvironmentError(f"{WANTED} is missing and {folder}: {fault}", "run `prepare`, carry .gpu along")
    site = tempfile.mkdtemp(prefix="raygseg-wheels-")
    for wheel in carried:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    sys.path.insert(0, site)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [site, os.environ.get("PYTHONPATH", "")]))
    importlib.invalidate_caches()
