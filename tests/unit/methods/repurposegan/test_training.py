"""A head trained on three labelled samples knows the parts of samples it never saw."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from raygseg.config.schema import HeadConfig
from raygseg.engine.loop import Hooks, Trainer, train_loop
from raygseg.labels import LabelSpace
from raygseg.methods.repurposegan.samples import LabelledSamples
from raygseg.methods.repurposegan.training import HeadRecipe, SampleStream, build_recipe, one_hot
from tests.unit.tiny_networks import tiny_generator


def configure(architecture: str = "cnn-s", steps: int = 40, members: int = 1, **training: Any) -> HeadConfig:
    return HeadConfig.model_validate(
        {
            "name": "t",
            "generator": "g",
            "samples": "s",
            "head": {"architecture": architecture, "projection_dim": 16, "members": members},
            "training": {"steps": steps, "lr": 0.01} | training,
        }
    )


def train(config: HeadConfig, shapes: Any, samples: Any) -> HeadRecipe:
    recipe = build_recipe(config, shapes, samples)
    stream = SampleStream(samples, recipe.head.resolution, config.seed)
    assert train_loop(Trainer(recipe, stream), 1, 1, Hooks())
    return recipe


def iou(guess: Tensor, truth: Tensor, classes: int = 3) -> list[float]:
    pairs = [((guess == k) & (truth == k), (guess == k) | (truth == k)) for k in range(classes)]
    return [float(both.sum() / either.sum()) for both, either in pairs]


@pytest.mark.parametrize(
    ("architecture", "members", "resample", "steps"),
    [("linear", 1, False, 200), ("mlp", 3, True, 50), ("cnn-s", 1, True, 80)],
)
def test_unseen_samples_are_labelled_above_90_percent(
    shapes: Any, samples: Any, architecture: str, members: int, resample: bool, steps: int
) -> None:
    recipe = train(configure(architecture, steps, members, resample_noise=resample, lr=0.02), shapes, samples)
    head, seeds = recipe.finish(), list(range(100, 116))
    ws = shapes.latents(seeds)
    with torch.no_grad():
        guess = head.predict(shapes.render(ws, seeds, head.layer_names).features).probabilities.argmax(1)
        other = head.predict(shapes.render(ws, [s + 999 for s in seeds], head.layer_names).features)
    scores = iou(guess, shapes.truth(ws))
    assert sum(scores) / 3 > 0.9
    assert min(scores) > 0.8
    assert float((guess == other.probabilities.argmax(1)).float().mean()) > 0.95  # other noise (spec 5.2)


def test_stopping_and_going_on_gives_the_same_weights(shapes: Any, samples: Any) -> None:
    config = configure("mlp", steps=6, members=2)
    whole = train(config, shapes, samples)
    first = build_recipe(config, shapes, samples)
    stream = SampleStream(samples, first.head.resolution, config.seed)
    trainer = Trainer(first, stream)
    for _ in range(3):
        trainer.step()
    state = trainer.state_dict()
    second = build_recipe(config, shapes, samples)
    again = Trainer(second, stream)
    again.load_state_dict(state)
    train_loop(again, 1, 1, Hooks())
    for a, b in zip(whole.head.state_dict().values(), second.head.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_members_of_an_ensemble_differ(shapes: Any, samples: Any) -> None:
    head = train(configure("mlp", steps=10, members=4), shapes, samples).finish()
    with torch.no_grad():
        opinion = head.predict(shapes.render(shapes.latents([50]), [50], head.layer_names).features)
    assert float(opinion.js.max()) > 1e-3


def test_rare_classes_weigh_more(shapes: Any, samples: Any) -> None:
    balanced = build_recipe(configure(class_balance=0.5), shapes, samples)
    plain = build_recipe(configure(class_balance=0.0), shapes, samples)
    assert float(balanced.weights[1]) > float(balanced.weights[0])
    assert torch.equal(plain.weights, torch.ones(3))


def test_cached_maps_do_not_change_and_fresh_noise_does(shapes: Any, samples: Any) -> None:
    from raygseg.interfaces import Draws

    for resample in (False, True):
        recipe = build_recipe(configure(resample_noise=resample), shapes, samples)
        one, two = (recipe._features([0], Draws(0, step, 0))["b16.conv0"] for step in (0, 1))
        assert torch.equal(one, two) != resample


def test_void_pixels_have_no_target() -> None:
    assert one_hot(torch.tensor([[[0, 2, 255]]]), 3).sum(1).tolist() == [[[1.0, 1.0, 0.0]]]


def test_every_sample_comes_once_an_epoch(samples: Any) -> None:
    stream = SampleStream(samples, 8, seed=1)
    batch = stream.micro_batch(0, 9)
    assert batch["labels"].shape == (9, 8, 8)
    assert [sorted(batch["index"][i : i + 3].tolist()) for i in (0, 3, 6)] == [[0, 1, 2]] * 3
    assert torch.equal(stream.micro_batch(4, 2)["index"], batch["index"][4:6])


def test_projected_samples_are_read_with_the_noise_that_was_found_for_them() -> None:
    generator = tiny_generator()
    ws, maps = generator.latents([1, 2]), generator.noise([1, 2])
    masks = tuple(np.eye(16, dtype=np.uint8) for _ in range(2))
    labels = LabelSpace(("background", "part"))
    settings = configure("linear", steps=2, resample_noise=False)
    for noise in ({}, {4: maps[4]}):
        recipe = build_recipe(settings, generator, LabelledSamples(labels, (0, 1), masks, None, ws, noise))
        expected = generator.render(ws, None, recipe.head.layer_names, noise).features
        for name, found in next(iter(recipe.sample_features(2))).items():
            torch.testing.assert_close(found, expected[name])


def test_variants_keep_coarse_styles_and_change_fine_ones() -> None:
    """Variant 0 is the sample itself; others differ in fine maps alone, and are the same every time."""
    generator, labels = tiny_generator(), LabelSpace(("background", "part"))
    samples = LabelledSamples(labels, (0,), (np.eye(16, dtype=np.uint8),), None, generator.latents([1]), {})
    settings = configure("linear", steps=2, resample_noise=False, style_variants=3, style_from=0.5)
    recipe = build_recipe(settings, generator, samples)
    own, other = recipe._own([0]), recipe._variant(0, 1)
    again, third = recipe._variant(0, 1), recipe._variant(0, 2)
    coarse, fine = recipe.head.layer_names[0], recipe.head.layer_names[-1]
    assert torch.equal(recipe._variant(0, 0)[fine], own[fine])
    assert torch.equal(other[coarse], own[coarse])
    assert torch.equal(other[fine], again[fine])
    assert not torch.equal(other[fine], own[fine]) and not torch.equal(third[fine], other[fine])
