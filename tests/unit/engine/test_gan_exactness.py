"""The real GAN recipe in the loop: exact over workers and over resuming."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from raygseg.engine import state_tree
from raygseg.engine.checkpoint import read_checkpoint, write_checkpoint
from raygseg.engine.gradients import Alone
from raygseg.engine.loop import Trainer
from tests.unit.engine.gan_training import CONFIG, gan
from tests.unit.engine.two_workers import differing, train, train_together

STEPS = 5


@pytest.fixture(scope="module")
def alone() -> dict[str, Tensor]:
    torch.set_num_threads(1)
    return train(Alone(), gan, (), STEPS)


def test_everything_is_live(alone: dict[str, Tensor]) -> None:
    """The comparisons below are about runs in which each mechanism has left its mark."""
    start = state_tree.split(Trainer(*gan()).state_dict())[0]
    changed = set(differing(start, {name: alone[name] for name in start}))
    for part in ("modules/generator", "modules/discriminator", "modules/average", "path_mean", "w_avg"):
        assert any(part in name for name in changed), part
    trainer = Trainer(*gan())
    seen = [set(trainer.step()) for _ in range(2)]
    assert {"loss/path_length", "loss/r1"} <= seen[0] and not {"loss/path_length", "loss/r1"} & seen[1]
    state = trainer.recipe.state_dict()["augment"]
    assert state["p"] > 0 and state["p"] != CONFIG["augment"]["p"]  # the controller has moved it


@pytest.mark.timeout(240)
def test_two_workers_equal_one_that_accumulates(alone: dict[str, Tensor], tmp_path: Path) -> None:
    ((first, second),) = train_together(2, str(tmp_path), gan, [()], STEPS)
    assert differing(first, alone) == []
    assert differing(second, alone) == []


@pytest.mark.parametrize("stop_at", range(1, STEPS))
def test_resuming_from_a_file_at_any_step_changes_nothing(
    alone: dict[str, Tensor], tmp_path: Path, stop_at: int
) -> None:
    first = Trainer(*gan())
    for _ in range(stop_at):
        first.step()
    write_checkpoint(str(tmp_path), first.state_dict(), {})
    second = Trainer(*gan())
    second.load_state_dict(read_checkpoint(str(tmp_path)).state)
    for _ in range(STEPS - stop_at):
        second.step()
    assert differing(state_tree.split(second.state_dict())[0], alone) == []
