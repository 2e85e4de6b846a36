"""A folder as a few files of limited size, and back: one zip file in parts, each with its sha256.

index.json               name, size and sha256 of every part, and of the whole
returned.zip.part-000    and so on
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from raygseg.bundle import file_sha256
from raygseg.errors import DataError

INDEX, NAME = "index.json", "returned.zip"
PART_BYTES = 16 << 20
TOTAL_BYTES = 60 << 20
MAX_PARTS = 6  # with index.json and results.jsonl, eight files


def zip_files(target: Path, root: Path, files: Iterable[Path]) -> None:
    """Write `files` (below `root`) into `target`, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for file in files:
            archive.write(file, file.relative_to(root).as_posix())
    temporary.replace(target)


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def pack(folder: Path, output: Path, part_bytes: int = PART_BYTES) -> None:
    """Everything below `folder` as parts in `output`; of the pictures only the newest that there is room for."""
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place, NAME)
        zip_files(whole, folder, _with_room(folder, min(TOTAL_BYTES, MAX_PARTS * part_bytes)))
        _split(whole, output, part_bytes)


def _with_room(folder: Path, room: int) -> list[Path]:
    files = files_below(folder)
    kept = [file for file in files if file.suffix != ".png"]
    left = room - sum(file.stat().st_size for file in kept)
    for picture in sorted((f for f in files if f.suffix == ".png"), key=lambda f: f.name, reverse=True):
        left -= picture.stat().st_size
        if left < 0:
            break
        kept.append(picture)
    return kept


def _split(whole: Path, output: Path, part_bytes: int) -> None:
    """The index goes first and comes last: beside it there is never a part that it does not describe."""
    size = whole.stat().st_size
    if size > min(TOTAL_BYTES, MAX_PARTS * part_bytes):
        raise DataError(f"{size:,} bytes are to go back, more than {TOTAL_BYTES:,}", "run fewer items at a time")
    output.mkdir(parents=True, exist_ok=True)
    (output / INDEX).unlink(missing_ok=True)
    for old in output.glob(f"{NAME}.part-*"):
        old.unlink()
    parts: list[dict[str, object]] = []
    with open(whole, "rb") as file:
        while content := file.read(part_bytes):
            name = f"{NAME}.part-{len(parts):03d}"
            (output / name).write_bytes(content)
            parts.append({"name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()})
    (output / INDEX).write_text(json.dumps({"bytes": size, "sha256": file_sha256(whole), "parts": parts}, indent=1))


def unpack(output: Path, target: Path) -> list[Path]:
    """Join the parts in `output` and unpack them below `target`; the files that were in them.

    Raises DataError naming the part that is missing, cut short or altered.
    """
    again = "copy the files from that machine again"
    try:
        index = json.loads((output / INDEX).read_text())
        parts = [(str(part["name"]), str(part["sha256"])) for part in index["parts"]]
        expected = str(index["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{output / INDEX}: not the index of a parcel ({error})", again) from error
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place, NAME)
        with open(whole, "wb") as file:
            for name, checksum in parts:
                part = output / Path(name).name
                if not part.is_file():
                    raise DataError(f"{part}: missing", again)
                if file_sha256(part) != checksum:
                    raise DataError(f"{part}: checksum differs (cut short or altered)", again)
                file.write(part.read_bytes())
        if file_sha256(whole) != expected:
            raise DataError(f"{output}: the parts do not make the whole", again)
        with zipfile.ZipFile(whole) as archive:
            archive.extractall(target)
            return [target / name for name in archive.namelist()]
