"""The folder of labelled samples: generator seeds with hand-made masks.

labels.json     the classes
masks/SEED.png  class indices, of the picture's size
images/SEED.png the exported picture (optional; its size is checked against the mask's)
samples.json    written by `raygseg sample`: truncation and seeds (optional)
codes.safetensors  of projected photos (optional), in the order of the seeds: `ws` [k, num_ws, w_dim] and
                `noise.I` [k, 1, r, r], the maps that were found for noise input I
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from raygseg.data import object_store
from raygseg.data.picture_files import decode_mask, picture_size, resize_class_map
from raygseg.errors import DataError
from raygseg.labels import LabelSpace

LABELS, RECORD, IMAGES, MASKS = "labels.json", "samples.json", "images", "masks"
CODES, NOISE = "codes.safetensors", "noise."
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledSamples:
    """k pictures of a generator with their label maps.

    Attributes:
        seeds: the seed of each latent and of its per-layer noise.
        masks: uint8 [H, W] class indices, each at its own size.
        truncation_psi: under which the pictures were exported; None: not on record.
        ws: [k, num_ws, w_dim] codes that stand in for the seeds' own (projected photos).
        noise: their noise maps [k, 1, r, r] by noise input; the other inputs have the constant noise.
    """

    labels: LabelSpace
    seeds: tuple[int, ...]
    masks: tuple[NDArray[np.uint8], ...]
    truncation_psi: float | None = None
    ws: Tensor | None = None
    noise: Mapping[int, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.seeds)

    def fingerprint(self) -> str:
        """16 hex digits over seeds, masks and class names."""
        digest = hashlib.sha256(repr((self.seeds, self.labels.names)).encode())
        for mask in self.masks:
            digest.update(mask.tobytes())
        return digest.hexdigest()[:16]

    def class_shares(self) -> NDArray[np.float64]:
        """Share of each class over the labelled pixels of all masks. [K]"""
        counts = np.zeros(256, dtype=np.float64)
        for mask in self.masks:
            counts += np.bincount(mask.ravel(), minlength=256)
        counts = counts[: self.labels.num_classes]
        return np.asarray(counts / max(counts.sum(), 1.0))

    @property
    def absent(self) -> list[str]:
        """Classes that no mask holds: the head cannot learn them."""
        shares = self.class_shares()
        return [name for name, share in zip(self.labels.names, shares, strict=True) if share == 0]

    def masks_at(self, resolution: int) -> NDArray[np.uint8]:
        """[k, resolution, resolution], nearest neighbour."""
        return np.stack([resize_class_map(mask, resolution) for mask in self.masks])


def read_samples(folder: str) -> LabelledSamples:
    """Read a folder of labelled samples (disk or s3://).

    Warns, in the log, of classes that no mask holds.

    Raises:
        DataError: a picture without mask, no mask at all, a name that is not a seed, a mask that is not
            square or of another size than its picture, a class index out of range, broken labels.json
            or samples.json.
    """
    labels = _read_labels(folder)
    record = _read_record(folder)
    names = {_seed_of(e.name): e.name for e in object_store.list_files(object_store.join(folder, MASKS), ".png")}
    if not names:
        raise DataError(
            f"{folder}: no masks in {MASKS}/", f"label the pictures in {IMAGES}/ and save each as {MASKS}/SEED.png"
        )
    pictures = {_seed_of(e.name) for e in object_store.list_files(object_store.join(folder, IMAGES), ".png")}
    if missing := sorted(pictures - names.keys()):
        raise DataError(
            f"{folder}: {len(missing)} pictures have no mask, e.g. {IMAGES}/{missing[0]}.png",
            f"label them as {MASKS}/SEED.png, or remove the pictures you do not want",
        )
    seeds = tuple(sorted(names))
    masks = tuple(_read_mask(folder, names[seed], labels) for seed in seeds)
    psi = record.get("truncation_psi")
    ws, noise = _read_codes(folder, len(seeds))
    samples = LabelledSamples(labels, seeds, masks, None if psi is None else float(psi), ws, noise)
    if samples.absent:
        logger.warning("%s: no mask holds class %s; the head cannot learn it", folder, ", ".join(samples.absent))
    return samples


def _read_codes(folder: str, count: int) -> tuple[Tensor | None, dict[int, Tensor]]:
    """The projected photos' codes and noise, if the folder has any. DataError where they are not one a mask."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    where = object_store.join(folder, CODES)
    if not object_store.exists(where):
        return None, {}
    try:
        tensors = load(object_store.read_bytes(where))
        ws: Tensor = tensors["ws"]
        noise = {int(name.removeprefix(NOISE)): maps for name, maps in tensors.items() if name.startswith(NOISE)}
    except (SafetensorError, KeyError, ValueError) as error:
        raise DataError(f"{where}: no codes `ws` ({error})", "project the photos again") from error
    if wrong := [len(t) for t in (ws, *noise.values()) if len(t) != count]:
        raise DataError(f"{where}: {wrong[0]} codes for {count} masks", "project the photos again, or remove the file")
    return ws, dict(sorted(noise.items()))


def _seed_of(name: str) -> int:
    stem = PurePosixPath(name).stem
    if not stem.isdigit():
        raise DataError(f"{name}: the name is not a seed", "name each mask after its picture, e.g. masks/17.png")
    return int(stem)


def _read_labels(folder: str) -> LabelSpace:
    where = object_store.join(folder, LABELS)
    if not object_store.exists(where):
        raise DataError(f"{where}: not found", 'write {"classes": ["background", ...]} there')
    return LabelSpace.from_dict(_json(where), where)


def _read_record(folder: str) -> dict[str, Any]:
    where = object_store.join(folder, RECORD)
    return _json(where) if object_store.exists(where) else {}


def _json(where: str) -> dict[str, Any]:
    try:
        document = json.loads(object_store.read_bytes(where))
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error})", "mend the file") from error
    if not isinstance(document, dict):
        raise DataError(f"{where}: not a JSON object", "mend the file")
    return document


def _read_mask(folder: str, name: str, labels: LabelSpace) -> NDArray[np.uint8]:
    where = object_store.join(folder, MASKS, name)
    try:
        mask = decode_mask(object_store.read_bytes(where))
    except DataError as error:
        raise DataError(f"{where}: {error.message}", error.hint) from error
    picture = object_store.join(folder, IMAGES, name)
    expected: Sequence[int] = (mask.shape[0], mask.shape[0])
    if object_store.exists(picture):
        expected = picture_size(object_store.read_bytes(picture))
    if mask.shape != tuple(expected):
        height, width = mask.shape
        raise DataError(
            f"{where}: the mask is {width}x{height}, its picture {expected[1]}x{expected[0]}",
            "label the exported picture itself, without cropping or resizing it",
        )
    labels.check(mask, where)
    return mask
