"""A picture as one vector: a backbone's last maps, averaged over the picture."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raygseg.errors import ConfigError, MissingEnvironmentError
from raygseg.nn.backbones.catalogue import FILES
from raygseg.nn.backbones.vgg16 import load_vgg16

SMALLEST, LARGEST = 64, 224  # px that pictures have when a network sees them
SHOWN = {"vgg16": "VGG16"}  # as in FID-VGG16


class PooledFeatures(nn.Module):
    """VGG-16's fifth block, averaged: [N, 3, H, W] in [-1, 1] -> [N, 512] float32.

    Pictures are resized first (bilinear with antialiasing) to `side` x `side`.
    """

    dimensions = 512

    def __init__(self, weights: str | Path, side: int, precision: Literal["fp32", "bf16"] = "fp32") -> None:
        super().__init__()
        self.side = side
        self.network = load_vgg16(weights, depth=5, resolution=side, precision=precision)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        if images.shape[2:] != (self.side, self.side):
            images = F.interpolate(images, (self.side, self.side), mode="bilinear", antialias=True)
        maps: Tensor = self.network(images, ["block5"])["block5"]
        return maps.float().mean(dim=(2, 3))


def side_for(resolution: int) -> int:
    """The size at which pictures of a generator are looked at: their own, within what the networks are made for."""
    return min(max(resolution, SMALLEST), LARGEST)


def weights_file(network: str, given: str = "") -> str:
    """Where the weights of `network` are: as given, else in RAYGSEG_DATA.

    Raises ConfigError for a network that is not known, MissingEnvironmentError where there is no file.
    """
    if network not in SHOWN:
        raise ConfigError(f"features of '{network}' are not known", f"use one of: {', '.join(SHOWN)}")
    place = Path(given) if given else Path(os.environ.get("RAYGSEG_DATA", ""), "weights", FILES[network])
    if not place.is_file():
        raise MissingEnvironmentError(
            f"{place}: the weights of {network} are not there",
            "name a safetensors file with --weights, or set RAYGSEG_DATA to the folder of the data sets",
        )
    return str(place)
