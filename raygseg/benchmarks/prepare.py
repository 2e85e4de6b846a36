"""Does `prepare` find what is wrong with a folder? Defects planted among thousands of files of many kinds.

The files are toy pictures as JPEG, PNG, WebP and BMP of many shapes in twenty folders, some rotated by EXIF, grey,
transparent or of 16 bits, as photos are. Among them lie `each` files of every kind of PLANTED. Of each kind:
planted, found under that kind and name, missed, and false alarms (files reported under it that are none).
"""

from __future__ import annotations

import csv
import io
import multiprocessing
import resource
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from raygseg.benchmarks.support.host import StolenTime
from raygseg.data.toy import render_toy
from raygseg.errors import ConfigError
from raygseg.seeding import numpy_rng

PLANTED = (
    *("empty file", "not a picture", "truncated", "corrupt", "too small"),
    *("extreme aspect", "duplicate", "several frames", "CMYK", "wrong extension"),
)
FOLDERS = 20
Findings = set[tuple[str, str]]  # (file, kind)


@dataclass(frozen=True)
class Outcome:
    """What a run of `prepare` in a process of its own took and said."""

    result: dict[str, Any]
    peak_mib: float
    cpu_seconds: float


def run(
    files: int = 5000,
    each: int = 5,
    resolution: int = 32,
    seed: int = 0,
    threads: int = 0,
    folder: str = "",
    tenth: bool = True,
) -> dict[str, Any]:
    """Plant, prepare, compare.

    Args:
        files: in all, the planted ones among them.
        each: planted files of each of the ten kinds.
        resolution: of the prepared set; the longer side of the files is twice that.
        seed: of the pictures and of where the defects are.
        threads: of `prepare`; 0: one a processor.
        folder: where to leave files and set; empty: a temporary one.
        tenth: also prepare a tenth of the files, to see whether memory grows with them.

    Returns:
        `kinds`: planted, found, missed, false_alarms for each; `mended`: the same for the variety of the other
        files; totals; files_per_second, and files_per_cpu_second for busy machines; peak_mib, and
        peak_mib_of_a_tenth of the files.
    """
    if files < 4 * each * len(PLANTED):
        raise ConfigError(f"files={files} is too few for {each} of each kind", f"use {4 * each * len(PLANTED)} or more")
    stolen = StolenTime()
    with tempfile.TemporaryDirectory(prefix="raygseg-prepare-") as scratch:
        place = Path(folder or scratch)
        wanted = write_files(place / "photos", files, each, seed, resolution)
        settings = (resolution, threads)
        less = _in_a_process(place / "photos", place / "tenth", files // 10, *settings) if tenth else None
        whole = _in_a_process(place / "photos", place / "set", 0, *settings)
        reported = read_findings(place / "set" / "findings.csv")
    scores = {kind: score(kind, wanted, reported) for kind in sorted({kind for _, kind in wanted | reported})}
    planted = {kind: scores.pop(kind) for kind in PLANTED}
    return {
        "files": files,
        "planted": sum(s["planted"] for s in planted.values()),
        "found": sum(s["found"] for s in planted.values()),
        "missed": sum(s["missed"] for s in planted.values()),
        "false_alarms": sum(s["false_alarms"] for s in (*planted.values(), *scores.values())),
        "kept": whole.result["pictures"],
        "kinds": planted,
        "mended": scores,
        "files_per_second": round(whole.result["files_per_second"], 1),
        "files_per_cpu_second": round(files / max(whole.cpu_seconds, 1e-9), 1),
        "peak_mib": whole.peak_mib,
        "peak_mib_of_a_tenth": less.peak_mib if less else None,
        "stolen": stolen.share(),
    }


def score(kind: str, wanted: Findings, reported: Findings) -> dict[str, int]:
    """How the files of one kind were told."""
    right = {name for name, k in wanted if k == kind}
    said = {name for name, k in reported if k == kind}
    return {
        "planted": len(right),
        "found": len(right & said),
        "missed": len(right - said),
        "false_alarms": len(said - right),
    }


def read_findings(file: Path) -> Findings:
    """What `prepare` reports; likenesses are remarks, not findings of something wrong."""
    with open(file, newline="") as lines:
        return {(row["file"], row["kind"]) for row in csv.DictReader(lines) if row["kind"] != "near duplicate"}


def write_files(folder: Path, files: int, each: int, seed: int, resolution: int) -> Findings:
    """Write the folder; what should be found in it."""
    order = numpy_rng(seed, "prepare-defects").permutation(files)
    defect_of = {int(order[i]): PLANTED[i % len(PLANTED)] for i in range(each * len(PLANTED))}
    wanted: Findings = set()
    lossless: list[tuple[str, Image.Image]] = []
    waiting: list[int] = []  # duplicates are written last: they need something to be one of
    for index in range(files):
        kind = defect_of.get(index, "")
        if kind == "duplicate":
            waiting.append(index)
            continue
        picture = draw(seed, index, 2 * resolution)
        suffix, content, kinds = DEFECTS[kind](picture) if kind else ordinary(picture, seed, index)
        name = f"{index % FOLDERS:02d}/{index:06d}{suffix}"
        _write(folder / name, content)
        wanted |= {(name, k) for k in kinds}
        if not kinds and suffix in (".png", ".bmp"):
            lossless.append((name, picture))
    for number, index in enumerate(waiting):
        _, picture = lossless[number * len(lossless) // len(waiting)]
        name = f"copies/{index:06d}{('.bmp', '.png')[number % 2]}"  # sorts after its original
        _write(folder / name, _encoded(picture, ("BMP", "PNG")[number % 2]))
        wanted.add((name, "duplicate"))
    return wanted


def draw(seed: int, index: int, side: int) -> Image.Image:
    """A toy picture cut to a shape between 1.6 to 1 and 1 to 1.6."""
    rng = numpy_rng(seed, "prepare-shape", index)
    picture = Image.fromarray(render_toy(seed, index, side)[0])
    short = int(rng.integers(side * 5 // 8, side + 1))
    width, height = (side, short) if rng.random() < 0.5 else (short, side)
    return picture.crop(((side - width) // 2, (side - height) // 2, (side + width) // 2, (side + height) // 2))


Written = tuple[str, bytes, tuple[str, ...]]  # suffix, content, what should be found


def ordinary(picture: Image.Image, seed: int, index: int) -> Written:
    """A file as photos are: usually a JPEG, now and then rotated, grey, transparent or of 16 bits."""
    place = float(numpy_rng(seed, "prepare-format", index).random())
    if place < 0.03:
        exif = Image.Exif()
        exif[0x0112] = 2 + index % 7
        return ".jpg", _encoded(picture, "JPEG", quality=92, exif=exif), ("turned upright",)
    if place < 0.06:
        return ".jpg", _encoded(picture.convert("L"), "JPEG", quality=92), ("grey",)
    if place < 0.08:
        seen = picture.copy()
        seen.putalpha(Image.linear_gradient("L").resize(picture.size))
        return ".png", _encoded(seen, "PNG"), ("transparent",)
    if place < 0.10:
        deep = np.asarray(picture.convert("L")).astype(np.uint16) * 257
        return ".png", _encoded(Image.fromarray(deep), "PNG"), ("grey", "16 bit")
    if place < 0.30:
        return ".png", _encoded(picture, "PNG"), ()
    if place < 0.36:
        return ".bmp", _encoded(picture, "BMP"), ()
    if place < 0.42:
        return ".webp", _encoded(picture, "WEBP", quality=90), ()
    return (".jpg", ".JPG", ".jpeg")[index % 3], _encoded(picture, "JPEG", quality=92), ()


def _truncated(picture: Image.Image) -> Written:
    content = _encoded(picture, "JPEG", quality=92)
    return ".jpg", content[: len(content) * 2 // 3], ("truncated",)


def _corrupt(picture: Image.Image) -> Written:
    content = bytearray(_encoded(picture, "PNG"))
    middle = len(content) // 2
    content[middle : middle + 64] = b"\xff" * 64
    return ".png", bytes(content), ("corrupt",)


def _small(picture: Image.Image) -> Written:
    """Below half the resolution, which is half of the longer side."""
    side = max(picture.size) * 3 // 16
    return ".png", _encoded(picture.resize((side, side)), "PNG"), ("too small",)


def _long(picture: Image.Image) -> Written:
    side = max(picture.size)
    return ".png", _encoded(picture.resize((side * 3 // 2, side * 5 // 16)), "PNG"), ("extreme aspect",)


def _animated(picture: Image.Image) -> Written:
    frames = [picture.rotate(turn) for turn in (0, 20, 40)]
    return ".gif", _encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), ("several frames",)


DEFECTS: Mapping[str, Callable[[Image.Image], Written]] = {
    "empty file": lambda picture: (".jpg", b"", ("empty file",)),
    "not a picture": lambda picture: (".jpg", b"<html><body>404: not found</body></html>", ("not a picture",)),
    "truncated": _truncated,
    "corrupt": _corrupt,
    "too small": _small,
    "extreme aspect": _long,
    "several frames": _animated,
    "CMYK": lambda picture: (".jpg", _encoded(picture.convert("CMYK"), "JPEG", quality=92), ("CMYK",)),
    "wrong extension": lambda picture: (".jpg", _encoded(picture, "PNG"), ("wrong extension",)),
}


def _encoded(picture: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, image_format, **options)
    return buffer.getvalue()


def _write(place: Path, content: bytes) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)


def _in_a_process(source: Path, output: Path, limit: int, resolution: int, threads: int) -> Outcome:
    """`prepare` in a fresh process, so that its memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_prepared, (str(source), str(output), limit, resolution, threads))


def _prepared(source: str, output: str, limit: int, resolution: int, threads: int) -> Outcome:
    from raygseg.data.preparation.settings import PreparationSettings
    from raygseg.pipelines.prepare import prepare

    start = resource.getrusage(resource.RUSAGE_SELF)
    before = start.ru_utime + start.ru_stime
    result = prepare(source, output, PreparationSettings(resolution, limit=limit), threads=threads)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Outcome(asdict(result), round(used.ru_maxrss / 1024, 1), used.ru_utime + used.ru_stime - before)
