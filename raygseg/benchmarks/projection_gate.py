"""What the gate of projection lets in and keeps out: the face generator against faces, cars, clothes and animals.

The gate is calibrated on projected pictures of the generator itself. Which statistic it judges by is chosen on
held-out pictures of the generator and on validation photos; the figures of the test photos, among them twenty of
other domains, are then read off once. Projections are kept by picture, so the same call goes on.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raygseg.benchmarks.projection import TOY
from raygseg.data.sources import open_labelled
from raygseg.data.splits import nested_subset
from raygseg.engine.process import use_cpu
from raygseg.errors import ConfigError, MissingEnvironmentError
from raygseg.interfaces import Generator
from raygseg.methods.stylegan2.mobile import load_mobile_generator
from raygseg.nn.projection import PerceptualDistance, Projection, ProjectionPlan, reconstruct
from raygseg.nn.projection_gate import FIRST_SEED, QUANTILE, STATISTICS, calibrated, own_pictures
from raygseg.pipelines.feature_nets import open_features
from raygseg.pipelines.kinds import load_generator
from raygseg.pipelines.project import align_photos
from raygseg.pipelines.projection_photos import alignable
from raygseg.pipelines.projection_store import BATCH, project_pictures
from raygseg.viz.grids import png_bytes
from raygseg.viz.reconstructions import side_by_side

HELD_OUT_SEED = FIRST_SEED + 100_000
SPLITS = ("val", "test")
ELSEWHERE = {"cars": 7, "fashion": 6, "animals_voc": 7}  # photos of each set: twenty
Cells = dict[str, tuple[Tensor, Tensor]]  # pictures and valid masks
Found = dict[str, Projection]


def run(
    generator: str = "mobile",
    output: str = "",
    resolution: int = 128,
    steps: int = 60,
    noise_share: float = 0.2,
    calibration: int = 32,
    held_out: int = 16,
    features: str = "auto",
    threads: int = 1,
) -> dict[str, Any]:
    """Shares accepted and refused, by statistic; `chosen` is what validation shows.

    Args:
        generator: mobile (faces, at `resolution`) or toy (configs/toy/generator, 32 px).
        output: folder of the kept projections and the sheets to look at; empty: runs/projection-gate-GENERATOR.
        calibration, held_out: pictures of the generator for the threshold, and for checking it.
    """
    if generator not in ("mobile", "toy"):
        raise ConfigError(f"generator: '{generator}' is not known", "use mobile or toy")
    data = Path(os.environ.get("RAYGSEG_DATA", ""))
    if not (data / "faces").is_dir():
        raise MissingEnvironmentError(f"the photos are not at '{data}'", "set RAYGSEG_DATA")
    use_cpu(threads)
    made, photos = _toys() if generator == "toy" else _faces(data, resolution)
    pictures = _pictures(made, photos, data, calibration, held_out)
    distance = open_features(features, "", made.resolution, precision="bf16").distance()
    plan = ProjectionPlan(steps, noise_share=noise_share)
    place = Path(output or f"runs/projection-gate-{generator}")
    cells = _projected(pictures, made, distance, place, plan)
    table = {name: _row(cells, plan, distance.name, name) for name in STATISTICS}
    chosen = max(table, key=lambda name: table[name]["choice"])
    return {
        "name": "projection-gate",
        "features": distance.name,
        "chosen": chosen,
        "false_accepts": table[chosen]["accepted"]["other domains, test"],
        "false_refusals": table[chosen]["refused"]["photos, test"],
        "pictures": {name: len(found) for name, found in cells.items()},
        "by_statistic": table,
        "settings": {"generator": generator, "resolution": made.resolution, "steps": steps, "noise_share": noise_share,
                     "quantile": QUANTILE, "batch": BATCH, "threads": threads},
    }  # fmt: skip


def _row(cells: Found, plan: ProjectionPlan, features: str, statistic: str) -> dict[str, Any]:
    """One statistic: threshold, what is accepted and refused of every cell, and how well it tells validation apart."""
    gate = calibrated(cells["generator"], plan, features, statistic)
    judged = {name: gate.judge(found) for name, found in cells.items()}
    share = {name: sum(good) / len(good) for name, good in judged.items()}
    return {
        "threshold": gate.threshold,
        "accepted": {name: sum(good) for name, good in judged.items()},
        "refused": {name: good.count(False) for name, good in judged.items()},
        # Balanced: the generator's own and photos of its kind in, other domains out.
        "choice": (share["generator, held out"] + share["photos, val"]) / 2 - share["other domains, val"],
        "medians": {name: round(float(gate.values(found).median()), 4) for name, found in cells.items()},
    }


def _pictures(generator: Generator, photos: Cells, data: Path, calibration: int, held_out: int) -> Cells:
    """Pictures and valid masks by cell, those for the threshold first."""
    own = {
        "generator": own_pictures(generator, range(FIRST_SEED, FIRST_SEED + calibration)),
        "generator, held out": own_pictures(generator, range(HELD_OUT_SEED, HELD_OUT_SEED + held_out)),
    }
    others = {
        f"other domains, {split}": torch.cat(
            [_read(f"{data}/{name}?split={split}", generator.resolution, n) for name, n in ELSEWHERE.items()]
        )
        for split in SPLITS
    }
    whole = {name: (images, torch.ones_like(images[:, :1])) for name, images in {**own, **others}.items()}
    every = {**whole, **photos}
    order = sorted(every, key=lambda name: (name != "generator", "aligned" in name, not name.endswith("test")))
    return {name: every[name] for name in order}


def _faces(data: Path, resolution: int) -> tuple[Generator, Cells]:
    """The face generator in the frame of the labelled training faces, and the validation and test faces.

    Faces are seen twice: aligned by their labels, and as they come, which is how a segmenter sees them.
    """
    train = open_labelled(f"{data}/faces/frontal?split=train", None)
    framing = align_photos(train, alignable(train, "eyes", "mouth")[0], 32).framing
    weights = data / "weights" / "face_generator_mobile.safetensors"
    cells: Cells = {}
    for split in SPLITS:
        faces = open_labelled(f"{data}/faces/frontal?split={split}", None)
        aligned = align_photos(faces, alignable(faces, "eyes", "mouth")[0], resolution, framing=framing)
        cells[f"photos, {split}"] = aligned.images, aligned.valid
        as_they_come = _read(f"{data}/faces/frontal?split={split}", resolution)
        cells[f"photos, {split}, not aligned"] = as_they_come, torch.ones_like(as_they_come[:, :1])
    return load_mobile_generator(weights, resolution, framing, "bf16"), cells


def _toys() -> tuple[Generator, Cells]:
    """The repository's own generator, and pictures of the set that it was trained on."""
    generator = load_generator(TOY)
    cells: Cells = {}
    for split, source in zip(SPLITS, ("toy://default?count=10&seed=11", "toy://default?count=15&seed=12"), strict=True):
        images = _read(source, generator.resolution)
        cells[f"photos, {split}"] = images, torch.ones_like(images[:, :1])
    return generator, cells


