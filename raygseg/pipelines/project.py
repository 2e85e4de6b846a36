"""Labelled photos become labelled samples of a generator: align, project to w+, keep the masks.

A face generator knows faces in one framing only: eyes and mouth at fixed places. The photos are therefore
read through the square that FFHQ's alignment rule draws around labelled eyes and mouth, and the generator
through the mean window (`Framing`) that the photos show of that square, so that pairs drawn later look
framed as the photos are. What lies outside a photo is void.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from raygseg.errors import DataError
from raygseg.interfaces import Generator
from raygseg.labels import LabelSpace
from raygseg.nn.framing import Framing, Square, mean_framing, see, view
from raygseg.nn.projection import PerceptualDistance, Projection, ProjectionPlan, reconstruct
from raygseg.pipelines.projection_store import BATCH, NOISE, Progress, project_pictures

if TYPE_CHECKING:
    from raygseg.data.sources import LabelledSet

VOID = 255
EYE_GAP = 0.2  # of the eyes' extent: the least that lies between two eyes; within one there is no gap
CODES = "codes.safetensors"
Mask = NDArray[np.uint8]


def face_square(mask: Mask, eyes: int, mouth: int, name: str = "mask") -> Square:
    """FFHQ's alignment rule on labelled parts: centres of the two eyes and of the mouth fix square and turn.

    With e the vector between the eyes, m from their middle to the mouth: X is along e - turn90(m), half
    as long as the side: max(2 |e|, 1.8 |m|); the centre is the eyes' middle + 0.1 m.

    Raises DataError naming the picture where a part is missing or only one eye is seen.
    """
    hint = "label both eyes and the mouth, or leave this photo out"
    eye_pixels, mouth_pixels = (np.argwhere(mask == part)[:, ::-1] + 0.5 for part in (eyes, mouth))
    if len(eye_pixels) == 0 or len(mouth_pixels) == 0:
        raise DataError(f"{name}: eyes or mouth are not labelled, the face cannot be aligned", hint)
    down = mouth_pixels.mean(0) - eye_pixels.mean(0)
    across = eye_pixels @ np.array([down[1], -down[0]]) / np.hypot(*down)
    along = np.sort(across)
    gap = int(np.argmax(np.diff(along))) if len(along) > 1 else 0
    if len(along) < 2 or along[gap + 1] - along[gap] < EYE_GAP * (along[-1] - along[0]):
        raise DataError(f"{name}: only one eye is labelled, the face cannot be aligned", hint)
    first, second = eye_pixels[across <= along[gap]].mean(0), eye_pixels[across > along[gap]].mean(0)
    middle = (first + second) / 2
    e, m = second - first, mouth_pixels.mean(0) - middle
    direction = e + np.array([m[1], -m[0]])
    x = direction / np.hypot(*direction) * max(2.0 * np.hypot(*e), 1.8 * np.hypot(*m))
    centre = middle + 0.1 * m
    return Square((float(centre[0]), float(centre[1])), (float(x[0]), float(x[1])))


@dataclass(frozen=True)
class AlignedPhotos:
    """k photos as the framed generator would show them.

    images: [k, 3, R, R] in [-1, 1], valid: [k, 1, R, R] 0 or 1, masks: [k, R, R] uint8 with void 255.
    """

    names: tuple[str, ...]
    labels: LabelSpace
    framing: Framing
    images: Tensor
    valid: Tensor
    masks: Mask


def align_photos(
    data: LabelledSet,
    chosen: Sequence[int],
    resolution: int,
    eyes: str = "eyes",
    mouth: str = "mouth",
    framing: Framing | None = None,
) -> AlignedPhotos:
    """Read the chosen photos and align them; see `face_square` and `mean_framing`.

    Args:
        data: at their own sizes (`open_labelled(source, None)`).
        chosen: positions in `data`.
        resolution: of the framed generator's picture.
        eyes, mouth: names of the classes that fix the alignment.
        framing: of a generator that is framed already; None: the mean of these photos.
    """
    for name in (eyes, mouth):
        if name not in data.labels.names:
            raise DataError(f"there is no class '{name}' to align by", f"use two of {list(data.labels.names)}")
    names = tuple(data.names[i] for i in chosen)
    read = [data.read(i) for i in chosen]
    index = data.labels.names.index
    squares = [face_square(mask, index(eyes), index(mouth), name) for name, (_, mask) in zip(names, read, strict=True)]
    framing = framing or mean_framing(squares, [(mask.shape[0], mask.shape[1]) for _, mask in read])
    views = [
        aligned(picture, mask, square, framing, resolution)
        for (picture, mask), square in zip(read, squares, strict=True)
    ]
    images, valid, masks = (torch.cat(column) for column in zip(*views, strict=True))
    labels = replace(data.labels, void=VOID)
    return AlignedPhotos(names, labels, framing, images, valid, masks[:, 0].to(torch.uint8).numpy())


def aligned(
    picture: NDArray[np.uint8], mask: Mask | None, square: Square, framing: Framing, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """One photo in the generator's frame: image [1, 3, R, R], valid [1, 1, R, R], classes with void [1, 1, R, R]."""
    image, valid = see(signed(picture), square, framing, size)
    if mask is None:
        return image, valid, torch.full_like(valid, VOID)
    nearest = view(torch.from_numpy(mask.astype(np.float32))[None, None], square, framing, size, "nearest")
    return image, valid, torch.where(valid > 0, nearest, VOID)


def signed(picture: NDArray[np.uint8]) -> Tensor:
    """uint8 [H, W, 3] -> [1, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


def project_photos(
    photos: AlignedPhotos,
    generator: Generator,
    distance: PerceptualDistance,
    folder: str | Path,
    plan: ProjectionPlan,
    batch: int = BATCH,
    progress: Progress | None = None,
) -> Projection:
    """Project and write a folder of labelled samples that `train head` reads, with the codes beside the masks.

    Writes what `write_projected_samples` does. A picture that is done is kept in parts/ and not projected again.
    """
    found = project_pictures(
        generator, distance, photos.images, photos.valid, folder, plan, batch=batch, progress=progress
    )
    pictures = reconstruct(generator, found.ws, noise=found.noise)
    write_projected_samples(folder, photos, found, pictures, distance.name)
    return found


def write_projected_samples(
    folder: str | Path, photos: AlignedPhotos, found: Projection, pictures: Tensor, features: str = ""
) -> None:
    """The samples folder of projected photos; sample I is photo number I.

    Writes labels.json, samples.json, masks/I.png, images/I.png (the generator's picture), photos/I.png and
    codes.safetensors: `ws` and the found noise maps, so that features come from the picture's own forward pass.
    """
    from PIL import Image

    place = Path(folder)
    for part in ("masks", "images", "photos"):
        (place / part).mkdir(parents=True, exist_ok=True)
    for i, mask in enumerate(photos.masks):
        Image.fromarray(mask).save(place / "masks" / f"{i}.png")
    for i in range(len(photos.names)):
        for part, image in (("images", pictures[i]), ("photos", photos.images[i])):
            shown = ((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
            Image.fromarray(shown).save(place / part / f"{i}.png")
    photos.labels.save(place / "labels.json")
    codes = {"ws": found.ws.contiguous(), **{f"{NOISE}{i}": maps.contiguous() for i, maps in found.noise.items()}}
    save_file(codes, place / CODES)
    record = {
        "codes": CODES,
        "features": features,
        "photos": list(photos.names),
        "distances": [round(float(d), 5) for d in found.distances],
        "squared_errors": [round(float(e), 5) for e in found.squared_errors],
    }
    (place / "samples.json").write_text(json.dumps(record, indent=1) + "\n")
