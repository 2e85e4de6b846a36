"""Projection finds codes, masks count, batches do not mix; VGG-16 where its weights are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raygseg.errors import DataError, MissingEnvironmentError
from raygseg.interfaces import FeatureLayer, Rendering
from raygseg.nn.backbones.vgg16 import VGG16Features, load_vgg16
from raygseg.nn.projection import PerceptualDistance, ProjectionPlan, masked_mean, project, reconstruct
from raygseg.seeding import torch_rng

DATA = os.environ.get("RAYGSEG_DATA", "")
WEIGHTS = Path(DATA, "weights", "vgg16_features.safetensors")


class Painter(nn.Module):
    """A small smooth generator: two modulated steps, no noise."""

    resolution, num_ws, w_dim = 16, 2, 6
    feature_layers = (FeatureLayer("coarse", 4, 8),)

    def __init__(self) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(1)
        self.coarse = torch.randn(self.w_dim, 4 * 8 * 8, generator=rng)
        self.colour = torch.randn(self.w_dim, 3 * 4, generator=rng)

    def latents(self, seeds: Sequence[int], truncation_psi: float = 1.0) -> Tensor:
        w = torch.stack([torch.randn(self.w_dim, generator=torch_rng(s, "latent")) for s in seeds])
        return (truncation_psi * w)[:, None].expand(-1, self.num_ws, -1)

    def render(self, ws: Tensor, noise_seeds: Sequence[int] | None = None, layers: Sequence[str] = ()) -> Rendering:
        maps = torch.tanh(ws[:, 0] @ self.coarse / 3).view(-1, 4, 8, 8)
        mix = (ws[:, 1] @ self.colour / 3).view(-1, 3, 4)
        picture = torch.einsum("nkc,nchw->nkhw", mix, maps)
        return Rendering(F.interpolate(picture, scale_factor=2.0, mode="bilinear"), {"coarse": maps})


class Edges(nn.Module):
    """Two fixed feature maps."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = torch.randn(8, 3, 3, 3, generator=torch.Generator().manual_seed(2))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        fine = F.leaky_relu(F.conv2d(images, self.kernel, padding=1))
        return {"fine": fine, "coarse": F.avg_pool2d(fine, 2)}


PLAN = ProjectionPlan(steps=80, lr=0.2)


def test_it_finds_the_generators_own_pictures_again() -> None:
    generator, distance = Painter(), PerceptualDistance(Edges())
    images = generator.render(generator.latents([3, 4])).images
    start = generator.render(generator.latents([0, 0], 0.0)).images
    found = project(generator, distance, images, plan=PLAN)
    assert found.ws.shape == (2, 2, 6)
    before = masked_mean((start - images).square(), torch.ones(2, 1, 16, 16))
    assert (found.squared_errors < 0.3 * before).all()
    torch.testing.assert_close(reconstruct(generator, found.ws, count=1), generator.render(found.ws).images)


def test_a_batch_gives_what_its_pictures_give_alone() -> None:
    generator, distance = Painter(), PerceptualDistance(Edges())
    images = generator.render(generator.latents([3, 4, 5])).images
    valid = torch.ones(3, 1, 16, 16)
    valid[1, :, :, :7] = 0
    plan = ProjectionPlan(steps=15)
    together = project(generator, distance, images, valid, plan).ws
    for i in range(3):
        alone = project(generator, distance, images[i : i + 1], valid[i : i + 1], plan).ws
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-4, rtol=1e-4)


def test_pixels_out_of_the_frame_do_not_count() -> None:
    generator, distance = Painter(), PerceptualDistance(nn.Identity())
    distance.network = lambda images: {"pixels": images}  # no receptive field beyond the pixel
    images = generator.render(generator.latents([3])).images
    valid = torch.ones(1, 1, 16, 16)
    valid[..., 10:] = 0
    spoiled = torch.where(valid > 0, images, torch.full_like(images, 3.0))
    plan = ProjectionPlan(steps=10)
    clean = project(generator, distance, images, valid, plan).ws
    torch.testing.assert_close(project(generator, distance, spoiled, valid, plan).ws, clean)
    assert not torch.allclose(project(generator, distance, spoiled, None, plan).ws, clean, atol=1e-3)


def test_faults_are_named() -> None:
    generator, distance = Painter(), PerceptualDistance(Edges())
    with pytest.raises(DataError, match="16 px"):
        project(generator, distance, torch.zeros(1, 3, 8, 8))
    with pytest.raises(DataError, match="picture 1 has no valid pixel"):
        valid = torch.stack([torch.ones(1, 16, 16), torch.zeros(1, 16, 16)])
        project(generator, distance, torch.zeros(2, 3, 16, 16), valid)
    with pytest.raises(MissingEnvironmentError, match="vgg"):
        load_vgg16("no/vgg.safetensors")


def test_vgg_maps_have_the_stated_sizes() -> None:
    network = VGG16Features(depth=3, resolution=32)
    maps = network(torch.zeros(1, 3, 32, 32))
    assert {name: tuple(m.shape[1:]) for name, m in maps.items()} == {
        layer.name: (layer.channels, layer.resolution, layer.resolution) for layer in network.feature_layers
    }
    assert [layer.channels for layer in network.feature_layers] == [64, 128, 256]


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="the VGG-16 weights are not there (RAYGSEG_DATA)")
def test_vgg_distance_sees_blur_more_than_a_change_of_brightness() -> None:
    from PIL import Image

    file = next(Path(DATA, "faces", "frontal", "images").glob("*.jpg"))
    picture = Image.open(file).convert("RGB").resize((64, 64))
    image = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
    distance = PerceptualDistance(load_vgg16(WEIGHTS, depth=4))
    blurred = F.avg_pool2d(F.pad(image, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    brighter = image + (blurred - image).square().mean().sqrt()  # the same squared error
    with torch.no_grad():
        target, valid = distance.describe(image), torch.ones(1, 1, 64, 64)
        assert distance.between(image, target, valid).item() == pytest.approx(0, abs=1e-6)
        assert distance.between(blurred, target, valid) > 2 * distance.between(brighter, target, valid)
