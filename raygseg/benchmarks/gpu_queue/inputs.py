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
from raygseg.benchmarks.gpu_queue.items import CARS_ZIP, FEWSHOT_ZIP, NUCLEI_ZIP, PEERS, VGG16, Item
from raygseg.benchmarks.gpu_queue.lease import ABOUT
from raygseg.benchmarks.gpu_queue.records import RESULTS
from raygseg.benchmarks.gpu_queue.trained import STATE
from raygseg.benchmarks.support import peers
from raygseg.engine.checkpoint import PREFIX
from raygseg.errors import DataError, MissingEnvironmentError
from raygseg.nn.backbones.catalogue import FILES

LIMIT = 62 << 20  # bytes that may travel: working tree and folder together
CARS_BYTES = 23 << 20
FEWSHOT_BYTES = 19 << 20  # of its pictures; its masks are 5 MiB more, the VGG-16 weights beside them 28
QUALITIES = (95, 90, 85, 80, 77, 75, 72, 70, 65, 60, 50)  # of WebP, best first
SAMPLE = 60  # pictures from which a quality's size is guessed
SOURCE_SUFFIXES = {".py", ".cpp", ".cu", ".h", ".txt"}  # of public code; the last is its licence


def prepare(items: Sequence[Item], travels: Path, keep: Path, python: str = wheels.PYTHON) -> list[str]:
    """Put into `travels` what these items need and nothing else; notes on what could not be had or does not fit.

    Raises:
        MissingEnvironmentError: the wheels cannot be downloaded.
        DataError: more than LIMIT would travel for the first item alone.
    """
    notes = []
    wheels.fetch(travels / wheels.WHEELS, python)
    refresh_records(travels, keep)
    taken: list[Item] = []
    for item in items:
        # What is there from earlier counts only if somebody needs it.
        _only(travels, [*taken, item])
        notes += _filled(item, travels, keep)
        try:
            check_size(travels)
        except DataError:
            if not taken:
                raise
            notes.append(f"{item.name}: does not fit beside the others; `prepare {item.name}` takes it alone")
            _only(travels, taken)
            continue
        taken.append(item)
    (travels / ABOUT).write_text(json.dumps({"commit": commit(), "items": sorted(item.name for item in taken)}))
    return notes


def _filled(item: Item, travels: Path, keep: Path) -> list[str]:
    """Put what one item needs into `travels`."""
    notes = []
    for need in item.needs:
        try:
            FILLS[need](travels / need)
        except MissingEnvironmentError as error:
            notes.append(f"{need}: {error.message}")
    for name in filter(None, (item.name, item.follows)):
        pack_state(keep / name, travels / STATE / f"{name}.zip")
    return notes


def _only(travels: Path, items: Sequence[Item]) -> None:
    """Remove what none of these needs."""
    needed = {need for item in items for need in item.needs}
    for need in FILLS:
        if need not in needed:
            _remove(travels / need)
    states = {name for item in items for name in (item.name, item.follows)}
    for old in (travels / STATE).glob("*.zip"):
        if old.stem not in states:
            old.unlink()


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


def _data(*parts: str) -> Path:
    """A folder or file of RAYGSEG_DATA."""
    root = os.environ.get("RAYGSEG_DATA", "")
    place = Path(root, *parts)
    if not root or not place.exists():
        raise MissingEnvironmentError(f"RAYGSEG_DATA names no folder with {'/'.join(parts)}", "set it")
    return place


def _cars(target: Path) -> None:
    """The unlabelled cars at 128 px as WebP in one zip file, of the best quality that fits."""
    if not target.is_file():
        compress(sorted(_data("cars", "unlabelled").glob("*.jpg")), target, CARS_BYTES)


def _nuclei(target: Path) -> None:
    """The set as it is."""
    if not target.is_file():
        folder = _data("nuclei")
        parcels.zip_files(target, folder.parent, parcels.files_below(folder))


def _fewshot(target: Path) -> None:
    """The index with the pictures and masks that it names; pictures as WebP, under their own names."""
    if target.is_file():
        return
    index = _data("fewshot", "index.json")
    root = index.parent.parent
    rows = [row for rows in json.loads(index.read_text())["classes"].values() for row in rows]
    pictures, masks = ({root / row[kind] for row in rows} for kind in ("image", "mask"))
    partial = target.with_name(f".{target.name}.partial")
    compress(sorted(pictures), partial, FEWSHOT_BYTES, root)
    with zipfile.ZipFile(partial, "a", zipfile.ZIP_DEFLATED) as archive:
        for file in [*sorted(masks), *parcels.files_below(index.parent)]:
            archive.write(file, file.relative_to(root).as_posix())
    partial.replace(target)


def _vgg16(target: Path) -> None:
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_data("weights", FILES["vgg16"]), target)


def compress(files: Sequence[Path], target: Path, limit: int, root: Path | None = None) -> int:
    """Write the pictures into a zip file below `limit` bytes; the quality that was chosen.

    Args:
        root: name them by their places below it; None: by their own names, with the suffix of what they are now.

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
                name = f"{file.stem}.webp" if root is None else file.relative_to(root).as_posix()
                archive.writestr(name, _webp(file, quality))
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


FILLS = {CARS_ZIP: _cars, NUCLEI_ZIP: _nuclei, FEWSHOT_ZIP: _fewshot, VGG16: _vgg16, PEERS: _peers}
