"""Export a few diverse pictures of a generator, with their seeds, to be labelled by hand anywhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raygseg.errors import ConfigError, DataError
from raygseg.interfaces import Generator

if TYPE_CHECKING:
    from torch import Tensor

PIXELS_A_PASS = 1 << 20
LARGEST_BATCH = 32
COARSE = 64  # px: finer feature maps say little about how a picture is laid out
TYPICAL_SHARE = 0.9  # of the candidates: the oddest tenth is never chosen, being hard to label
CANDIDATES_A_SEED = 100_000
SHEET_SIDE = 192  # px of a picture on the contact sheet

README = """\
These are {count} pictures of a generator, chosen to differ from one another. To teach it parts:

1. List your classes in labels.json, "background" first. "swaps" names left/right pairs that trade
   places in a mirror image, e.g. "swaps": [["left ear", "right ear"]]. "void": 255 lets you leave
   pixels unlabelled with the value 255.
2. For every images/SEED.png paint a mask with any tool and save it as masks/SEED.png: a palette or
   grey PNG of the same size whose pixel values are class indices (0 for the first class, 1 for the
   second, ...). Remove pictures that you do not want to label.
3. Train the head:  raygseg train CONFIG samples={folder}

Keep the file names and samples.json: the seeds in them are what the head is trained from.
"""


@dataclass(frozen=True)
class ExportedSamples:
    """What was written: the folder, the seeds (file names) and the overview picture."""

    folder: str
    seeds: tuple[int, ...]
    contact_sheet: str


def sample_for_labelling(
    generator: str | Generator,
    count: int,
    output: str | Path,
    seed: int = 0,
    truncation_psi: float = 1.0,
    candidates: int = 256,
) -> ExportedSamples:
    """Write images/SEED.png, samples.json, a labels.json to fill in, an empty masks/ and a README.

    The pictures are chosen from `candidates` by k-centre greedy on pooled features. Calling it again
    with the same arguments writes the same files; labels.json and masks are never overwritten.

    Args:
        generator: a generator bundle (folder, s3:// or models:/NAME@alias), or a generator.
        count: pictures to export.
        output: folder on disk.
        seed: decides the candidates.
        truncation_psi: 1 for full variety.

    Raises:
        ConfigError: more pictures asked for than there are candidates to choose from.
        DataError: the folder holds samples of other seeds or another truncation.
    """
    if not 0 < count <= max(1, int(candidates * TYPICAL_SHARE)):
        raise ConfigError(
            f"{count} pictures cannot be chosen from {candidates} candidates", f"use --candidates {2 * max(count, 1)}"
        )
    source = _open(generator) if isinstance(generator, str) else generator
    seeds = [seed * CANDIDATES_A_SEED + i for i in range(candidates)]
    chosen = [seeds[i] for i in diverse_subset(_layouts(source, seeds, truncation_psi), count)]
    folder = Path(output)
    record = {
        "seeds": chosen,
        "truncation_psi": truncation_psi,
        "resolution": source.resolution,
        "generator": generator if isinstance(generator, str) else type(generator).__name__,
    }
    _claim(folder, record)
    pictures = _pictures(source, chosen, truncation_psi)
    return ExportedSamples(str(folder), tuple(chosen), str(_write(folder, chosen, pictures)))


def diverse_subset(points: NDArray[np.float32], count: int) -> list[int]:
    """k-centre greedy: start at the most typical point, then add whichever is farthest from those chosen.

    points: [N, D]. The oddest tenth (farthest from the mean) is left out. Returns row numbers.
    """
    scaled = (points - points.mean(0)) / np.maximum(points.std(0), 1e-6)
    oddness = np.linalg.norm(scaled, axis=1)
    typical = np.sort(np.argsort(oddness, kind="stable")[: max(count, int(len(points) * TYPICAL_SHARE))])
    chosen = [int(typical[np.argmin(oddness[typical])])]
    distance = np.linalg.norm(scaled[typical] - scaled[chosen[0]], axis=1)
    while len(chosen) < count:
        chosen.append(int(typical[np.argmax(distance)]))
        distance = np.minimum(distance, np.linalg.norm(scaled[typical] - scaled[chosen[-1]], axis=1))
    return chosen


def _layouts(generator: Generator, seeds: Sequence[int], truncation_psi: float) -> NDArray[np.float32]:
    """[N, D]: each candidate's coarse feature maps and picture, averaged over the four quarters."""
    import torch
    from torch.nn import functional

    names = [layer.name for layer in generator.feature_layers if layer.resolution <= COARSE]
    rows: list[Tensor] = []
    with torch.no_grad():
        for part in _passes(generator, seeds):
            rendering = generator.render(generator.latents(part, truncation_psi), part, names)
            maps = [*rendering.features.values(), rendering.images]
            rows.append(torch.cat([functional.adaptive_avg_pool2d(m.float(), 2).flatten(1) for m in maps], 1).cpu())
    return torch.cat(rows).numpy()


def _pictures(generator: Generator, seeds: Sequence[int], truncation_psi: float) -> NDArray[np.uint8]:
    """[N, R, R, 3] uint8, with the per-layer noise of the seed."""
    import torch

    parts: list[NDArray[np.uint8]] = []
    with torch.no_grad():
        for part in _passes(generator, seeds):
            images = generator.render(generator.latents(part, truncation_psi), part).images
            rounded = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
            parts.append(rounded.permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(parts)


def _passes(generator: Generator, seeds: Sequence[int]) -> list[Sequence[int]]:
    """Seeds in groups that fit a forward pass."""
    size = max(1, min(LARGEST_BATCH, PIXELS_A_PASS // generator.resolution**2))
    return [seeds[i : i + size] for i in range(0, len(seeds), size)]


def _claim(folder: Path, record: dict[str, Any]) -> None:
    """Write samples.json, unless the folder holds other samples: their masks would no longer fit."""
    place = folder / "samples.json"
    if place.is_file():
        there = json.loads(place.read_text())
        if any(there.get(key) != record[key] for key in ("seeds", "truncation_psi", "resolution")):
            raise DataError(f"{folder} already holds other samples to label", "choose another output folder")
    folder.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(record, indent=1) + "\n")


def _write(folder: Path, seeds: Sequence[int], pictures: NDArray[np.uint8]) -> Path:
    """Everything but samples.json; returns the contact sheet's path."""
    from PIL import Image

    from raygseg.viz.grids import fit, picture_grid, png_bytes, write_text

    for name in ("images", "masks"):
        (folder / name).mkdir(exist_ok=True)
    for seed, picture in zip(seeds, pictures, strict=True):
        Image.fromarray(picture).save(folder / "images" / f"{seed}.png")
    labels = folder / "labels.json"
    if not labels.exists():
        template = {"classes": ["background", "part 1", "part 2"], "void": 255, "swaps": []}
        labels.write_text(json.dumps(template, indent=1) + "\n")
    (folder / "README.txt").write_text(README.format(count=len(seeds), folder=folder))
    cells = [write_text(fit(p, SHEET_SIDE), str(s), 4, 4) for s, p in zip(seeds, pictures, strict=True)]
    sheet = folder / "contact_sheet.png"
    sheet.write_bytes(png_bytes(picture_grid(cells)))
    return sheet


def _open(uri: str) -> Generator:
    from raygseg.pipelines.kinds import load_generator

    return load_generator(uri)
