from __future__ import annotations

import logging
import math
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from raygseg.config.sections import Runtime
from raygseg.engine import checkpoint as module
from raygseg.engine import state_tree
from raygseg.engine.checkpoint import CheckpointFolder, read_checkpoint, write_checkpoint
from raygseg.engine.local import run_local
from raygseg.engine.loop import Clock, Hooks
from raygseg.errors import CheckpointError, FingerprintError
from tests.unit.engine.regression_recipe import RegressionRecipe, RegressionStream
from tests.unit.engine.two_workers import differing


def sample_state() -> dict[str, Any]:
    shared = torch.arange(6.0).reshape(2, 3)
    return {
        "a": {0: shared, 1: [shared.t(), torch.tensor(3, dtype=torch.int64)], "betas": (0.0, 0.99)},
        "half": torch.ones(2, dtype=torch.bfloat16),
        "facts": [None, True, -4, 2.5, "text", {"tensor": 7}],
        "empty": {},
    }


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    write_checkpoint(str(tmp_path / "c"), sample_state(), {"nimg": 5, "metrics": {"loss": math.inf}})
    checkpoint = read_checkpoint(str(tmp_path / "c"))
    assert checkpoint.facts["nimg"] == 5 and checkpoint.facts["metrics"]["loss"] == math.inf
    state, expected = checkpoint.state, sample_state()
    assert torch.equal(state["a"][0], expected["a"][0]) and torch.equal(state["a"][1][0], expected["a"][1][0])
    assert state["a"][1][1].dtype == torch.int64 and state["a"]["betas"] == (0.0, 0.99)
    assert state["half"].dtype == torch.bfloat16
    assert state["facts"] == expected["facts"] and state["empty"] == {}


@pytest.mark.parametrize("bad", [{"x": {1.5: 2}}, {"x": object()}, {"x": {True: 1}}, {"x": torch.nn.Linear(1, 1)}])
def test_what_files_cannot_hold_is_refused_when_saving(bad: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="/x"):
        state_tree.split(bad)


def test_a_snapshot_does_not_follow_training() -> None:
    state = sample_state()
    copy = state_tree.snapshot(state)
    state["a"][0].zero_()
    assert copy["a"][0].sum() == 15


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("file", [module.TENSORS, module.DOCUMENT])
def test_a_checkpoint_cut_short_is_an_error_that_names_the_file(tmp_path: Path, file: str, keep: float) -> None:
    write_checkpoint(str(tmp_path), sample_state(), {"nimg": 5})
    whole = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(CheckpointError, match=file) as error:
        read_checkpoint(str(tmp_path))
    assert "earlier checkpoint" in error.value.hint and error.value.exit_code == 1


def test_an_altered_byte_and_a_missing_file_are_errors(tmp_path: Path) -> None:
    write_checkpoint(str(tmp_path), sample_state(), {"nimg": 5})
    content = bytearray((tmp_path / module.TENSORS).read_bytes())
    content[-1] ^= 1
    (tmp_path / module.TENSORS).write_bytes(content)
    with pytest.raises(CheckpointError, match=module.TENSORS):
        read_checkpoint(str(tmp_path))
    (tmp_path / module.TENSORS).unlink()
    with pytest.raises(CheckpointError, match=module.TENSORS):
        read_checkpoint(str(tmp_path))


def saved(folder: CheckpointFolder, *losses: float) -> None:
    for i, loss in enumerate(losses):
        folder.save(1000 * (i + 1), {"x": torch.tensor(float(i))}, {"loss": loss})
    folder.wait()


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    folder = CheckpointFolder(str(tmp_path), keep=2, best_by="loss")
    saved(folder, 3.0, 1.0, 2.0, 5.0, 4.0)
    assert folder.names() == ["checkpoint-000005000", "checkpoint-000004000", "checkpoint-000002000"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(folder.names())


def test_going_on_passes_over_broken_checkpoints(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = CheckpointFolder(str(tmp_path), keep=3)
    saved(folder, 1.0, 1.0, 1.0)
    tensors = tmp_path / "checkpoint-000003000" / module.TENSORS
    tensors.write_bytes(tensors.read_bytes()[:20])
    (tmp_path / "checkpoint-000002000" / module.DOCUMENT).unlink()
    with caplog.at_level(logging.WARNING):
        found = folder.latest()
    assert found is not None and found.facts["nimg"] == 1000 and float(found.state["x"]) == 0
    assert str(tensors) in caplog.text and "checkpoint-000002000" in caplog.text
    folder.save(3000, {"x": torch.tensor(9.0)}, {})
    folder.wait()
    again = folder.latest()
    assert again is not None and again.uri.endswith("checkpoint-000003000-2") and float(again.state["x"]) == 9


def test_a_failed_write_is_raised_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(uri: str, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    folder = CheckpointFolder(str(tmp_path))
    monkeypatch.setattr(module.object_store, "write_bytes", full)
    folder.save(1000, {"x": 1}, {})
    with pytest.raises(OSError, match="No space"):
        folder.wait()


def test_saving_does_not_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, original = threading.Event(), module.object_store.write_bytes

    def slow(uri: str, content: bytes) -> None:
        assert gate.wait(10)
        original(uri, content)

    monkeypatch.setattr(module.object_store, "write_bytes", slow)
    folder, state = CheckpointFolder(str(tmp_path)), {"x": torch.ones(3)}
    folder.save(1000, state, {})
    state["x"].zero_()  # training goes on meanwhile
    gate.set()
    folder.close()
    found = CheckpointFolder(str(tmp_path)).latest()
    assert found is not None and found.state["x"].tolist() == [1, 1, 1]


def train(folder: Path, stop_at: int = 10**9, fingerprint: str = "f1", **recipe: int) -> RegressionRecipe:
    trained = RegressionRecipe(**recipe)
    runtime, count = Runtime(checkpoint_kimg=0.03, tick_kimg=0.02, keep_checkpoints=2), iter(range(10**9))
    run_local(
        trained, RegressionStream(), str(folder), runtime, fingerprint=fingerprint, stop=lambda: next(count) >= stop_at
    )
    return trained


def test_a_run_stopped_twice_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    undisturbed = train(tmp_path / "a")
    train(tmp_path / "b", stop_at=4)
    train(tmp_path / "b", stop_at=6)
    resumed = train(tmp_path / "b")
    tensors = [state_tree.split(recipe.state_dict())[0] for recipe in (undisturbed, resumed)]
    assert differing(*tensors) == []
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["checkpoint-000000152", "checkpoint-000000160"]


def test_a_finished_run_is_not_trained_further(tmp_path: Path) -> None:
    class Forbidden(Hooks):
        def on_tick(self, clock: Clock, metrics: Mapping[str, float]) -> None:
            raise AssertionError("trained again")

    first = train(tmp_path)
    again = RegressionRecipe()
    assert run_local(again, RegressionStream(), str(tmp_path), hooks=[Forbidden()], fingerprint="f1")
    assert differing(state_tree.split(first.state_dict())[0], state_tree.split(again.state_dict())[0]) == []


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    train(tmp_path, stop_at=5)
    with pytest.raises(FingerprintError, match="f1, now f2"):
        train(tmp_path, fingerprint="f2")
