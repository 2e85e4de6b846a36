"""Each detector fires on a run broken on purpose and names the last good moment; a good run is left alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from raygseg.config.schema import GanConfig
from raygseg.engine.checkpoint import CheckpointFolder
from raygseg.engine.loop import Clock, Hooks, Trainer, train_loop
from raygseg.errors import TrainingError
from raygseg.methods.stylegan2.training import StyleGAN2Recipe
from raygseg.methods.stylegan2.watch import GanWatch
from raygseg.pipelines.trainables import make_training
from raygseg.pipelines.watch import Watch

GOOD: dict[str, Any] = {
    "name": "watched",
    "seed": 1,
    "data": {"source": "toy://default?count=200&seed=0", "resolution": 8},
    "schedule": {"total_kimg": 1.2, "batch_size": 16},
    "generator": {"z_dim": 16, "w_dim": 16, "mapping_layers": 2, "channel_base": 64, "channel_max": 8},
    "loss": {"r1_gamma": 0.01, "path_weight": 0, "style_mixing_prob": 0},
    "optimiser": {"lr_generator": 0.0025, "lr_discriminator": 0.0025},
    "augment": {"mode": "ada"},
}


def config(**changes: Mapping[str, Any]) -> GanConfig:
    return GanConfig.model_validate({**GOOD, **{key: {**GOOD[key], **values} for key, values in changes.items()}})


def alarms(wanted: GanConfig, collapse: bool = False) -> dict[str, int]:
    """Train; the alarms and the pictures seen when all was still well."""
    training = make_training(wanted.model_dump(mode="json"), "cpu")
    if collapse:
        assert isinstance(training.recipe, StyleGAN2Recipe)
        training.recipe.generator.mapping.layers[-1].weight.data.zero_()  # every latent gives the same w
    watch, found = GanWatch(wanted), dict[str, int]()

    class Listen(Hooks):
        def on_tick(self, clock: Clock, metrics: Mapping[str, float]) -> None:
            found.update({alarm.name: alarm.good_nimg for alarm in watch.observe(clock.nimg, metrics)})

    try:
        train_loop(Trainer(training.recipe, training.stream), 0.1, 100, Listen())
    except TrainingError:
        assert "non-finite" in found  # the loop gives up by itself after a while
    return found


def test_a_good_run_is_left_alone() -> None:
    assert alarms(config()) == {}


def test_losses_that_are_not_finite() -> None:
    assert alarms(config(optimiser={"lr_generator": 1e18})) == {"non-finite": 0}


def test_a_discriminator_that_wins() -> None:
    found = alarms(config(optimiser={"lr_generator": 1e-7, "lr_discriminator": 0.01}, loss={"r1_gamma": 0}))
    assert list(found) == ["discriminator has won"] and 0 < found["discriminator has won"] < 1200


def test_a_generator_that_collapses() -> None:
    assert alarms(config(), collapse=True) == {"generator has collapsed": 0}


def test_augmentation_that_runs_away() -> None:
    few = {"source": "toy://default?count=4&seed=0", "flip": False}
    slow = {"lr_generator": 1e-4, "lr_discriminator": 0.01}
    found = alarms(config(data=few, augment={"ada_kimg": 0.2}, loss={"r1_gamma": 0}, optimiser=slow))
    assert 0 < found["augmentation has run away"] < 1200


def test_a_detector_speaks_once_an_episode() -> None:
    watch = GanWatch(config())
    won, well = {"loss/discriminator": 0.01, "loss/generator": 9.0}, {"loss/discriminator": 1.0}
    ticks = [well, won, won, won, won, well, won, won, won]
    found = [(nimg, alarm.good_nimg) for nimg, tick in enumerate(ticks) for alarm in watch.observe(nimg, tick)]
    assert found == [(3, 0), (8, 5)]


def test_the_warning_names_the_last_good_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = CheckpointFolder(str(tmp_path))
    for nimg in (1000, 2000, 3000):
        folder.save(nimg, {"x": 1}, {})
        folder.wait()
    watch = Watch(config(), str(tmp_path))
    with caplog.at_level(logging.WARNING):
        watch.tick(2500, {"loss/discriminator": 1.0})
        for nimg in (3000, 3500, 4000):
            watch.tick(nimg, {"loss/discriminator": 0.01, "loss/generator": 9.0})
    assert watch.alarms == ["discriminator has won"]
    assert f"The last good checkpoint is {tmp_path}/checkpoint-000002000" in caplog.text
