"""Fill the folder that travels: wheels, pictures, public code, and what earlier leases brought back."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from raygseg.benchmarks.gpu_queue import parcels, records, wheels
from raygseg.benchmarks.gpu_queue.items import CARS_ZIP, PEERS, Item
from raygseg.benchmarks.gpu_queue.lease import ABOUT
from raygseg.benchmarks.gpu_queue.records import RESULTS
from raygseg.benchmarks.gpu_queue.trained import STATE
from raygseg.benchmarks.support import peers
from raygseg.engine.checkpoint import PREFIX
from raygseg.errors import DataError, MissingEnvironmentError

LIMIT = 62 << 20  # bytes that may travel: working tree and folder together
CARS_BYTES = 23 << 20
QUALITIES = (95, 90, 85, 80, 77, 75, 72, 70, 65, 60, 50)  # of WebP, best first
SAMPLE = 60  # pictures from which a quality's size is guessed
SOURCE_SUFFIXES = {".py", ".cpp", ".cu", ".h", ".txt"}  # of public code; the last is its licence


def prepare(items: Sequence[Item], travels: Path, keep: Path, python: str = wheels.PYTHON) -> list[str]:
    """Put into `travels` what these items need and nothing else; notes on what could not be had.

    Raises:
        MissingEnvironmentError: the wheels cannot be downloaded.
        DataError: more than LIMIT would travel.
    """
    notes = []
    wheels.fetch(travels / wheels.WHEELS, python)
    needed = {need for item in items for need in item.needs}
    for need, fill in ((CARS_ZIP, _cars), (PEERS, _peers)):
        if need not in needed:
            _remove(travels / need)
            continue
        try:
            fill(travels / need)
        except MissingEnvironmentError as error:
            notes.append(f"{need}: {error.message}")
    names = {item.name for item in items}
    for old in (travels / STATE).glob("*.zip"):
        if old.stem not in names:
            old.unlink()
    for name in sorted(names):
        pack_state(keep / name, travels / STATE / f"{name}.zip")
    refresh_records(travels, keep)
    (travels / ABOUT).write_text(json.dumps({"commit": commit(), "items": sorted(names)}))
    check_size(travels)
    return notes


def refresh_records(travels: Path, keep: Path) -> None:
    (travels / RESULTS).unlink(missing_ok=True)
    records.append(travels / RESULTS, records.read(keep / RESULTS))


def pack_state(kept: Path, target: Path) -> None:
    """The newest checkpoint below `kept` as a zip file; none where there is none."""
    checkpoints = sorted(kept.glob(f"{PREFIX}*"))
    if not checkpoints:
        target.unlink(missing_ok=True)
        return
    parcels.zip_files(target, kept, parcels.files_below(checkpoints[-1]))


def check_size(travels: Path) -> tuple[int, int]:
    """Bytes of the working tree and of the folder. DataError where they are too many together."""
    tree, folder = _tree_bytes(), sum(path.stat().st_size for path in parcels.files_below(travels))
    if tree + folder > LIMIT:
        raise DataError(
            f"{(tree + folder) / 2**20:.1f} MiB would travel (tree {tree / 2**20:.1f}, {travels} "
            f"{folder / 2**20:.1f}), more than {LIMIT / 2**20:.0f}",
            "name fewer items",
        )
    return tree, folder


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=peers.REPOSITORY, capture_output=True, text=True)
    return done.stdout.strip()


def _tree_bytes() -> int:
    names = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    files = [peers.REPOSITORY / name for name in names if name]
    return sum(file.stat().st_size for file in files if file.is_file())


def commit() -> str:
    """What is checked out here; `+` where it was changed since."""
    return _git("rev-parse", "--short=12", "HEAD") + ("+" if _git("status", "--porcelain") else "")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


# --- pictures --------------------------------------------------------------------------------------


def _cars(target: Path) -> None:
    """The unlabelled cars of RAYGSEG_DATA at 128 px as WebP in one zip file, of the best quality that fits."""
    root = os.environ.get("RAYGSEG_DATA", "")
    folder = Path(root, "cars", "unlabelled")
    if target.is_file():
        return
    if not root or not folder.is_dir():
        raise MissingEnvironmentError("RAYGSEG_DATA names no folder with cars/unlabelled", "set it")
    compress(sorted(folder.glob("*.jpg")), target, CARS_BYTES)


def compress(files: Sequence[Path], target: Path, limit: int) -> int:
    """Write the pictures into a zip file below `limit` bytes, by their names; the quality that was chosen.

    Raises DataError if no quality is low enough.
    """
    sample = random.Random(0).sample(list(files), min(SAMPLE, len(files)))
    for quality in QUALITIES:
        guess = sum(len(_webp(file, quality)) for file in sample) / len(sample) * len(files)
        if guess > 0.98 * limit:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.tmp")
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            for file in files:
                archive.writestr(f"{file.stem}.webp", _webp(file, quality))
            archive.comment = f"WebP, quality {quality}".encode()
        if temporary.stat().st_size <= limit:
            temporary.replace(target)
            return quality
        temporary.unlink()
    raise DataError(f"{len(files)} pictures do not fit into {limit:,} bytes", "use fewer or smaller pictures")


def _webp(file: Path, quality: int) -> bytes:
    content = io.BytesIO()
    with Image.open(file) as picture:
        picture.convert("RGB").save(content, "WEBP", quality=quality, method=4)
    return content.getvalue()


# --- public code -----------------------------------------------------------------------------------


def _peers(target: Path) -> None:
    """The sources of the public code, from the folder that RAYGSEG_PEERS names; nothing of it is ever committed."""
    source = peers.peer_folder(peers.NVIDIA_ADA)
    _remove(target)
    for file in sorted(source.rglob("*")):
        if file.is_file() and file.suffix in SOURCE_SUFFIXES and ".git" not in file.relative_to(source).parts:
            place = target / source.name / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
