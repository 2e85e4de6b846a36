"""The real joint recipe in the loop: exact over workers and over resuming."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from raygseg.engine import state_tree
from raygseg.engine.checkpoint import read_checkpoint, write_checkpoint
from raygseg.engine.gradients import Alone
from raygseg.engine.loop import Trainer
from tests.unit.engine.joint_training import CONFIG, joint
from tests.unit.engine.two_workers import differing, train, train_together

STEPS = 4


@pytest.fixture(scope="module")
def alone() -> dict[str, Tensor]:
    torch.set_num_threads(1)
    return train(Alone(), joint, (), STEPS)


def test_everything_is_live(alone: dict[str, Tensor]) -> None:
    """The comparisons below are about runs in which each mechanism has left its mark."""
    trainer = Trainer(*joint())
    start = state_tree.split(trainer.state_dict())[0]
    start = {name: tensor.clone() for name, tensor in start.items()}
    changed = set(differing(start, {name: alone[name] for name in start}))
    networks = ("generator", "discriminator", "average", "label_discriminator")
    for part in (*(f"modules/{name}" for name in networks), "to_labels", "path_mean", "w_avg", "middle.0.u"):
        assert any(part in name for name in changed), part
    seen = [set(trainer.step()) for _ in range(2)]
    assert {"loss/path_length", "loss/r1", "loss/label_r1"} <= seen[0]
    assert not {"loss/path_length", "loss/r1", "loss/label_r1"} & seen[1]
    state = trainer.recipe.state_dict()
    for name in ("augment", "label_augment"):
        assert state[name]["p"] > 0 and state[name]["p"] != CONFIG[name]["p"]  # the controllers have moved both
    assert state["augment"] != state["label_augment"]
    trainer.close()


@pytest.mark.timeout(240)
def test_two_workers_equal_one_that_accumulates(alone: dict[str, Tensor], tmp_path: Path) -> None:
    ((first, second),) = train_together(2, str(tmp_path), joint, [()], STEPS)
    assert differing(first, alone) == []
    assert differing(second, alone) == []


@pytest.mark.parametrize("stop_at", [1, 3])
def test_resuming_from_a_file_at_any_step_changes_nothing(
    alone: dict[str, Tensor], tmp_path: Path, stop_at: int
) -> None:
    first = Trainer(*joint())
    for _ in range(stop_at):
        first.step()
    write_checkpoint(str(tmp_path), first.state_dict(), {})
    first.close()
    second = Trainer(*joint())
    second.load_state_dict(read_checkpoint(str(tmp_path)).state)
    for _ in range(STEPS - stop_at):
        second.step()
    second.close()
    assert differing(state_tree.split(second.state_dict())[0], alone) == []
