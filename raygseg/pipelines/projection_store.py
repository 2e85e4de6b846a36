"""Projections kept by picture: the same call goes on where it stopped.

FOLDER/settings.json      what decides a projection: generator, features, plan, start
FOLDER/parts/HASH.safetensors   one picture's codes, noise and figures; HASH is of its pixels and valid mask
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from raygseg.errors import FingerprintError
from raygseg.interfaces import Generator
from raygseg.nn.projection import PerceptualDistance, Projection, ProjectionPlan, latent_spread, project

Progress = Callable[..., None]  # (stage, done, total, facts)
Start = Callable[[Tensor], Tensor]  # pictures to codes
SETTINGS, PARTS = "settings.json", "parts"
BATCH = 8
NOISE = "noise."


def project_pictures(
    generator: Generator,
    distance: PerceptualDistance,
    images: Tensor,
    valid: Tensor,
    folder: str | Path,
    plan: ProjectionPlan,
    *,
    batch: int = BATCH,
    start: Start | None = None,
    start_name: str = "mean",
    progress: Progress | None = None,
    stage: str = "project",
) -> Projection:
    """`project` in batches; what the folder holds already is read, not projected again.

    Args:
        images, valid: see `project`.
        start: an encoder's guess of the codes; None: the mean w. start_name: for the record.
        progress: called as (stage, pictures done, pictures, facts).

    Raises FingerprintError where the folder holds projections of another generator, network or plan.
    """
    place = Path(folder)
    claim(place, settings_of(generator, distance, plan, start_name))
    files = [place / PARTS / f"{picture_hash(*row)}.safetensors" for row in zip(images, valid, strict=True)]
    kept = {i: part for i, file in enumerate(files) if (part := _read(file)) is not None}
    waiting = [i for i in range(len(images)) if i not in kept]
    spread = latent_spread(generator) if waiting else None
    for first in range(0, len(waiting), batch):
        rows = waiting[first : first + batch]

        def tick(step: int, steps: int, loss: float, count: int = len(rows), before: int = len(kept)) -> None:
            if progress is not None and step < steps:
                progress(stage, before + count * step / steps, len(images), {"loss": loss})

        begin = None if start is None else start(images[rows])
        found = project(generator, distance, images[rows], valid[rows], plan, tick, begin, spread)
        for place_in_batch, row in enumerate(rows):
            kept[row] = found.rows([place_in_batch])
            _write(files[row], kept[row])
        if progress is not None:
            progress(stage, len(kept), len(images), {"distance": float(found.distances.mean())})
    return Projection.joined([kept[i] for i in range(len(images))])


def settings_of(generator: Generator, distance: PerceptualDistance, plan: ProjectionPlan, start: str) -> dict[str, Any]:
    """What decides a projection, as JSON values."""
    return {
        "generator": network_hash(generator),
        "features": distance.name,
        "features_hash": network_hash(distance.network),
        "start": start,
        "plan": asdict(plan),
    }


def claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder these settings', or find that it is already. FingerprintError lists what differs."""
    place = folder / SETTINGS
    if place.is_file():
        known = _flat(json.loads(place.read_text()))
        asked = _flat(settings)
        changed = [k for k in sorted(known.keys() | asked.keys()) if known.get(k) != asked.get(k)]
        if changed:
            lines = "\n    ".join(f"{key}: {known.get(key)} -> {asked.get(key)}" for key in changed)
            raise FingerprintError(
                f"{folder} holds projections under other settings; changed:\n    {lines}",
                "choose another output folder, or delete that one",
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(settings, indent=1) + "\n")


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"{key}.{inner}" if inner else key: item
        for key, value in settings.items()
        for inner, item in (value.items() if isinstance(value, dict) else [("", value)])
    }


def network_hash(network: object) -> str:
    """16 hex digits over a network's weights and, for a framed generator, what it shows; "" for what has none."""
    if not isinstance(network, nn.Module):
        return ""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    digest.update(repr((getattr(network, "framing", None), getattr(network, "resolution", None))).encode())
    return digest.hexdigest()[:16]


def picture_hash(image: Tensor, valid: Tensor) -> str:
    """24 hex digits over a picture and its valid pixels."""
    digest = hashlib.sha256(image.contiguous().float().numpy().tobytes())
    digest.update(valid.contiguous().float().numpy().tobytes())
    return digest.hexdigest()[:24]


def _write(file: Path, found: Projection) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    save_file(tensors_of(found), partial)
    partial.rename(file)


def _read(file: Path) -> Projection | None:
    """A kept projection; None where there is none or it is damaged (it is made again)."""
    if not file.is_file():
        return None
    try:
        return projection_from(load_file(file))
    except (SafetensorError, TypeError):
        return None


def tensors_of(found: Projection) -> dict[str, Tensor]:
    """A projection by name, for safetensors."""
    every = found.tensors() | {f"{NOISE}{i}": maps for i, maps in found.noise.items()}
    return {name: tensor.contiguous() for name, tensor in every.items()}


def projection_from(tensors: Mapping[str, Tensor]) -> Projection:
    """Undo `tensors_of`. TypeError names what is missing."""
    noise = {int(name.removeprefix(NOISE)): maps for name, maps in tensors.items() if name.startswith(NOISE)}
    plain: dict[str, Any] = {name: tensor for name, tensor in tensors.items() if not name.startswith(NOISE)}
    return Projection(**plain, noise=dict(sorted(noise.items())))
