"""A bundle: the folder in which a trained thing lives, readable without running anything from it.

    weights.safetensors   all tensors
    config.yaml           kind, how to build the networks, the training configuration, fingerprint
    labels.json           label space (absent for a plain generator)
    card.md               what it is, from what data, with what figures
    checksums.json        sha256 of every other file

This module knows files, not classes: `pipelines.kinds` maps `kind` to what builds it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from raygseg.errors import CheckpointError
from raygseg.labels import LabelSpace

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS, CONFIG, LABELS, CARD, CHECKSUMS = (
    "weights.safetensors",
    "config.yaml",
    "labels.json",
    "card.md",
    "checksums.json",
)


@dataclass(frozen=True)
class Bundle:
    """A trained thing in memory.

    Attributes:
        kind: what it is: generator, sampler, segmenter (keys of `pipelines.kinds`).
        build: keyword arguments that rebuild the networks; JSON values only.
        tensors: weights by name.
        labels: label space, if it has one.
        config: the resolved training configuration (a record; loading asks it about stretched pictures only).
        facts: fingerprints, data, metrics, nimg: whatever the card and the registry should show.
        card: Markdown text; written from `facts` by whoever saves.
    """

    kind: str
    build: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    labels: LabelSpace | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    card: str = ""


def file_sha256(path: str | Path) -> str:
    """Hex sha256 of a file, read in 1 MiB pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def write_bundle(path: str | Path, bundle: Bundle) -> Path:
    """Write the folder `path` whole or not at all (a temporary neighbour is renamed); replaces an old one."""
    from safetensors.torch import save_file

    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        save_file({k: v.detach().cpu().contiguous() for k, v in bundle.tensors.items()}, temporary / WEIGHTS)
        document = {"kind": bundle.kind, "build": _plain(bundle.build), "facts": _plain(bundle.facts)}
        document["config"] = _plain(bundle.config)
        (temporary / CONFIG).write_text(yaml.safe_dump(document, sort_keys=False))
        if bundle.labels is not None:
            bundle.labels.save(temporary / LABELS)
        (temporary / CARD).write_text(bundle.card or f"# {bundle.kind}\n")
        names = sorted(p.name for p in temporary.iterdir())
        (temporary / CHECKSUMS).write_text(json.dumps({n: file_sha256(temporary / n) for n in names}, indent=1))
        os.chmod(temporary, 0o755)
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target


def verify_bundle(path: str | Path) -> None:
    """Raise CheckpointError naming the file that is missing or differs from its checksum."""
    folder = Path(path)
    listing = folder / CHECKSUMS
    if not listing.is_file():
        raise CheckpointError(f"{folder} is not a bundle: no {CHECKSUMS}", "give the folder that `train` wrote")
    try:
        expected: dict[str, str] = json.loads(listing.read_text())
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{listing}: not JSON", "pull or copy the bundle again") from error
    for name, checksum in expected.items():
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"{file}: missing from the bundle", "pull or copy the bundle again")
        if file_sha256(file) != checksum:
            raise CheckpointError(f"{file}: checksum differs (truncated or altered)", "pull or copy the bundle again")


def read_bundle(path: str | Path, verify: bool = True) -> Bundle:
    """Read a bundle folder. Raises CheckpointError naming the file. Executes nothing from it."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(path)
    if verify:
        verify_bundle(folder)
    try:
        document = yaml.safe_load((folder / CONFIG).read_text())
        tensors = load_file(folder / WEIGHTS)
    except (OSError, yaml.YAMLError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: cannot be read ({error})", "pull or copy the bundle again") from error
    labels = LabelSpace.load(folder / LABELS) if (folder / LABELS).is_file() else None
    card = (folder / CARD).read_text() if (folder / CARD).is_file() else ""
    return Bundle(
        kind=document["kind"],
        build=document["build"],
        tensors=tensors,
        labels=labels,
        config=document.get("config") or {},
        facts=document.get("facts") or {},
        card=card,
    )


def _plain(value: Any) -> Any:
    """Tuples to lists and mappings to dicts, so that safe YAML can write them."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value
