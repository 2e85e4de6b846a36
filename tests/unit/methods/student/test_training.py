"""The student learns, forgets no small class unseen, and resumes to the same weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from raygseg.config.schema import SegmenterConfig
from raygseg.engine.loop import Hooks, Trainer, train_loop
from raygseg.interfaces import Draws, MicroBatch
from raygseg.labels import LabelSpace
from raygseg.methods.student.segmenter import UNetSegmenter
from raygseg.methods.student.training import StudentRecipe, build_recipe, hard_targets
from tests.unit.nn.backbones.weights_files import write_efficientnet_lite0

R = 16
LABELS = LabelSpace(("background", "left", "right"), swaps=((1, 2),))
NO_AUGMENT = {"flip": False, "rotation": 0.0, "scale": (1.0, 1.0), "translation": 0.0}


def configure(
    nimg: int = 800, micro: int = 4, augment: Mapping[str, Any] | None = None, **more: Any
) -> SegmenterConfig:
    return SegmenterConfig.model_validate(
        {
            "name": "t",
            "labelled": "unused",
            "resolution": R,
            "schedule": {"total_kimg": nimg / 1000, "batch_size": 4, "micro_batch": micro},
            "network": {"width": 8, "depth": 2},
            "augment": augment or {},
            "optimiser": {"lr": 0.01, "ema_kimg": 0.05},
        }
        | more
    )


class FourPictures:
    """Four pictures of two squares on noise, over and over; soft labels or indices."""

    def __init__(self, soft: bool = False) -> None:
        rng = torch.Generator().manual_seed(0)
        self.labels = torch.zeros(4, R, R, dtype=torch.uint8)
        for i in range(4):
            self.labels[i, 3 : 8 + i, 1:6] = 1
            self.labels[i, 6:12, 9 : 11 + i] = 2
        colour = torch.tensor([[60, 60, 60], [200, 80, 60], [60, 80, 200]])
        noise = torch.randint(-20, 20, (4, 3, R, R), generator=rng)
        self.images = (colour[self.labels.long()].permute(0, 3, 1, 2) + noise).clamp(0, 255).to(torch.uint8)
        self.soft = soft

    def micro_batch(self, first: int, count: int) -> dict[str, Tensor]:
        index = [n % 4 for n in range(first, first + count)]
        if self.soft:
            return {"images": self.images[index], "probabilities": hard_targets(self.labels[index], 3)[0]}
        return {"images": self.images[index], "labels": self.labels[index]}


def train(config: SegmenterConfig, stream: FourPictures) -> StudentRecipe:
    recipe = build_recipe(config, LABELS)
    assert train_loop(Trainer(recipe, stream), 100, 100, Hooks())
    return recipe


def accuracy(net: torch.nn.Module, stream: FourPictures) -> float:
    with torch.no_grad():
        guess = net(stream.images.float() / 127.5 - 1).argmax(1)
    return float((guess == stream.labels).float().mean())


def test_overfits_four_pictures() -> None:
    stream = FourPictures(soft=True)
    recipe = train(configure(nimg=240, augment=NO_AUGMENT), stream)
    assert accuracy(recipe.net, stream) > 0.99
    assert accuracy(recipe.average, stream) > 0.97
    assert recipe.unpredicted_classes() == []


def test_learns_under_augmentation() -> None:
    """Left and right are told apart by colour, so the swap under a flip must not be learnt: switch it off."""
    stream = FourPictures()
    config = configure(nimg=360, augment={"flip": False, "scale": (0.8, 1.25), "translation": 0.2, "colour": 0.05})
    assert accuracy(train(config, stream).average, stream) > 0.95


def test_bf16_trains_too() -> None:
    stream = FourPictures()
    config = configure(nimg=160, augment=NO_AUGMENT, optimiser={"lr": 0.01, "precision": "bf16", "ema_kimg": 0.0})
    recipe = train(config, stream)
    assert accuracy(recipe.average, stream) > 0.95
    assert all(torch.equal(a, b) for a, b in zip(recipe.net.parameters(), recipe.average.parameters(), strict=True))


def test_stopping_and_going_on_gives_the_same_weights() -> None:
    config, stream = configure(nimg=32, micro=2), FourPictures()
    whole = train(config, stream)
    half = Trainer(build_recipe(config, LABELS), stream)
    for _ in range(4):
        half.step()
    state = half.state_dict()
    half.close()
    recipe = build_recipe(config, LABELS)
    rest = Trainer(recipe, stream)
    rest.load_state_dict(state)
    train_loop(rest, 100, 100, Hooks())
    for name in ("net", "average"):
        ours, theirs = recipe.modules()[name].state_dict(), whole.modules()[name].state_dict()
        assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert torch.equal(recipe.target_shares, whole.target_shares)


def loss_of(recipe: StudentRecipe, data: Mapping[str, Tensor]) -> Any:
    return recipe.phases[0].loss(MicroBatch(data, Draws(0, 0, 0), 0))


@pytest.mark.parametrize(("target", "top"), [("soft", 0.6), ("sharpened", 0.36 / 0.52), ("hard", 1.0)])
def test_targets_are_made_as_configured(target: str, top: float) -> None:
    recipe = build_recipe(configure(augment=NO_AUGMENT, loss={"target": target}), LABELS)
    soft = torch.tensor([0.6, 0.4, 0.0]).view(1, 3, 1, 1).expand(1, 3, R, R).clone()
    soft[..., 0, 0] = 0.0  # nothing known there
    for scaled in (soft, (soft * 255).round().to(torch.uint8)):
        targets, valid = recipe._targets({"probabilities": scaled})
        assert float(targets[0, 0, 5, 5]) == pytest.approx(top, abs=1e-5)
        assert torch.allclose(targets.sum(1), valid, atol=1e-5)
        assert valid[0, 0, 0] == 0
        assert valid.sum() == R * R - 1


def test_void_pixels_do_not_count() -> None:
    recipe = build_recipe(configure(augment=NO_AUGMENT), LABELS)
    data = FourPictures().micro_batch(0, 2)
    reference = loss_of(recipe, data)
    data["labels"] = data["labels"].clone()
    data["labels"][:, :8] = 255
    upper = loss_of(recipe, data)
    assert upper.statistics["loss"] != reference.statistics["loss"]
    assert upper.statistics["target_share/background"] > 0
    total = sum(float(upper.statistics[f"target_share/{name}"]) for name in LABELS.names)
    assert total == pytest.approx(1.0, abs=1e-5)
    data["labels"][:] = 255
    assert float(loss_of(recipe, data).statistics["loss"]) == 0.0


def test_rare_classes_weigh_more_given_or_measured() -> None:
    given = build_recipe(configure(), LABELS, shares=[0.97, 0.02, 0.01])
    assert given.class_weights().tolist() == pytest.approx([0.97**-0.5, 5.0, 5.0])
    measured = build_recipe(configure(augment=NO_AUGMENT), LABELS)
    assert measured.class_weights().tolist() == [1.0, 1.0, 1.0]
    Trainer(measured, FourPictures()).step()
    weights = measured.class_weights()
    assert weights[0] < weights[1]
    assert measured.target_shares.sum() == pytest.approx(1.0, abs=1e-5)
    off = build_recipe(configure(loss={"class_balance": 0.0}), LABELS, shares=[0.97, 0.02, 0.01])
    assert off.class_weights().tolist() == [1.0, 1.0, 1.0]


def test_a_class_that_is_never_predicted_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    recipe = build_recipe(configure(nimg=4), LABELS)
    statistics = {}
    for name, wanted, given in (("background", 0.9, 0.95), ("left", 0.09, 0.05), ("right", 0.01, 0.00001)):
        statistics |= {f"target_share/{name}": torch.tensor(wanted), f"predicted_share/{name}": torch.tensor(given)}
    with caplog.at_level(logging.WARNING):
        recipe.end_step(0, 4, statistics)
    assert recipe.unpredicted_classes() == ["right"]
    assert "class right is in the pairs but never predicted" in caplog.text
    assert recipe.progress()["unpredicted_classes"] == 1.0


def test_learning_rate_follows_the_pictures_seen() -> None:
    recipe = build_recipe(configure(nimg=1000), LABELS)
    data = FourPictures().micro_batch(0, 2)
    rates = []
    for nimg in (0, 500, 1000):
        recipe.phases[0].loss(MicroBatch(data, Draws(0, 0, 0), nimg))
        rates.append(recipe.progress()["lr"])
    assert rates == pytest.approx([0.01, 0.01 * (0.05 + 0.95 / 2), 0.01 * 0.05])


@pytest.mark.parametrize("fraction", [0.0, 0.1], ids=["frozen", "fine-tuned"])
def test_a_pretrained_backbone_inside_resumes_and_is_bundled(tmp_path: Path, fraction: float) -> None:
    weights = write_efficientnet_lite0(tmp_path / "e.safetensors", depth=2)
    backbone = {"name": "efficientnet-lite0", "weights": str(weights), "lr_fraction": fraction}
    network = {"width": 8, "depth": 2, "backbone": backbone}
    config, stream = configure(nimg=24, network=network), FourPictures()
    whole = train(config, stream)
    half = Trainer(build_recipe(config, LABELS), stream)
    for _ in range(3):
        half.step()
    state = half.state_dict()
    half.close()
    recipe = build_recipe(config, LABELS)
    rest = Trainer(recipe, stream)
    rest.load_state_dict(state)
    train_loop(rest, 100, 100, Hooks())
    ours, theirs = recipe.average.state_dict(), whole.average.state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)

    untrained = build_recipe(config, LABELS).net.state_dict()
    moved = [
        k for k in ours if k.startswith("trunk") and k.endswith("weight") and not torch.equal(ours[k], untrained[k])
    ]
    assert bool(moved) == (fraction > 0)
    rates = [group["lr"] for group in recipe.phases[0].optimiser.param_groups]
    assert len(rates) == 1 or rates[1] == pytest.approx(fraction * rates[0])

    segmenter = UNetSegmenter(recipe.average, LABELS, R)
    bundle = segmenter.to_bundle()
    assert any(k.startswith("trunk") for k in bundle.tensors) == (fraction > 0)
    images = torch.randn(1, 3, R, R)
    again = UNetSegmenter.from_bundle(bundle)
    torch.testing.assert_close(again.probabilities(images), segmenter.probabilities(images), rtol=1e-4, atol=1e-4)


def test_a_pretrained_backbone_learns(tmp_path: Path) -> None:
    weights = write_efficientnet_lite0(tmp_path / "e.safetensors", depth=2)
    network = {"width": 8, "depth": 2, "backbone": {"name": "efficientnet-lite0", "weights": str(weights)}}
    stream = FourPictures()
    assert accuracy(train(configure(nimg=240, augment=NO_AUGMENT, network=network), stream).average, stream) > 0.95


def test_more_halvings_than_the_backbone_has_are_refused() -> None:
    with pytest.raises(ValueError, match="more than the 4 halvings of vgg16"):
        configure(network={"depth": 5, "backbone": {"name": "vgg16"}})
