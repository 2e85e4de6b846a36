"""Photos as the generator would show them: aligned by labelled eyes and mouth, by the generator's template,
or squashed to its square."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raygseg.data import object_store
from raygseg.data.source_address import parse_source
from raygseg.data.sources import LabelledSet, open_labelled, open_pictures
from raygseg.errors import DataError
from raygseg.interfaces import Picture
from raygseg.labels import LabelSpace
from raygseg.nn.framing import Framing, mean_framing
from raygseg.nn.projection import FeatureNetwork
from raygseg.nn.template_alignment import Template
from raygseg.pipelines.project import VOID, Mask, align_photos, aligned, face_square, signed

CHECKED_AT = 64  # px at which unlabelled pictures are decoded once, to find the bad ones


@dataclass(frozen=True)
class Photos:
    """N photos for projection.

    Attributes:
        names: of the files. images: [N, 3, R, R] in [-1, 1]. valid: [N, 1, R, R], 0 where a photo does not reach.
        skipped: (name, reason) of photos that cannot be used.
        masks, labels: where they are labelled. framing: window that the generator must show; None: as it is.
    """

    names: tuple[str, ...]
    images: Tensor
    valid: Tensor
    skipped: tuple[tuple[str, str], ...] = ()
    masks: Mask | None = None
    labels: LabelSpace | None = None
    framing: Framing | None = None

    def rows(self, rows: list[int]) -> Photos:
        """Some of them."""
        masks = None if self.masks is None else self.masks[rows]
        names = tuple(self.names[i] for i in rows)
        return Photos(names, self.images[rows], self.valid[rows], self.skipped, masks, self.labels, self.framing)


def read_photos(source: str, resolution: int, limit: int = 0) -> Photos:
    """Pictures squashed to the square, with their masks where the source has any; the first `limit` (0: all)."""
    if is_labelled(source):
        labelled = open_labelled(source, resolution, limit=limit)
        read = [labelled.read(i) for i in range(len(labelled))]
        masks = np.stack([mask for _, mask in read])
        images = _signed([picture for picture, _ in read])
        bad = tuple((name, reason) for name, reason in labelled.report.bad)
        return Photos(tuple(labelled.names), images, torch.ones_like(images[:, :1]), bad, masks, labelled.labels)
    pictures = open_pictures(source, resolution, limit=limit)
    images = _signed([pictures.read(i) for i in range(len(pictures))])
    bad = tuple((name, reason) for name, reason in pictures.report.bad)
    return Photos(tuple(pictures.names), images, torch.ones_like(images[:, :1]), bad)


def read_faces(
    source: str,
    resolution: int,
    limit: int = 0,
    framing: Framing | None = None,
    eyes: str = "eyes",
    mouth: str = "mouth",
) -> Photos:
    """Labelled face photos, aligned (`pipelines.project`); those without two eyes and a mouth are skipped.

    Raises DataError where not one can be aligned.
    """
    data = open_labelled(source, None, limit=limit)
    chosen, skipped = alignable(data, eyes, mouth)
    if not chosen:
        raise DataError(f"{source}: no photo can be aligned, e.g. {skipped[0][0]}: {skipped[0][1]}", "use --align none")
    aligned = align_photos(data, chosen, resolution, eyes, mouth, framing)
    bad = (*((name, reason) for name, reason in data.report.bad), *skipped)
    return Photos(aligned.names, aligned.images, aligned.valid, bad, aligned.masks, aligned.labels, aligned.framing)


def read_by_template(
    source: str,
    resolution: int,
    template: Template,
    network: FeatureNetwork,
    limit: int = 0,
    framing: Framing | None = None,
) -> Photos:
    """Photos aligned without labels (`nn.template_alignment`); masks come along where there are any.

    Args:
        framing: of a generator that is framed already; None: the mean of these photos.
    """
    pictures, masks, names, labels, bad = _read(source, limit)
    squares = [template.locate(network, signed(picture))[0] for picture in pictures]
    framing = framing or mean_framing(squares, [(picture.shape[0], picture.shape[1]) for picture in pictures])
    views = [
        aligned(picture, mask, square, framing, resolution)
        for picture, mask, square in zip(pictures, masks, squares, strict=True)
    ]
    images, valid, classes = (torch.cat(column) for column in zip(*views, strict=True))
    kept = None if labels is None else classes[:, 0].to(torch.uint8).numpy()
    return Photos(names, images, valid, bad, kept, None if labels is None else replace(labels, void=VOID), framing)


def _read(
    source: str, limit: int
) -> tuple[list[Picture], list[Mask | None], tuple[str, ...], LabelSpace | None, tuple[tuple[str, str], ...]]:
    """Pictures at their own sizes, their masks or Nones, names, classes, and (name, reason) of the bad ones."""
    if is_labelled(source):
        labelled = open_labelled(source, None, limit=limit)
        pairs = [labelled.read(i) for i in range(len(labelled))]
        masks: list[Mask | None] = [mask for _, mask in pairs]
        bad = tuple((name, reason) for name, reason in labelled.report.bad)
        return [picture for picture, _ in pairs], masks, tuple(labelled.names), labelled.labels, bad
    plain = open_pictures(source, CHECKED_AT, limit=limit)
    pictures = [plain.original(i) for i in range(len(plain))]
    bad = tuple((name, reason) for name, reason in plain.report.bad)
    return pictures, [None] * len(pictures), tuple(plain.names), None, bad


def alignable(data: LabelledSet, eyes: str, mouth: str) -> tuple[list[int], list[tuple[str, str]]]:
    """Positions of photos that `align_photos` takes, and (name, reason) of the others."""
    if absent := [name for name in (eyes, mouth) if name not in data.labels.names]:
        raise DataError(f"there is no class '{absent[0]}' to align by", f"use two of {list(data.labels.names)}")
    index = data.labels.names.index
    chosen, skipped = [], []
    for i, name in enumerate(data.names):
        try:
            face_square(data.read(i)[1], index(eyes), index(mouth), name)
            chosen.append(i)
        except DataError as error:
            skipped.append((name, error.message.removeprefix(f"{name}: ")))
    return chosen, skipped


def is_labelled(source: str) -> bool:
    """Whether the source has masks by its form: the toy set, or a folder with masks/."""
    address = parse_source(source)
    if address.toy:
        return True
    return not address.is_table and bool(
        list(object_store.list_files(object_store.join(address.place, "masks"), ".png"))
    )


def _signed(pictures: list[NDArray[np.uint8]]) -> Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
