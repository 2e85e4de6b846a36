"""Profiles and switches of stage 1, one geometry for picture and map, and starting from other runs (spec B11, B12)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from raygseg.config.joint_gan import JointGanConfig
from raygseg.config.loader import fingerprint, load_config, resolved_yaml
from raygseg.config.schema import GanConfig
from raygseg.data.toy import toy_labels
from raygseg.errors import CheckpointError
from raygseg.interfaces import Draws, MicroBatch
from raygseg.labels import LabelSpace
from raygseg.methods.semanticgan.training import SemanticGANRecipe, build_recipe
from raygseg.methods.semanticgan.watch import pair_detectors
from raygseg.methods.stylegan2 import training as plain
from raygseg.nn.adaptive_augment import apply_geometry, augment, augment_pairs, draw_transforms
from tests.unit.engine.joint_training import CONFIG, settings

TWO = LabelSpace(("background", "robot"), void=255)
QUIET = {"augment": {"mode": "none"}, "label_augment": {"mode": "none"}}


def batch(classes: int = 9) -> MicroBatch:
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(256, (2, 4, 3, 8, 8), generator=rng).to(torch.uint8)
    labels = torch.randint(classes, (4, 8, 8), generator=rng).to(torch.uint8)
    return MicroBatch({"images": images[0], "labelled_images": images[1], "labels": labels}, Draws(0, 0, 0), 0)


def recipe(labels: LabelSpace | None = None, **changes: Any) -> SemanticGANRecipe:
    return build_recipe(settings(**{**QUIET, **changes}), labels or toy_labels())


def statistics(made: SemanticGANRecipe, data: MicroBatch) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for phase in made.phases:
        loss, told = phase.loss(data)
        assert bool(torch.isfinite(loss))
        found |= {"total": loss} if phase.name == "Gmain" else {}
        found |= dict(told)
    return found


def test_parity_is_as_released_and_given_keys_win() -> None:
    words = ["kind=joint-gan", "name=a", "data.source=x", "data.resolution=256", "labelled=y", "schedule.total_kimg=1"]
    released = load_config(None, [*words, "profile=parity"])
    assert isinstance(released, JointGanConfig)
    loss, optimiser = released.loss, released.optimiser
    assert (loss.r1_gamma, loss.label_r1_gamma, loss.label_r1, loss.feature_weight) == (10, 10, "batch-mean", 2)
    assert (loss.fake_labels, loss.feature_matching, loss.shared_fakes) == ("raw", "paired", False)
    assert (released.augment.mode, released.label_augment.mode) == ("none", "none")
    assert (optimiser.lr_label_discriminator, optimiser.ema_kimg, optimiser.ema_ramp) == (0.002, 5, 0)
    assert released.temperature == 0 and not released.labelled_as_pictures
    mended = load_config(None, [*words, "profile=parity", "loss.label_r1=per-sample"])
    assert isinstance(mended, JointGanConfig)
    assert mended.loss.label_r1 == "per-sample" and mended.loss.feature_matching == "paired"
    improved = load_config(None, words)
    assert isinstance(improved, JointGanConfig) and improved.loss.label_r1 == "per-sample" and improved.temperature == 1


def test_a_resolved_parity_file_is_the_same_run(tmp_path: Any) -> None:
    released = settings(profile="parity", schedule={"batch_size": 8})
    file = tmp_path / "config.yaml"
    file.write_text(resolved_yaml(released))
    assert fingerprint(load_config(file)) == fingerprint(released)


@pytest.mark.parametrize("changes", [{"profile": "parity"}, {}, {"generator": {"image_channels": 1}}])
@pytest.mark.parametrize("labels", [toy_labels(), TWO])
def test_every_form_trains(labels: LabelSpace, changes: Mapping[str, Any]) -> None:
    config = {key: value for key, value in CONFIG.items() if not changes.get("profile") or key not in ("loss",)}
    made = build_recipe(JointGanConfig.model_validate({**config, **changes, **_sections(changes)}), labels)
    told = statistics(made, batch(labels.num_classes))
    assert {"loss/generator", "loss/label_generator", "loss/label_discriminator", "loss/label_r1"} <= told.keys()
    pairs = made.sampler().sample([0, 1])
    assert pairs.images.shape == (2, 3, 8, 8) and pairs.probabilities.shape == (2, labels.num_classes, 8, 8)


def _sections(changes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: {**CONFIG[key], **value} for key, value in changes.items() if isinstance(value, dict)}


# Each switch and the figures that it must move; the others stay.
FAKES = {"loss/label_generator", "loss/label_discriminator", "logit/fake_pair", "loss/features", "total"}
REALS = {"loss/label_discriminator", "logit/real_pair", "loss/label_r1", "loss/features", "total"}
SWITCHES: list[tuple[dict[str, Any], set[str]]] = [
    ({"label_r1": "batch-mean"}, {"loss/label_r1"}),
    ({"fake_labels": "raw"}, FAKES),
    ({"label_temperature": 0.2}, FAKES),
    ({"label_smoothing": 0.1}, REALS),
    ({"feature_matching": "paired"}, {"loss/features", "total"}),
    ({"feature_weight": 3.0}, {"total"}),
    ({"label_weight": 0.5}, {"total"}),
    ({"shared_fakes": True}, {"loss/label_discriminator", "logit/fake_pair"}),
    ({"label_gradient": "heads"}, set()),
]


@pytest.mark.parametrize(("switch", "moved"), SWITCHES, ids=lambda value: "" if isinstance(value, set) else str(value))
def test_each_switch_alone(switch: dict[str, Any], moved: set[str]) -> None:
    before = statistics(recipe(), batch())
    after = statistics(recipe(loss=switch), batch())
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name for name in changed if not name.startswith("sign/")} == moved


def test_labels_shape_the_trunk_only_where_told() -> None:
    """With `heads` the generator's trunk learns from pictures alone."""
    gradients: dict[tuple[str, float], Tensor] = {}
    for mode in ("trunk", "heads"):
        for weight in (0.0, 1.0):
            made = recipe(loss={"label_gradient": mode, "label_weight": weight, "feature_matching": "none"})
            made.phases[0].loss(batch()).loss.backward()
            found = dict(made.generator.named_parameters())["mapping.layers.0.weight"].grad
            assert found is not None
            gradients[mode, weight] = found
    assert torch.equal(gradients["heads", 0.0], gradients["heads", 1.0])
    assert not torch.allclose(gradients["trunk", 0.0], gradients["trunk", 1.0])


