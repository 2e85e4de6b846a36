from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raygseg.engine import state_tree
from raygseg.engine.loop import Clock, Hooks, Trainer, crossed, train_loop
from raygseg.errors import CheckpointError, TrainingError
from raygseg.interfaces import MicroBatch, Phase, PhaseLoss
from tests.unit.engine.regression_recipe import RegressionRecipe, RegressionStream
from tests.unit.engine.two_workers import differing


class Recorder(Hooks):
    def __init__(self) -> None:
        self.ticks: list[tuple[Clock, dict[str, float]]] = []
        self.checkpoints: list[int] = []
        self.ended: Clock | None = None

    def on_tick(self, clock: Clock, metrics: Mapping[str, float]) -> None:
        self.ticks.append((clock, dict(metrics)))

    def on_checkpoint(self, clock: Clock, state: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        self.checkpoints.append(clock.nimg)

    def on_end(self, clock: Clock, metrics: Mapping[str, float]) -> None:
        self.ended = clock


def states(trainer: Trainer) -> dict[str, Tensor]:
    return state_tree.split(trainer.state_dict())[0]


def test_loop_ticks_saves_and_ends_by_nimg() -> None:
    recorder = Recorder()
    assert train_loop(Trainer(RegressionRecipe(total_images=100), RegressionStream()), 0.03, 0.04, recorder)
    assert [clock.nimg for clock, _ in recorder.ticks] == [32, 64, 96, 104]
    assert recorder.checkpoints == [40, 80, 104]
    assert recorder.ended == Clock(13, 104)
    metrics = recorder.ticks[0][1]
    assert metrics["fit"] > 0 and metrics["nonfinite"] == 0 and metrics["s_per_kimg"] > 0 and "mean_loss" in metrics
    assert "x_mean" not in metrics  # only scalars belong on a status line


def test_loop_learns() -> None:
    recorder = Recorder()
    train_loop(Trainer(RegressionRecipe(total_images=5000), RegressionStream()), 1, 10, recorder)
    fits = [metrics["fit"] for _, metrics in recorder.ticks]
    assert fits[-1] < 0.4 * fits[0]


def test_a_stop_ends_after_the_step_with_a_checkpoint() -> None:
    recorder = Recorder()
    trainer = Trainer(RegressionRecipe(), RegressionStream())
    assert not train_loop(trainer, 1, 1, recorder, stop=lambda: trainer.clock.step == 4)
    assert recorder.checkpoints == [40] and recorder.ended == Clock(5, 40)


@pytest.mark.parametrize("stop_at", range(1, 8))
def test_resuming_at_any_step_changes_nothing(stop_at: int) -> None:
    undisturbed = Trainer(RegressionRecipe(), RegressionStream())
    for _ in range(8):
        undisturbed.step()
    first = Trainer(RegressionRecipe(), RegressionStream())
    for _ in range(stop_at):
        first.step()
    second = Trainer(RegressionRecipe(), RegressionStream())
    second.load_state_dict(state_tree.snapshot(first.state_dict()))
    for _ in range(8 - stop_at):
        second.step()
    assert differing(states(second), states(undisturbed)) == []


def test_only_the_phases_due_run_and_only_their_networks_get_gradients() -> None:
    recipe = RegressionRecipe()
    seen: list[tuple[str, int, bool, bool]] = []

    def watch(phase: Phase) -> None:
        original = phase.loss

        def loss(batch: MicroBatch) -> PhaseLoss:
            seen.append((phase.name, batch.draws.step, *(m[0].requires_grad for m in parameters)))
            return original(batch)

        phase.loss = loss

    parameters = [list(recipe.net.parameters()), list(recipe.noise.parameters())]
    for phase in recipe.phases:
        watch(phase)
    trainer = Trainer(recipe, RegressionStream())
    for _ in range(4):
        trainer.step()
    due = {(name, step) for name, step, _, _ in seen}
    assert {step for name, step in due if name == "fit"} == {0, 1, 2, 3}
    assert {step for name, step in due if name == "penalty"} == {0, 3}
    assert {step for name, step in due if name == "attack"} == {0, 2}
    assert all((net, noise) == (name != "attack", name == "attack") for name, _, net, noise in seen)
    assert len(seen) == 4 * (4 + 2 + 2)  # micro-batches times phases
    trainer.close()
    assert all(p.requires_grad for group in parameters for p in group)


class Diverging(RegressionRecipe):
    """`fit` is NaN from step 3 on, for `bad` steps."""

    def __init__(self, bad: int) -> None:
        super().__init__()
        self.bad = bad

    def fit(self, batch: MicroBatch) -> PhaseLoss:
        loss, statistics = super().fit(batch)
        factor = float("nan") if 3 <= batch.draws.step < 3 + self.bad else 1.0
        return PhaseLoss(loss * factor, {name: value * factor for name, value in statistics.items()})


def test_a_few_non_finite_steps_are_counted_and_survived() -> None:
    trainer = Trainer(Diverging(2), RegressionStream(), patience=3)
    counts = [float(trainer.step()["nonfinite"]) > 0 for _ in range(8)]
    assert counts == [False] * 3 + [True] * 2 + [False] * 3
    assert all(bool(torch.isfinite(value).all()) for value in states(trainer).values())


def test_many_non_finite_steps_are_an_error() -> None:
    trainer = Trainer(Diverging(9), RegressionStream(), patience=3)
    with pytest.raises(TrainingError, match=r"3 steps in a row had non-finite") as error:
        for _ in range(8):
            trainer.step()
    assert "learning rate" in error.value.hint and trainer.clock.step == 6


def test_modules_that_no_phase_trains_are_put_in_evaluation_mode() -> None:
    class Averaged(RegressionRecipe):
        def __init__(self) -> None:
            super().__init__()
            self.mean = nn.Sequential(nn.Linear(5, 1), nn.Dropout(0.5))

        def modules(self) -> Mapping[str, nn.Module]:
            return {**super().modules(), "mean": self.mean}

    recipe = Averaged()
    Trainer(recipe, RegressionStream())
    assert recipe.net.training and not recipe.mean.training


def test_a_failing_stream_fails_the_run() -> None:
    class Broken(RegressionStream):
        def micro_batch(self, first: int, count: int) -> Mapping[str, Tensor]:
            if first >= 16:
                raise OSError("disk gone")
            return super().micro_batch(first, count)

    with pytest.raises(OSError, match="disk gone"):
        train_loop(Trainer(RegressionRecipe(), Broken()), 1, 1, Hooks())


def test_a_foreign_state_is_refused() -> None:
    with pytest.raises(CheckpointError):
        Trainer(RegressionRecipe(), RegressionStream()).load_state_dict({"weights": 1})


def test_crossed() -> None:
    assert crossed(0, 1000, 1.0) and crossed(900, 2100, 1.0)
    assert not crossed(1000, 1999, 1.0)
