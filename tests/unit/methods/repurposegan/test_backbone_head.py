"""A head on a backbone's maps learns, resumes to the same weights, and its bundle carries no foreign ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raygseg.bundle import read_bundle, write_bundle
from raygseg.config.schema import BackboneHeadConfig
from raygseg.data.sources import LabelledSet, open_labelled
from raygseg.data.streams import LabelledStream
from raygseg.engine.loop import Hooks, Trainer, train_loop
from raygseg.errors import CheckpointError, ConfigError, MissingEnvironmentError
from raygseg.interfaces import Draws, MicroBatch, Segmenter
from raygseg.methods.repurposegan.backbone_segmenter import BackboneHeadSegmenter
from raygseg.methods.repurposegan.backbone_training import BackboneHeadRecipe, build_recipe
from tests.unit.nn.backbones.weights_files import write_efficientnet_lite0, write_vgg16

R = 32
STILL: dict[str, Any] = {"flip": False, "rotation": 0.0, "scale": (1.0, 1.0), "translation": 0.0}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_efficientnet_lite0(tmp_path_factory.mktemp("weights") / "e.safetensors", depth=2)


@pytest.fixture(scope="module")
def data() -> LabelledSet:
    return open_labelled("toy://default?count=4&seed=0", R)


def configure(weights: Path, steps: int = 30, **changes: Any) -> BackboneHeadConfig:
    values: dict[str, Any] = {
        "name": "t",
        "labelled": "unused",
        "resolution": R,
        "backbone": {"name": "efficientnet-lite0", "weights": str(weights)},
        "head": {"projection_dim": 16, "layers": ["stride2", "stride4"]},
        "training": {"steps": steps, "batch_size": 4, "lr": 0.01},
    }
    return BackboneHeadConfig.model_validate(values | changes)


def train(config: BackboneHeadConfig, data: LabelledSet) -> BackboneHeadRecipe:
    recipe = build_recipe(config, data)
    assert train_loop(Trainer(recipe, LabelledStream(data, config.seed)), 100, 100, Hooks())
    return recipe


def loss(recipe: BackboneHeadRecipe, data: LabelledSet) -> float:
    batch = LabelledStream(data, 0).micro_batch(0, 4)
    with torch.no_grad():
        return float(recipe.phases[0].loss(MicroBatch(batch, Draws(0, 0, 0), 0)).loss)


@pytest.mark.parametrize(("architecture", "members"), [("cnn-s", 1), ("mlp", 2), ("linear", 1)])
def test_training_lowers_the_loss(weights: Path, data: LabelledSet, architecture: str, members: int) -> None:
    head = {"architecture": architecture, "members": members, "projection_dim": 16, "layers": ["stride2", "stride4"]}
    config = configure(weights, steps=60, head=head, augment=STILL)
    before = loss(build_recipe(config, data), data)
    assert loss(train(config, data), data) < 0.6 * before


def test_learns_under_augmentation_in_bf16(weights: Path, data: LabelledSet) -> None:
    training = {"steps": 30, "batch_size": 4, "lr": 0.01, "precision": "bf16"}
    backbone = {"name": "efficientnet-lite0", "weights": str(weights), "precision": "bf16"}
    augment = {"scale": (0.8, 1.25), "translation": 0.1}
    config = configure(weights, training=training, backbone=backbone, augment=augment)
    before = loss(build_recipe(config, data), data)
    assert loss(train(config, data), data) < 0.8 * before


@pytest.mark.parametrize("augment", [{}, STILL], ids=["augmented", "kept"])
def test_stopping_and_going_on_gives_the_same_weights(
    weights: Path, data: LabelledSet, augment: dict[str, Any]
) -> None:
    config = configure(weights, steps=6, augment=augment)
    whole = train(config, data)
    half = Trainer(build_recipe(config, data), LabelledStream(data, 0))
    for _ in range(3):
        half.step()
    state = half.state_dict()
    half.close()
    recipe = build_recipe(config, data)
    rest = Trainer(recipe, LabelledStream(data, 0))
    rest.load_state_dict(state)
    train_loop(rest, 100, 100, Hooks())
    ours, theirs = recipe.head.state_dict(), whole.head.state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert not any("trunk" in k or "_blocks" in k for k in state["recipe"]["modules"]["head"])


def test_kept_maps_are_those_made_anew(weights: Path, data: LabelledSet, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configure(weights, steps=5, augment=STILL)
    kept = train(config, data)
    assert len(kept._kept) == 4
    monkeypatch.setattr("raygseg.methods.repurposegan.backbone_training.CACHE_BYTES", 0)
    anew = train(config, data)
    assert not anew._kept
    for a, b in zip(kept.head.state_dict().values(), anew.head.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_void_pixels_teach_nothing(weights: Path, data: LabelledSet) -> None:
    recipe = build_recipe(configure(weights, augment=STILL), data)
    batch = LabelledStream(data, 0).micro_batch(0, 4)
    batch["labels"] = torch.full_like(batch["labels"], 255)
    assert float(recipe.phases[0].loss(MicroBatch(batch, Draws(0, 0, 0), 0)).loss.detach()) == 0.0


def test_bundle_round_trip_at_other_sizes(weights: Path, data: LabelledSet, tmp_path: Path) -> None:
    segmenter = train(configure(weights, steps=3), data).finish()
    assert isinstance(segmenter, Segmenter)
    write_bundle(tmp_path / "b", segmenter.to_bundle())
    bundle = read_bundle(tmp_path / "b")
    again = BackboneHeadSegmenter.from_bundle(bundle)
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in [(50, 20), (R, R)]]
    for ours, theirs in zip(segmenter.predict(pictures), again.predict(pictures), strict=True):
        assert np.array_equal(ours.label_map, theirs.label_map)
        assert np.array_equal(ours.confidence, theirs.confidence)
    assert segmenter.predict(pictures)[0].label_map.shape == (50, 20)
    shares = again.probabilities(torch.zeros(1, 3, R, R)).sum(1)
    assert torch.allclose(shares, torch.ones_like(shares), atol=1e-5)
    assert not any("_blocks" in name for name in bundle.tensors)  # somebody else's weights stay where they are
    assert "efficientnet-lite0" in bundle.facts["backbone"] and "Apache-2.0" in bundle.facts["licence"]


def test_a_bundle_refuses_other_weights_and_says_which_are_missing(
    weights: Path, data: LabelledSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAYGSEG_DATA", raising=False)
    own = tmp_path / "own.safetensors"
    own.write_bytes(weights.read_bytes())
    bundle = build_recipe(configure(own, steps=1), data).finish().to_bundle()
    write_efficientnet_lite0(own, depth=2, seed=9)
    with pytest.raises(CheckpointError, match=r"own\.safetensors: not the efficientnet-lite0 weights"):
        BackboneHeadSegmenter.from_bundle(bundle)
    own.unlink()
    with pytest.raises(MissingEnvironmentError, match=r"own\.safetensors"):
        BackboneHeadSegmenter.from_bundle(bundle)


def test_wrong_layers_and_grids_are_refused(weights: Path, data: LabelledSet, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no layer 'block1'"):
        build_recipe(configure(weights, head={"layers": ["block1"]}), data)
    with pytest.raises(ConfigError, match="stack_resolution: 64 is finer than resolution: 32"):
        build_recipe(configure(weights, head={"stack_resolution": 64, "layers": ["stride2"]}), data)
    vgg = write_vgg16(tmp_path / "v.safetensors", depth=1)
    with pytest.raises(CheckpointError, match=r"v\.safetensors: not EfficientNet-Lite0"):
        build_recipe(configure(vgg), data)
