"""A feature network is named, measures a distance, and is built again from what a bundle keeps of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from raygseg.errors import ConfigError
from raygseg.pipelines.feature_nets import open_features, rebuilt
from tests.unit.nn.backbones.weights_files import write_efficientnet_lite0, write_vgg16


def full_vgg16(path: Path) -> Path:
    return write_vgg16(path, depth=5)


@pytest.mark.parametrize(
    ("name", "write", "shown"),
    [("vgg16", full_vgg16, "VGG16"), ("efficientnet-lite0", write_efficientnet_lite0, "EfficientNet-Lite0")],
)
def test_a_backbone_measures_and_comes_back(
    name: str, write: Callable[[Path], Path], shown: str, tmp_path: Path
) -> None:
    net = open_features(name, resolution=32, weights=str(write(tmp_path / "weights.safetensors")))
    assert net.name == shown and not any(p.requires_grad for p in net.network.parameters())
    torch.manual_seed(0)
    one, other = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    distance, valid = net.distance(), torch.ones(2, 1, 32, 32)
    assert distance.between(one, distance.describe(one), valid).abs().max() < 1e-6
    assert (distance.between(other, distance.describe(one), valid) > 1e-3).all()
    again = rebuilt(net.build).eval()
    again.load_state_dict(net.network.state_dict())
    for layer, maps in net.network(one).items():
        assert torch.equal(again(one)[layer], maps)


def test_an_unknown_name() -> None:
    with pytest.raises(ConfigError, match="use auto or one of vgg16, efficientnet-lite0, discriminator"):
        open_features("lpips")
