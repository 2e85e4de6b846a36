"""A generator whose true label maps are known: a disc and a square, placed by w, seen through mixed noisy features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from raygseg.interfaces import FeatureLayer, Rendering
from raygseg.labels import LabelSpace
from raygseg.methods.repurposegan.samples import LabelledSamples
from raygseg.seeding import torch_rng


class ShapesGenerator(nn.Module):
    """Implements `interfaces.Generator` at 32 px; classes: background, disc, square."""

    resolution, num_ws, w_dim = 32, 2, 4
    feature_layers = (
        FeatureLayer("b8.conv0", 10, 8),
        FeatureLayer("b16.conv0", 8, 16),
        FeatureLayer("b16.conv1", 8, 16),
        FeatureLayer("b32.conv0", 6, 32),
    )

    def __init__(self) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(5)
        for layer in self.feature_layers:
            mixing = torch.randn(layer.channels, 5, generator=rng)
            self.register_buffer(layer.name.replace(".", "_"), mixing)

    def latents(self, seeds: Sequence[int], truncation_psi: float = 1.0) -> Tensor:
        w = torch.stack([torch.rand(self.w_dim, generator=torch_rng(s, "latent")) for s in seeds])
        return (truncation_psi * (w - 0.5) + 0.5)[:, None].expand(-1, self.num_ws, -1)

    def distances(self, ws: Tensor, size: int) -> Tensor:
        """[N, 2, size, size]: how far a pixel lies inside the disc and inside the square."""
        at = (torch.arange(size) + 0.5) / size
        y, x = torch.meshgrid(at, at, indexing="ij")
        u = ws[:, 0, :, None, None]
        disc = 0.18 - ((x - 0.25 - 0.1 * u[:, 0]) ** 2 + (y - 0.3 - 0.4 * u[:, 1]) ** 2).sqrt()
        square = 0.16 - torch.maximum((x - 0.65 - 0.1 * u[:, 2]).abs(), (y - 0.3 - 0.4 * u[:, 3]).abs())
        return torch.stack([disc, square], 1)

    def truth(self, ws: Tensor, size: int = 32) -> Tensor:
        inside = self.distances(ws, size)
        return torch.where(inside[:, 0] > 0, 1, torch.where(inside[:, 1] > 0, 2, 0))

    def render(self, ws: Tensor, noise_seeds: Sequence[int] | None = None, layers: Sequence[str] = ()) -> Rendering:
        features = {}
        for i, layer in enumerate(self.feature_layers):
            inside = 4 * self.distances(ws, layer.resolution)
            if noise_seeds is None:
                noise = torch.zeros(len(ws), 1, layer.resolution, layer.resolution)
            else:
                shape = (1, layer.resolution, layer.resolution)
                noise = torch.stack([torch.randn(shape, generator=torch_rng(s, "noise", i)) for s in noise_seeds])
            causes = torch.cat([inside, (10 * inside).tanh(), 0.3 * noise], 1)
            maps = torch.einsum("cd,ndhw->nchw", self.get_buffer(layer.name.replace(".", "_")), causes)
            if layer.name in layers:
                features[layer.name] = functional.leaky_relu(maps, 0.2)
        image = torch.cat([(10 * self.distances(ws, 32)).tanh(), ws[:, 0, :1, None, None].expand(-1, 1, 32, 32)], 1)
        return Rendering(image, features)


@pytest.fixture
def shapes() -> ShapesGenerator:
    return ShapesGenerator().eval()


@pytest.fixture
def labels() -> LabelSpace:
    return LabelSpace(("background", "disc", "square"))


@pytest.fixture
def samples(shapes: ShapesGenerator, labels: LabelSpace) -> LabelledSamples:
    seeds = (3, 4, 5)
    masks = shapes.truth(shapes.latents(seeds)).to(torch.uint8).numpy()
    return LabelledSamples(labels, seeds, tuple(np.asarray(m) for m in masks), truncation_psi=1.0)
