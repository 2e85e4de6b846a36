"""What the gate of projection lets in and keeps out: the face generator against faces, cars, clothes and animals.

The gate is calibrated on projected pictures of the generator itself. Which statistic it judges by is chosen on
held-out pictures of the generator and on validation photos; the figures of the test photos, among them twenty of
other domains, are then read off once. Projections are kept by picture, so the same call goes on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raygseg.data.sources import open_labelled
from raygseg.data.splits import nested_subset
from raygseg.errors import MissingEnvironmentError
from raygseg.methods.stylegan2.mobile import MobileGenerator, load_mobile_generator
from raygseg.nn.projection import PerceptualDistance, Projection, ProjectionPlan, reconstruct
from raygseg.nn.projection_gate import FIRST_SEED, QUANTILE, STATISTICS, calibrated, own_pictures
from raygseg.pipelines.feature_nets import open_features
from raygseg.pipelines.project import align_photos
from raygseg.pipelines.projection_photos import alignable
from raygseg.pipelines.projection_store import BATCH, project_pictures
from raygseg.viz.grids import png_bytes
from raygseg.viz.reconstructions import side_by_side

HELD_OUT_SEED = FIRST_SEED + 100_000
ELSEWHERE = {"cars": 7, "fashion": 6, "animals_voc": 7}  # photos of each set: twenty
Cells = dict[str, Projection]


def run(
    output: str = "runs/projection-gate",
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
        output: folder of the kept projections and the sheets to look at.
        calibration, held_out: pictures of the generator for the threshold, and for checking it.
    """
    torch.set_num_threads(threads)
    data = Path(os.environ.get("RAYGSEG_DATA", ""))
    if not (data / "faces").is_dir():
        raise MissingEnvironmentError(f"the photos are not at '{data}'", "set RAYGSEG_DATA")
    pictures, generator = _pictures(data, resolution, calibration, held_out)
    net = open_features(features, "", resolution, precision="bf16")
    plan = ProjectionPlan(steps, noise_share=noise_share)
    cells = _projected(pictures, generator, net.distance(), Path(output), plan)
    table = {name: _row(cells, plan, net.name, name) for name in STATISTICS}
    chosen = max(table, key=lambda name: table[name]["choice"])
    return {
        "name": "projection-gate",
        "features": net.name,
        "chosen": chosen,
        "false_accepts": table[chosen]["accepted"]["other domains, test"],
        "false_refusals": table[chosen]["refused"]["faces, test"],
        "pictures": {name: len(found) for name, found in cells.items()},
        "by_statistic": table,
        "settings": {"resolution": resolution, "steps": steps, "noise_share": noise_share, "quantile": QUANTILE,
                     "batch": BATCH, "threads": threads},
    }  # fmt: skip


def _row(cells: Mapping[str, Projection], plan: ProjectionPlan, features: str, statistic: str) -> dict[str, Any]:
    """One statistic: threshold, what is accepted and refused of every cell, and how well it tells validation apart."""
    gate = calibrated(cells["generator"], plan, features, statistic)
    judged = {name: gate.judge(found) for name, found in cells.items()}
    share = {name: sum(good) / len(good) for name, good in judged.items()}
    return {
        "threshold": gate.threshold,
        "accepted": {name: sum(good) for name, good in judged.items()},
        "refused": {name: good.count(False) for name, good in judged.items()},
        # Balanced: the generator's own and faces in, other domains out.
        "choice": (share["generator, held out"] + share["faces, val"]) / 2 - share["other domains, val"],
        "medians": {name: round(float(gate.values(found).median()), 4) for name, found in cells.items()},
    }


def _pictures(
    data: Path, resolution: int, calibration: int, held_out: int
) -> tuple[dict[str, tuple[Tensor, Tensor]], MobileGenerator]:
    """Pictures and valid masks by cell, and the generator in the frame of the labelled training faces.

    Faces are seen twice: aligned by their labels, and as they come, which is how a segmenter sees them.
    """
    train = open_labelled(f"{data}/faces/frontal?split=train", None)
    framing = align_photos(train, alignable(train, "eyes", "mouth")[0], 32).framing
    weights = data / "weights" / "face_generator_mobile.safetensors"
    generator = load_mobile_generator(weights, resolution, framing, "bf16")
    cells = {
        "generator": own_pictures(generator, range(FIRST_SEED, FIRST_SEED + calibration)),
        "generator, held out": own_pictures(generator, range(HELD_OUT_SEED, HELD_OUT_SEED + held_out)),
    }
    masks = {name: torch.ones_like(images[:, :1]) for name, images in cells.items()}
    for split in ("val", "test"):
        faces = open_labelled(f"{data}/faces/frontal?split={split}", None)
        aligned = align_photos(faces, alignable(faces, "eyes", "mouth")[0], resolution, framing=framing)
        cells[f"faces, {split}"], masks[f"faces, {split}"] = aligned.images, aligned.valid
        cells[f"faces, {split}, not aligned"] = _read(f"{data}/faces/frontal?split={split}", resolution)
        others = [_read(f"{data}/{name}?split={split}", resolution, n) for name, n in ELSEWHERE.items()]
        cells[f"other domains, {split}"] = torch.cat(others)
    every = {name: masks.get(name, torch.ones_like(images[:, :1])) for name, images in cells.items()}
    return {name: (images, every[name]) for name, images in cells.items()}, generator


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
    pictures: Mapping[str, tuple[Tensor, Tensor]], generator: MobileGenerator, distance: PerceptualDistance,
    output: Path, plan: ProjectionPlan,
) -> Cells:  # fmt: skip
    """The projections of every cell, and a sheet of each."""
    cells: Cells = {}
    for name, (images, valid) in pictures.items():
        cells[name] = found = project_pictures(generator, distance, images, valid, output, plan, stage=name)
        sheet = output / f"{name.replace(', ', '-').replace(' ', '-')}.png"
        if not sheet.is_file():
            shown = reconstruct(generator, found.ws, BATCH, found.noise)
            sheet.write_bytes(png_bytes(side_by_side(images, shown, [True] * len(found))))
    return cells
