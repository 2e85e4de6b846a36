"""Public StyleGAN2 weights (NVIDIA `.pkl`, rosinality `.pt`) as bundles that the rest of the chain takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raygseg.bundle import CHECKSUMS, Bundle, file_sha256, write_bundle
from raygseg.errors import CheckpointError, ConfigError
from raygseg.tracking.cards import model_card

if TYPE_CHECKING:
    from raygseg.methods.stylegan2.importers import Weights

LICENCE = "The weights carry the licence of whoever published them; NVIDIA's are for non-commercial use only."


@dataclass(frozen=True)
class ImportedModel:
    """What was written.

    Attributes:
        bundle: folder of the generator.
        discriminator: folder of the discriminator; "" where none was asked for.
        format: nvidia or rosinality.
        network: average (the moving average of the weights) or generator (the weights as trained).
        sha256: of the file.
        parameters: numbers in the generator's weights.
        notes: what the file says that raygseg does otherwise (clamping, half precision), or had to estimate.
    """

    bundle: str
    discriminator: str
    format: str
    network: str
    sha256: str
    parameters: int
    notes: dict[str, Any]


def import_weights(
    file: str | Path, output: str | Path, *, raw: bool = False, discriminator: str | Path = ""
) -> ImportedModel:
    """Write the generator of `file` as a bundle, and its discriminator as another if a folder is given for it.

    Nothing of the file is executed, and both networks are checked name by name and shape by shape before
    anything is written. An older bundle in the same place is replaced.

    Args:
        file: stylegan2-ada-pytorch or stylegan3 (stylegan2 configuration) `.pkl`, or rosinality `.pt`.
        output: folder to make.
        raw: the weights as trained in place of their moving average (also taken where the file has no average).
        discriminator: folder to make for the discriminator.

    Raises:
        CheckpointError: the file is damaged, of another kind, or asks for what is refused; names file and tensor.
        ConfigError: a folder to make exists and is no bundle.
    """
    from raygseg.methods.stylegan2.importers import open_weights

    _check_free(Path(output))
    if discriminator:
        _check_free(Path(discriminator))
    source = open_weights(file)
    network = "generator" if raw or "average" not in source.networks else "average"
    if network not in source.networks:
        raise CheckpointError(f"{file}: holds no {network}", "leave --raw out, or give a whole snapshot")
    weights = source.generator(network)
    facts = {"imported_from": Path(file).name, "format": source.format, "sha256": file_sha256(file)}
    facts |= {"network": network, "licence": LICENCE}
    judge = source.discriminator() if discriminator else None
    path = _write(output, "generator", {"architecture": "stylegan2", **weights.build}, weights, facts)
    if judge is not None:
        _write(discriminator, "discriminator", dict(judge.build), judge, {**facts, "network": "discriminator"})
    return ImportedModel(
        bundle=str(path),
        discriminator=str(discriminator),
        format=source.format,
        network=network,
        sha256=str(facts["sha256"]),
        parameters=sum(tensor.numel() for tensor in weights.tensors.values()),
        notes=dict(weights.notes),
    )


def _write(folder: str | Path, kind: str, build: dict[str, Any], weights: Weights, facts: dict[str, Any]) -> Path:
    facts = facts | dict(weights.notes)
    bundle = Bundle(kind, build, weights.tensors, facts=facts)
    card = model_card(Path(folder).name, bundle)
    return write_bundle(folder, Bundle(kind, build, weights.tensors, facts=facts, card=card))


def _check_free(folder: Path) -> None:
    """A bundle is replaced whole; anything else that stands in its place is not ours to remove."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / CHECKSUMS).is_file()):
        raise ConfigError(f"{folder} exists and is no bundle", "choose another output folder")