def _read(source: str, resolution: int, count: int = 0) -> Tensor:
    """[count, 3, R, R]: a seeded draw of a split, squashed; all of it where count is 0. Without people's portraits."""
    found = open_labelled(source, resolution)
    rows = list(range(len(found)))
    if "person" in found.labels.names:
        person = found.labels.names.index("person")
        rows = [i for i in rows if not (found.read(i)[1] == person).any()]
    if count:
        rows = [rows[i] for i in nested_subset([found.names[i] for i in rows], count, 0)]
    images = torch.stack([torch.from_numpy(found.read(i)[0]) for i in rows])
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def _projected(
    pictures: Cells, generator: Generator, distance: PerceptualDistance, output: Path, plan: ProjectionPlan
) -> Found:
    """The projections of every cell, and a sheet of each."""
    cells: Found = {}
    for name, (images, valid) in pictures.items():
        cells[name] = found = project_pictures(generator, distance, images, valid, output, plan, stage=name)
        sheet = output / f"{name.replace(', ', '-').replace(' ', '-')}.png"
        if not sheet.is_file():
            shown = reconstruct(generator, found.ws, BATCH, found.noise)
            caption = f"{name}: distance by {distance.name}"
            sheet.write_bytes(png_bytes(side_by_side(images, shown, [True] * len(found), caption)))
    return cells
