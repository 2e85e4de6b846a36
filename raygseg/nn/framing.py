"""Where the generator's square lies on a photo, and which window of its picture a generator shows.

A face generator knows faces in one framing only: eyes and mouth at fixed places. A `Square` says where that
framing lies on a photo; a `Framing` is the window of the generator's picture that is shown, so that its
pictures look framed as the photos are. `see` reads a photo through both; `put_back` is the way back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SUPERSAMPLING = 2


class Patch(NamedTuple):
    """The part of the picture that a map covers, in [0, 1] of the picture's width and height."""

    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0

    def cut(self, maps: Tensor) -> Tensor:
        """This part of maps [N, C, H, W] that cover the whole picture; its edges fall on pixel edges."""
        height, width = maps.shape[-2:]
        rows = slice(round(self.top * height), round(self.bottom * height))
        columns = slice(round(self.left * width), round(self.right * width))
        # Through channels-last, so that the gradient keeps that memory format.
        return maps.permute(0, 2, 3, 1)[:, rows, columns].permute(0, 3, 1, 2)


WHOLE = Patch()


@dataclass(frozen=True)
class Framing:
    """The square window of the generator's picture that is shown, in [-1, 1] picture coordinates.

    zoom: 2 shows half the width. centre_x, centre_y: where the window's middle lies.
    """

    zoom: float = 1.0
    centre_x: float = 0.0
    centre_y: float = 0.0

    @property
    def whole(self) -> bool:
        return self == FULL

    def patch(self, margin: int, grid: int, step: int) -> Patch:
        """The window and `margin` more pixels of a grid x grid map, edges at multiples of `step` pixels."""

        def edge(centre: float, side: int) -> float:
            at = ((centre + side / self.zoom + 1) / 2 * grid + side * margin) / step
            return min(max(step * (math.floor(at) if side < 0 else math.ceil(at)), 0), grid) / grid

        x, y = self.centre_x, self.centre_y
        return Patch(edge(x, -1), edge(y, -1), edge(x, 1), edge(y, 1))

    def crop(self, maps: Tensor, size: int, patch: Patch = WHOLE) -> Tensor:
        """Maps [N, C, H, W] that cover `patch` -> the window as [N, C, size, size], bilinear."""
        spans = ((patch.left, patch.right, self.centre_x), (patch.top, patch.bottom, self.centre_y))
        rows = []
        for axis, (low, high, centre) in enumerate(spans):
            extent = high - low
            row = [0.0, 0.0, (centre + 1 - low - high) / extent]
            row[axis] = 1 / (self.zoom * extent)
            rows.append(row)
        theta = maps.new_tensor(rows).expand(len(maps), 2, 3)
        grid = F.affine_grid(theta, [len(maps), maps.shape[1], size, size], align_corners=False)
        return F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)


@dataclass(frozen=True)
class Square:
    """The generator's square on a photo: point (u, v) of its [-1, 1] coordinates lies at centre + u X + v Y.

    centre, x: pixels of the photo. Y is X turned by 90 degrees, downwards.
    """

    centre: tuple[float, float]
    x: tuple[float, float]

    @property
    def y(self) -> tuple[float, float]:
        return (-self.x[1], self.x[0])

    @property
    def half(self) -> float:
        """Half the square's side in pixels."""
        return math.hypot(*self.x)

    def inside(self, point: tuple[float, float]) -> tuple[float, float]:
        """Square coordinates of a photo's pixel position."""
        dx, dy = point[0] - self.centre[0], point[1] - self.centre[1]
        along, down = dx * self.x[0] + dy * self.x[1], dx * self.y[0] + dy * self.y[1]
        return along / self.half**2, down / self.half**2


FULL = Framing()  # the whole picture
EDGE_GOES_ON = 0.25  # of half the view's side: farther out, its edge says nothing of the photo


def mean_framing(squares: Sequence[Square], sizes: Sequence[tuple[int, int]]) -> Framing:
    """The window of the generator's picture that photos of (height, width) show on average."""
    centres = [s.inside((w / 2, h / 2)) for s, (h, w) in zip(squares, sizes, strict=True)]
    halves = [min(h, w) / 2 / s.half for s, (h, w) in zip(squares, sizes, strict=True)]
    x, y = (sum(values) / len(values) for values in zip(*centres, strict=True))
    return Framing(len(halves) / sum(halves), x, y)


def view(maps: Tensor, square: Square, framing: Framing, size: int, mode: str = "bilinear") -> Tensor:
    """[1, C, H, W] maps of a photo as the framed generator would show them, [1, C, size, size]; 0 outside."""
    height, width = maps.shape[-2:]
    at = (torch.arange(size) + 0.5) / size * 2 - 1
    v, u = torch.meshgrid(framing.centre_y + at / framing.zoom, framing.centre_x + at / framing.zoom, indexing="ij")
    columns = square.centre[0] + u * square.x[0] + v * square.y[0]
    rows = square.centre[1] + u * square.x[1] + v * square.y[1]
    grid = torch.stack([columns * 2 / width - 1, rows * 2 / height - 1], dim=-1)[None]
    return F.grid_sample(maps, grid, mode=mode, padding_mode="zeros", align_corners=False)


def see(photo: Tensor, square: Square, framing: Framing, size: int) -> tuple[Tensor, Tensor]:
    """A photo [1, C, H, W] as the framed generator would show it, [1, C, size, size], and where it reaches.

    The second is [1, 1, size, size]: 1 where the whole pixel lies on the photo, else 0.
    """
    fine = SUPERSAMPLING * size
    image = F.avg_pool2d(view(photo, square, framing, fine), SUPERSAMPLING)
    reached = F.avg_pool2d(view(torch.ones_like(photo[:, :1]), square, framing, fine), SUPERSAMPLING)
    return image, (reached > 1 - 1e-4).float()


def put_back(maps: Tensor, square: Square, framing: Framing, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Maps [1, C, S, S] of the framed view -> [1, C, height, width] of the photo, and where they say something.

    The second is bool [height, width]: the view's edge goes on outside it, but not far (EDGE_GOES_ON).
    """
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    dx, dy = columns - square.centre[0], rows - square.centre[1]
    u = (dx * square.x[0] + dy * square.x[1]) / square.half**2
    v = (dx * square.y[0] + dy * square.y[1]) / square.half**2
    grid = torch.stack([(u - framing.centre_x) * framing.zoom, (v - framing.centre_y) * framing.zoom], dim=-1)[None]
    near = (grid[0].abs() <= 1 + EDGE_GOES_ON).all(-1)
    return F.grid_sample(maps, grid.to(maps), mode="bilinear", padding_mode="border", align_corners=False), near
