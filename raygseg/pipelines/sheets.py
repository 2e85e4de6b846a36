"""Pictures to judge a generator by: a grid, what truncation does, the way from one picture to the next."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from raygseg.data import object_store
from raygseg.errors import ConfigError
from raygseg.interfaces import Generator

if TYPE_CHECKING:
    from torch import Tensor

    from raygseg.viz.grids import Canvas

PSIS = (0.0, 0.3, 0.5, 0.7, 0.85, 1.0)
FRAMES = 8  # from one picture to the next
LARGEST_BATCH = 32
PIXELS_A_PASS = 1 << 20
SHEET_PIXELS = 4096  # a side; larger pictures are shrunk to fit


def draw_sheet(
    generator: str | Generator, sheet: str, output: str, *, count: int = 0, seed: int = 0, truncation_psi: float = 1.0
) -> str:
    """Write one PNG and return its place.

    Args:
        generator: bundle (folder, s3://, models:/NAME@alias), checkpoint, or a generator.
        sheet: grid: `count` pictures (64). truncation: `count` pictures (6), each under psi from 0 to 1.
            interpolation: the way in W through `count` pictures (6) and back to the first.
        output: file.png, or a folder for SHEET.png; on disk or s3://.
        seed: the first picture's; the others follow.

    Raises ConfigError for another kind of sheet.
    """
    if sheet not in SHEETS:
        raise ConfigError(f"there is no sheet '{sheet}'", f"use one of: {', '.join(SHEETS)}")
    from raygseg.viz.grids import png_bytes

    if isinstance(generator, str):
        from raygseg.pipelines.kinds import load_generator

        generator = load_generator(generator)
    draw, usual = SHEETS[sheet]
    seeds = range(seed, seed + (count or usual))
    place = output if output.endswith(".png") else object_store.join(output, f"{sheet}.png")
    object_store.write_bytes(place, png_bytes(draw(generator, seeds, truncation_psi)))
    return place


def grid(generator: Generator, seeds: Sequence[int], truncation_psi: float) -> Canvas:
    """About square, in the order of the seeds."""
    from raygseg.viz.grids import picture_grid

    pictures = _render(generator, generator.latents(seeds, truncation_psi), seeds)
    return picture_grid(_fitting(pictures, int(np.ceil(np.sqrt(len(pictures))))))


def truncation(generator: Generator, seeds: Sequence[int], truncation_psi: float) -> Canvas:
    """A row a seed, a column a psi (times `truncation_psi`): from the average picture to full variety."""
    from raygseg.viz.grids import PAPER, picture_grid, write_text

    columns = [generator.latents(seeds, psi * truncation_psi) for psi in PSIS]
    cells = [
        picture
        for row in range(len(seeds))
        for picture in _render(generator, _stacked([c[row] for c in columns]), [seeds[row]] * len(PSIS))
    ]
    body = picture_grid(_fitting(cells, len(PSIS)), columns=len(PSIS))
    head = np.full((20, body.shape[1], 3), PAPER, np.uint8)
    for i, psi in enumerate(PSIS):
        head = write_text(head, f"psi {psi * truncation_psi:g}", i * (body.shape[1] + 2) // len(PSIS) + 2, 3)
    return np.concatenate([head, body])


def interpolation(generator: Generator, seeds: Sequence[int], truncation_psi: float) -> Canvas:
    """A row for each step from seed to seed, along straight lines in W; the noise stays the same."""
    from raygseg.viz.grids import picture_grid

    ws = generator.latents(seeds, truncation_psi)
    cells: list[Canvas] = []
    for a, b in itertools.pairwise([*ws, ws[0]]):
        cells += _render(generator, _stacked([a.lerp(b, i / FRAMES) for i in range(FRAMES)]), None)
    return picture_grid(_fitting(cells, FRAMES), columns=FRAMES)


Draw = Callable[[Generator, Sequence[int], float], "Canvas"]
SHEETS: dict[str, tuple[Draw, int]] = {  # how it is drawn, and how many pictures it usually has
    "grid": (grid, 64),
    "truncation": (truncation, 6),
    "interpolation": (interpolation, 6),
}


def _stacked(rows: Sequence[Tensor]) -> Tensor:
    import torch

    return torch.stack(list(rows))


def _render(generator: Generator, ws: Tensor, seeds: Sequence[int] | None) -> list[Canvas]:
    """Pictures of the codes [N, num_ws, w_dim], with each seed's noise or, without seeds, the constant noise."""
    import torch

    from raygseg.viz.grids import pictures_from_signed

    size = max(1, min(LARGEST_BATCH, PIXELS_A_PASS // generator.resolution**2))
    pictures: list[Canvas] = []
    with torch.no_grad():
        for first in range(0, len(ws), size):
            part = None if seeds is None else seeds[first : first + size]
            pictures += list(pictures_from_signed(generator.render(ws[first : first + size], part).images.cpu()))
    return pictures


def _fitting(pictures: Sequence[Canvas], columns: int) -> Sequence[Canvas]:
    """Shrunk where so many side by side would be wider than a sheet."""
    from raygseg.viz.grids import fit

    largest = SHEET_PIXELS // max(1, columns)
    return [fit(p, largest) if p.shape[1] > largest else p for p in pictures]
