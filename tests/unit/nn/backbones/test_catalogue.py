"""Backbones by name: opened as deep as asked, and found again by the checksum of their weights."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from raygseg.errors import CheckpointError, ConfigError, MissingEnvironmentError
from raygseg.nn.backbones.catalogue import (
    FILES,
    FrozenTrunk,
    open_backbone,
    recorded_weights,
    weights_place,
    weights_record,
)
from raygseg.nn.hypercolumn import FusedHypercolumn
from tests.unit.nn.backbones.weights_files import write_efficientnet_lite0, write_vgg16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with both files under weights/."""
    place = tmp_path_factory.mktemp("data")
    (place / "weights").mkdir()
    write_efficientnet_lite0(place / "weights" / FILES["efficientnet-lite0"], depth=3)
    write_vgg16(place / "weights" / FILES["vgg16"])
    return place


@pytest.fixture
def data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYGSEG_DATA", str(folder))
    return folder


@pytest.mark.parametrize(
    ("name", "layers"), [("vgg16", ["block1", "block2"]), ("efficientnet-lite0", ["stride2", "stride8"])]
)
def test_stated_layers_are_the_maps(data: Path, name: str, layers: list[str]) -> None:
    backbone = open_backbone(name, resolution=32, layers=layers)
    maps = backbone(torch.randn(1, 3, 32, 32), layers)
    assert list(maps) == layers
    stated = {layer.name: layer for layer in backbone.feature_layers}
    assert list(stated)[-1] == layers[-1]  # no deeper than asked
    for layer in layers:
        assert maps[layer].shape[1:] == (stated[layer].channels, stated[layer].resolution, stated[layer].resolution)
    assert not any(p.requires_grad for p in backbone.parameters())  # type: ignore[attr-defined]
    assert backbone.title in ("VGG-16", "EfficientNet-Lite0")


def test_a_path_wins_over_the_environment(data: Path, tmp_path: Path) -> None:
    other = write_vgg16(tmp_path / "other.safetensors", depth=1, seed=5)
    image = torch.randn(1, 3, 8, 8)
    ours, theirs = (open_backbone("vgg16", path, 8, layers=["block1"])(image)["block1"] for path in (other, ""))
    assert not torch.equal(ours, theirs)


def test_what_is_not_known_is_said(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no backbone 'resnet'"):
        open_backbone("resnet")
    with pytest.raises(ConfigError, match="vgg16 has no layer 'stride2'"):
        open_backbone("vgg16", layers=["stride2"])
    with pytest.raises(ConfigError, match="transformers needs the folder"):
        weights_place("transformers")
    monkeypatch.delenv("RAYGSEG_DATA")
    with pytest.raises(MissingEnvironmentError, match="RAYGSEG_DATA is not set"):
        open_backbone("vgg16")


@pytest.mark.parametrize("name", ["vgg16", "efficientnet-lite0"])
def test_a_fused_hypercolumn_of_its_maps_equals_the_explicit_one(data: Path, name: str) -> None:
    layers = ["block1", "block2"] if name == "vgg16" else ["stride2", "stride4", "stride8"]
    backbone = open_backbone(name, resolution=32, layers=layers)
    maps = backbone(torch.randn(2, 3, 32, 32))
    torch.manual_seed(0)
    fused = FusedHypercolumn(backbone.feature_layers, width=4, resolution=32, corners=False)
    stack = [functional.interpolate(maps[x.name], 32, mode="bilinear") for x in backbone.feature_layers]
    explicit = functional.conv2d(torch.cat(stack, 1), fused.weight[:, :, None, None], fused.bias)
    assert torch.allclose(fused(maps), explicit, rtol=1e-4, atol=1e-4 * float(explicit.detach().abs().max()))


def test_weights_are_found_again_by_their_checksum(data: Path, tmp_path: Path) -> None:
    own = tmp_path / "mine.safetensors"
    shutil.copy(data / "weights" / FILES["vgg16"], own)
    record = weights_record("vgg16", own)
    assert recorded_weights(record) == own
    own.unlink()  # the same file in the data folder stands in
    assert recorded_weights(record) == data / "weights" / FILES["vgg16"]
    assert recorded_weights(weights_record("vgg16")) == data / "weights" / FILES["vgg16"]


def test_other_or_missing_weights_are_refused(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = weights_record("vgg16") | {"sha256": "0" * 64}
    with pytest.raises(CheckpointError, match="not the vgg16 weights that this model was trained with"):
        recorded_weights(record)
    monkeypatch.setenv("RAYGSEG_DATA", str(tmp_path))
    with pytest.raises(MissingEnvironmentError, match="vgg16 weights that this model reads are not at") as error:
        recorded_weights(record)
    assert "0" * 64 in error.value.hint


def test_a_frozen_trunk_is_nobodys_weights(data: Path) -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            network = open_backbone("vgg16", layers=["block1"])
            assert isinstance(network, nn.Module)
            self.trunk = FrozenTrunk(network)

    holder = Holder()
    assert not holder.state_dict() and not list(holder.parameters())
    assert copy.deepcopy(holder).trunk.network is holder.trunk.network
    maps = holder.trunk(torch.randn(1, 3, 8, 8, requires_grad=True), ["block1"])["block1"]
    assert not maps.requires_grad
