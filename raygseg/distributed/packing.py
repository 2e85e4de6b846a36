"""What goes along with a submitted job: one zip of raygseg, the configuration's files and the local inputs.

Ray's own packing takes the whole folder less what `.gitignore` names, without a word: a bundle's weights
may be missing and gigabytes of runs be there. Here the list is made from what the job reads, and is shown.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raygseg.errors import ConfigError, StorageError

LIMIT_BYTES = 100 * 2**20  # a cluster's head refuses larger uploads (HTTP 413)
# Keys whose values are no inputs, whatever lies in a folder of that name here.
_NO_INPUTS = frozenset({"kind", "name", "output", "experiment", "register_as", "promote", "tracking_uri", "runtime"})
_DATE = (1980, 1, 1, 0, 0, 0)  # the same content gives the same zip, which is then uploaded once


@dataclass(frozen=True)
class Pack:
    """A written zip.

    Attributes:
        file: where it lies.
        parts: bytes of each thing that was asked for, by its name in the zip; `raygseg` is the code.
        files: number of files in it.
        bytes: its size.
    """

    file: Path
    parts: Mapping[str, int]
    files: int
    bytes: int


def inputs_of(settings: Mapping[str, Any], origin: str = "") -> dict[str, str]:
    """Values of a configuration that name local places, by dotted key.

    A value is one if a file or folder of that name exists, or if it has a `/` and is no URI.
    """
    found: dict[str, str] = {}
    for key, value in settings.items():
        if key in _NO_INPUTS:
            continue
        if isinstance(value, Mapping):
            found |= inputs_of(value, f"{origin}{key}.")
        elif isinstance(value, str | Path) and (place := local_place(str(value))):
            found[f"{origin}{key}"] = place
    return found


def local_place(value: str) -> str:
    """The path in a value such as `photos?split=test` or `file:///data`; empty where it is none."""
    plain = value.removeprefix("file://")
    if not plain or "://" in plain or plain.startswith("models:/"):
        return ""
    if os.path.exists(plain):
        return plain
    place = plain.partition("?")[0]
    return place if place and (os.path.exists(place) or "/" in place) else ""


def check_inputs(inputs: Mapping[str, str], root: Path) -> tuple[list[Path], list[str]]:
    """Which inputs to pack (relative to `root`), and the absolute ones, which every host must have.

    Raises ConfigError for one that is nowhere, or lies outside `root` under a relative name.
    """
    packed: list[Path] = []
    elsewhere: list[str] = []
    for key, place in inputs.items():
        if os.path.isabs(place):
            elsewhere.append(f"{key}={place}")
            continue
        if not (root / place).exists():
            hint = "correct it, or give an s3:// place or an absolute path that every host has"
            raise ConfigError(f"{key}: '{place}' is not here, so it cannot go along with the job", hint)
        packed.append(_inside(key, root / place, root))
    return packed, elsewhere


def _inside(what: str, place: Path, root: Path) -> Path:
    """The place relative to `root`. Raises ConfigError where it lies elsewhere."""
    try:
        return Path(os.path.abspath(place)).relative_to(os.path.abspath(root))
    except ValueError:
        message = f"{what}: {place} lies outside {root}, so it would not be where the job looks for it"
        raise ConfigError(message, "submit from a folder that holds it, or give an absolute path or s3://") from None


def write_pack(folder: Path, root: Path, things: Iterable[Path], code: Path) -> Pack:
    """Zip `things` (files and folders, whole, ignored and hidden ones too) and raygseg's code.

    Args:
        folder: where zips are kept; the name follows from the content.
        root: what the names in the zip are relative to; where the job will stand.
        things: paths relative to `root`.
        code: the folder that holds the package `raygseg` (and `jobs`, in a checkout).

    Raises:
        ConfigError: a thing lies outside `root`, or all together exceed what a cluster takes; names the largest.
        StorageError: the zip cannot be written.
    """
    entries: dict[str, Path] = dict(_code(code))
    parts = {"raygseg": sum(file.stat().st_size for file in entries.values())}
    for thing in sorted(set(things)):
        _inside(str(thing), root / thing, root)
        files = {name: file for name, file in _files(root, thing) if name not in entries}
        parts[thing.as_posix()] = sum(file.stat().st_size for file in files.values())
        entries |= files
    total = sum(parts.values())
    if total > 10 * LIMIT_BYTES:  # no use compressing it
        raise _too_large(total, parts)
    try:
        pack = _zip(folder, entries)
    except OSError as error:
        raise StorageError(
            f"{folder}: cannot keep the job's files there ({error})", "free space, or chmod it"
        ) from error
    size = pack.stat().st_size
    if size > LIMIT_BYTES:
        raise _too_large(size, parts)
    return Pack(pack, parts, len(entries), size)


def _too_large(size: int, parts: Mapping[str, int]) -> ConfigError:
    largest = sorted(parts.items(), key=lambda part: -part[1])[:3]
    named = ", ".join(f"{name} ({count / 2**20:.0f} MiB)" for name, count in largest)
    return ConfigError(
        f"the job's files are {size / 2**20:.0f} MiB; a cluster takes {LIMIT_BYTES >> 20} at most. Largest: {named}",
        "put those on s3:// or a disk that all hosts share, and name that place instead",
    )


def _code(code: Path) -> Iterator[tuple[str, Path]]:
    """raygseg's modules and the scripts of jobs/."""
    for file in sorted((code / "raygseg").rglob("*.py")):
        yield file.relative_to(code).as_posix(), file
    if (code / "jobs" / "train.py").is_file():
        for file in sorted((code / "jobs").glob("*.py")):
            yield file.relative_to(code).as_posix(), file


def _files(root: Path, thing: Path) -> Iterator[tuple[str, Path]]:
    place = root / thing
    if place.is_file():
        yield thing.as_posix(), place
        return
    for parent, folders, names in os.walk(place, followlinks=True):
        folders.sort()
        for name in sorted(names):
            if not name.endswith(".pyc"):
                file = Path(parent, name)
                yield file.relative_to(root).as_posix(), file


def _zip(folder: Path, entries: Mapping[str, Path]) -> Path:
    """Write the zip under the name that its content gives, unless it is there."""
    digest = hashlib.sha256()
    for name, file in sorted(entries.items()):
        digest.update(f"{name}\0{file.stat().st_size}\0".encode() + file.read_bytes())
    target = folder / f"{digest.hexdigest()[:16]}.zip"
    if target.is_file():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{target.name}.{os.getpid()}.tmp"
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, file in sorted(entries.items()):
                info = zipfile.ZipInfo(name, _DATE)
                info.external_attr = 0o644 << 16
                info.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(info, file.read_bytes())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target
