"""Tiny episodes of coloured shapes and a small encoder, for tests of PANet that learn something in seconds."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raygseg.config.panet import PanetConfig
from raygseg.methods.panet.network import PrototypeNetwork
from raygseg.methods.panet.training import EpisodeStream, PanetRecipe
from raygseg.seeding import numpy_rng

R = 32
COLOURS = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200], [200, 200, 60]], dtype=np.int64)


class SmallEncoder(nn.Module):
    """Two convolutions at stride 4, signed."""

    title, channels, stride, precision = "small", 8, 4, "fp32"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.first = nn.Conv2d(3, 8, 3, 2, 1)
        self.second = nn.Conv2d(8, 8, 3, 2, 1)

    @property
    def parts(self) -> list[nn.Module]:
        return [self.first, self.second]

    def forward(self, images: Tensor) -> Tensor:
        return self.back(self.front(images, 0), 0)

    def front(self, images: Tensor, parts: int) -> Tensor:
        return torch.relu(self.first(images)) if parts else images

    def back(self, x: Tensor, parts: int) -> Tensor:
        maps: Tensor = self.second(x if parts else self.front(x, 1))
        return maps


def shape_picture(colour: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A square of one colour on grey noise, and where it is: uint8 [R, R, 3], [R, R]."""
    mask = np.zeros((R, R), np.uint8)
    y, x = rng.integers(2, R // 2, 2)
    mask[y : y + 12, x : x + 12] = 1
    picture = rng.integers(90, 150, (R, R, 3))
    picture[mask == 1] = COLOURS[colour] + rng.integers(-20, 20, (int(mask.sum()), 3))
    return picture.clip(0, 255).astype(np.uint8), mask


class ShapeEpisodes:
    """One-way episodes; the class of number n and its pictures follow from n."""

    classes = ("red", "green", "blue", "yellow")

    def __init__(self, shots: int = 1) -> None:
        self.shots = shots

    def episode(self, number: int) -> dict[str, NDArray[np.uint8]]:
        rng = numpy_rng(0, "shapes", number)
        colour = int(rng.integers(len(self.classes)))
        rows = [shape_picture(colour, rng) for _ in range(self.shots + 1)]
        images = np.stack([picture.transpose(2, 0, 1) for picture, _ in rows])
        masks = np.stack([mask for _, mask in rows])
        return {
            "support_images": images[None, :-1],
            "fore": masks[None, :-1],
            "back": 1 - masks[None, :-1],
            "query_images": images[-1:],
            "query_labels": masks[-1:],
        }

    def identity(self) -> str:
        return "shapes"


def configure(**more: Any) -> PanetConfig:
    values: dict[str, Any] = {
        "name": "t",
        "data": "unused",
        "resolution": R,
        "schedule": {"total_kimg": 0.1, "batch_size": 4, "micro_batch": 2},
        "optimiser": {"lr": 0.02, "lr_step_kimg": 100},
    }
    return PanetConfig.model_validate(values | more)


def small_network() -> PrototypeNetwork:
    return PrototypeNetwork("vgg16", SmallEncoder())


def shapes() -> tuple[PanetRecipe, EpisodeStream]:
    """For runs in several processes: the recipe and its stream."""
    return PanetRecipe(configure(), "cpu", small_network()), EpisodeStream(ShapeEpisodes())
