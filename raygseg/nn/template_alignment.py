"""Where the generator's object lies on a photo, found without labels by what its own pictures have in common.

The template is the mean of unit-length feature maps over generated pictures, centred by channel, cut to the
middle of the frame, where the object is. A photo is read at many sizes; at each, the template slides over its
centred features, and the best sum of products says how large the photo is in the generator's frame and where.
Between sizes and cells the peak is that of the parabola through its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from raygseg.errors import CheckpointError, ConfigError
from raygseg.interfaces import Generator
from raygseg.nn.framing import Square
from raygseg.nn.projection import FeatureNetwork

WINDOW = 0.5  # of the frame's side: the template
CELL = 4  # px of a cell of the maps that are compared
TRUNCATION = 0.7  # of the pictures that make the template: near the mean, where the parts lie alike
SAMPLES, BATCH = 16, 8
LARGEST, SMALLEST, RATIO = 1.3, 0.45, 1.08  # a photo's side as a share of the frame's; between neighbouring sizes
FLOOR = 1e-6


@dataclass(frozen=True)
class Template:
    """maps: [1, C, n, n] centred features of the frame's middle. mean: [1, C, 1, 1]. resolution: px of the frame."""

    maps: Tensor
    mean: Tensor
    resolution: int

    def locate(self, network: FeatureNetwork, photo: Tensor) -> tuple[Square, float]:
        """The generator's square on a photo [1, 3, H, W] in [-1, 1], and how well the template fits there.

        The fit is the sum of products a cell. The square may reach outside the photo.
        """
        height, width = photo.shape[-2:]
        tried = list(self._fits(network, photo))
        best = max(range(len(tried)), key=lambda i: float(tried[i][1].max()))
        side, fits = tried[best]
        row, column = divmod(int(fits.flatten().argmax()), fits.shape[1])
        peaks = [math.log(float(fit.max().clamp_min(FLOOR))) for _, fit in tried]
        side *= RATIO ** -_summit(peaks, best)
        fine_row = row + _summit(fits[:, column].tolist(), row)
        fine_column = column + _summit(fits[row].tolist(), column)
        # A fit at (r, c) is of the template's middle on the edge before cell (r, c); cells cover the photo.
        rows, columns = fits.shape[0] - 1, fits.shape[1] - 1
        centre = (fine_column / columns * width, fine_row / rows * height)
        half = min(height, width) / side * self.resolution / 2
        return Square(centre, (half, 0.0)), float(fits.max()) / self.maps[0, 0].numel()

    @torch.no_grad()
    def _fits(self, network: FeatureNetwork, photo: Tensor) -> Iterator[tuple[float, Tensor]]:
        """For each size of the photo: its shorter side in px of the frame, and the fit [rows + 1, columns + 1]."""
        height, width = photo.shape[-2:]
        reach = self.maps.shape[-1] // 2
        side = LARGEST * self.resolution
        while side >= SMALLEST * self.resolution:
            scale = side / min(height, width)
            size = [max(2 * CELL, CELL * round(edge * scale / CELL)) for edge in (height, width)]
            resized = F.interpolate(photo, size=size, mode="bilinear", align_corners=False, antialias=True)
            maps = _compared(network(resized), size[0]) - self.mean
            yield side, F.conv2d(F.pad(maps, [reach] * 4), self.maps)[0, 0]
            side /= RATIO

    def tensors(self) -> dict[str, Tensor]:
        """For a bundle; `from_tensors` undoes it."""
        return {"maps": self.maps, "mean": self.mean}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], resolution: int) -> Template:
        """CheckpointError where one is missing."""
        try:
            return cls(tensors["maps"], tensors["mean"], resolution)
        except KeyError as error:
            raise CheckpointError(f"the template lacks its {error}", "pull the bundle again") from error


@torch.no_grad()
def template_of(generator: Generator, network: FeatureNetwork) -> Template:
    """The template of a generator that shows its whole frame.

    Raises ConfigError where the network has no maps with cells of 4 px.
    """
    size = generator.resolution
    parts = []
    for first in range(0, SAMPLES, BATCH):
        ws = generator.latents(range(first, first + BATCH), TRUNCATION)
        parts.append(_compared(network(generator.render(ws).images.clamp(-1, 1)), size))
    maps = torch.cat(parts)
    mean = maps.mean((0, 2, 3), keepdim=True)
    cells = size // CELL
    edge = round(cells * (1 - WINDOW) / 2)
    middle = (maps - mean).mean(0, keepdim=True)[..., edge : cells - edge, edge : cells - edge]
    return Template(middle.contiguous(), mean, size)


def _compared(maps: Mapping[str, Any], height: int) -> Tensor:
    """Unit-length features of the maps with cells of 4 px."""
    for found in maps.values():
        if found.shape[-2] == height // CELL:
            return F.normalize(found.float(), dim=1, eps=FLOOR)
    raise ConfigError("the feature network has no maps with cells of 4 px", "use vgg16 or efficientnet-lite0")


def _summit(values: list[float], at: int) -> float:
    """Where, from -0.5 to 0.5 beside `at`, the parabola through three neighbours has its summit."""
    if not 0 < at < len(values) - 1:
        return 0.0
    before, here, after = values[at - 1 : at + 2]
    bend = before - 2 * here + after
    return 0.0 if bend >= 0 else max(-0.5, min(0.5, 0.5 * (before - after) / bend))