def test_void_of_real_maps_does_not_tell_fakes_apart() -> None:
    data = batch(2)
    data.data["labels"][:, :2] = 255
    made = recipe(TWO)
    real = made._real_pairs(data)[1]
    fake = made._shown(torch.randn(4, 1, 8, 8), data)
    assert torch.equal(real == 0, fake == 0) and bool((real[:, :, :2] == 0).all())


def test_picture_and_map_move_together_and_only_the_picture_changes_colour() -> None:
    images = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    outside = torch.full((1, 1, 1), -1.0)
    maps = (images.mean(1, keepdim=True) > 0).float() * 2 - 1
    rng = torch.Generator().manual_seed(1)
    seen, moved = augment_pairs(images, maps, 0.8, rng, outside)
    torch.testing.assert_close(seen, augment(images, 0.8, torch.Generator().manual_seed(1)))
    assert moved.shape == maps.shape and not torch.allclose(moved, maps)
    twice = augment_pairs(images, images[:, :1], 0.8, torch.Generator().manual_seed(1), torch.zeros(1, 1, 1))
    drawn = draw_transforms(16, 16, 0.8, torch.Generator().manual_seed(1))
    torch.testing.assert_close(twice[1], apply_geometry(images, drawn.inverse_geometry)[:, :1])
    flat, same = augment_pairs(torch.zeros(16, 3, 16, 16), -torch.ones(16, 1, 16, 16), 0.8, rng, outside)
    torch.testing.assert_close(same, -torch.ones(16, 1, 16, 16))  # nothing but background, also from beyond the edge
    assert bool(flat.any())  # brightness
    assert augment_pairs(images, maps, 0.0, rng, outside)[1] is maps


def _gan(**generator: Any) -> plain.StyleGAN2Recipe:
    values = {key: CONFIG[key] for key in ("name", "data", "schedule", "generator")}
    return plain.build_recipe(
        GanConfig.model_validate({**values, "seed": 9, "generator": {**CONFIG["generator"], **generator}})
    )


def test_a_joint_run_may_start_from_a_plain_one() -> None:
    before, joint = _gan(), recipe()
    joint.start_from(before.state_dict()["modules"], "runs/gan/checkpoint-1")
    assert torch.equal(_picture(before), _picture(joint))
    with pytest.raises(CheckpointError, match=r"runs/other/checkpoint-1: its generator does not fit"):
        recipe().start_from(_gan(channel_max=4).state_dict()["modules"], "runs/other/checkpoint-1")
    with pytest.raises(CheckpointError, match="runs/head: holds no generator"):
        recipe().start_from({"head": {}}, "runs/head")


def test_grey_run_that_starts_from_a_colour_one_does_the_same_to_grey_pictures() -> None:
    before, grey = _gan(), recipe(generator={"image_channels": 1})
    grey.start_from(before.state_dict()["modules"], "checkpoint")
    torch.testing.assert_close(_picture(grey), _picture(before).mean(1, keepdim=True))
    picture = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs, ours = before.discriminator(picture.expand(-1, 3, -1, -1)), grey.discriminator(picture)
    torch.testing.assert_close(ours, theirs)


@torch.no_grad()
def _picture(made: plain.StyleGAN2Recipe) -> Tensor:
    images: Tensor = made.average.synthesis(made.average.latents([1, 2])).images
    return images


def test_detectors_of_pairs() -> None:
    names = [detector.name for detector in pair_detectors(settings())]
    assert names == ["label discriminator has won", "augmentation of pairs has run away"]
    won, runaway = pair_detectors(settings())
    lost = {"loss/label_discriminator": 0.001, "label_augment_p": 0.8}
    assert [won.observe(i, lost) is not None for i in range(10)] == [False] * 9 + [True]
    assert [runaway.observe(i, lost) is not None for i in range(3)] == [False, False, True]
    assert won.observe(10, {"loss/label_discriminator": 0.4}) is None
