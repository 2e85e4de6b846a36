"""Where an object lies on a photo is found without labels, whatever its size and place; a bundle keeps the template."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raygseg.errors import CheckpointError, ConfigError
from raygseg.interfaces import FeatureLayer, Rendering
from raygseg.nn.framing import FULL, Square, put_back, see
from raygseg.nn.template_alignment import Template, template_of

SIDE = 64


def texture(seed: int, side: int) -> Tensor:
    """[1, 3, side, side], smooth, no two places alike."""
    coarse = torch.rand(1, 3, side // 8, side // 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return F.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=False).clamp(-1, 1)


class Stamp:
    """Draws the same object in the middle of another background for every seed."""

    resolution, num_ws, w_dim, feature_layers = SIDE, 1, 1, (FeatureLayer("none", 1, 8),)

    def latents(self, seeds: Sequence[int], truncation_psi: float = 1.0) -> Tensor:
        return torch.tensor([float(seed) for seed in seeds]).view(-1, 1, 1)

    def render(self, ws: Tensor, noise_seeds: Sequence[int] | None = None, layers: Sequence[str] = ()) -> Rendering:
        pictures = torch.cat([texture(100 + int(w), SIDE) for w in ws.flatten().tolist()])
        edge = SIDE // 4
        pictures[..., edge:-edge, edge:-edge] = texture(1, SIDE)[..., edge:-edge, edge:-edge]
        return Rendering(pictures, {})


def colours(images: Tensor) -> dict[str, Tensor]:
    return {"fine": images, "cells": F.avg_pool2d(images, 4)}


@pytest.mark.parametrize(("share", "x", "y"), [(0.9, 0.0, 0.0), (0.7, 0.15, -0.1), (1.1, -0.1, 0.2)])
def test_the_object_is_found_at_its_size_and_place(share: float, x: float, y: float) -> None:
    """A photo whose side is `share` of the frame's, with the frame's middle at (x, y) of it."""
    template = template_of(Stamp(), colours)  # type: ignore[arg-type]
    scene = Stamp().render(torch.tensor([[[7.0]]])).images
    side = 120
    at = (torch.arange(side) + 0.5) / side * 2 - 1
    v, u = torch.meshgrid((at - y) * share, (at - x) * share, indexing="ij")
    photo = F.grid_sample(scene, torch.stack([u, v], -1)[None], padding_mode="reflection", align_corners=False)
    square, fit = template.locate(colours, photo)
    assert math.log(square.half / (side / 2 / share)) == pytest.approx(0, abs=0.06)
    assert (square.centre[0] / side * 2 - 1, square.centre[1] / side * 2 - 1) == pytest.approx((x, y), abs=0.04)
    assert fit > template.locate(colours, texture(55, side))[1]


def test_a_network_without_such_cells_is_refused() -> None:
    with pytest.raises(ConfigError, match="cells of 4 px"):
        template_of(Stamp(), lambda images: {"fine": images})  # type: ignore[arg-type]


def test_a_template_comes_back_from_its_tensors() -> None:
    template = template_of(Stamp(), colours)  # type: ignore[arg-type]
    again = Template.from_tensors(template.tensors(), SIDE)
    assert again.locate(colours, texture(3, 80)) == template.locate(colours, texture(3, 80))
    with pytest.raises(CheckpointError, match="'mean'"):
        Template.from_tensors({"maps": template.maps}, SIDE)


def test_what_is_seen_through_a_square_goes_back_to_its_place() -> None:
    photo = texture(9, 96)
    square = Square((50.0, 44.0), (40.0, 6.0))
    seen, valid = see(photo, square, FULL, 128)
    assert valid.mean() > 0.9
    back, near = put_back(seen, square, FULL, 96, 96)
    middle = torch.zeros(96, 96, dtype=torch.bool)
    middle[20:70, 25:75] = True
    assert (back - photo)[0, :, middle].abs().max() < 0.05
    assert near[middle].all() and near[44, 2] and not near[0, 0], "the view's edge goes on outside it, but not far"
