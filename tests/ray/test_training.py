from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from torch import Tensor

from raygseg.config.sections import Runtime
from raygseg.distributed.noticeboard import Images, Notice, Started, Tick, Warned
from raygseg.distributed.training import Job, train_on_ray
from raygseg.engine import state_tree
from raygseg.engine.checkpoint import TENSORS, CheckpointFolder
from raygseg.engine.local import run_local
from raygseg.errors import DataError, MissingEnvironmentError
from tests.ray import gan_training, joint_training, panet_training
from tests.ray.regression_training import make
from tests.unit.engine.two_workers import differing

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.slow]
IMAGES = 1200


def job(folder: Path, workers: int = 2, seconds: float = 0.02, **config: int) -> Job:
    runtime = Runtime(workers=workers, tick_kimg=0.08, checkpoint_kimg=0.2, max_failures=1, device="cpu")
    return Job(
        factory="tests.ray.regression_training:make",
        config={"total_images": IMAGES, "seconds": seconds, **config},
        folder=str(folder),
        fingerprint="f1",
        runtime=runtime.model_dump(),
    )


def final_state(folder: Path, images: int = IMAGES) -> dict[str, Tensor]:
    found = CheckpointFolder(str(folder)).latest()
    assert found is not None and found.facts["nimg"] == images
    return state_tree.split(found.state)[0]


class Listener:
    """Keeps notices; calls `at_tick` once, at the first tick past `nimg`."""

    def __init__(self, nimg: int, at_tick: Callable[[], None]) -> None:
        self.notices: list[Notice] = []
        self.nimg, self.at_tick, self.done = nimg, at_tick, False

    def __call__(self, notice: Notice) -> None:
        self.notices.append(notice)
        if isinstance(notice, Tick) and notice.nimg > self.nimg and not self.done:
            self.done = True
            self.at_tick()

    def starts(self) -> list[Started]:
        return [notice for notice in self.notices if isinstance(notice, Started)]


@pytest.mark.timeout(900)
def test_killed_stopped_and_cut_the_run_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    """Two workers, one killed by signal 9 between ticks; stopped; the newest checkpoint cut in half;
    finished by one worker: bit for bit what one process gives that was left alone."""
    training = make({"total_images": IMAGES}, "cpu")
    runtime = Runtime(tick_kimg=1, checkpoint_kimg=1)
    assert run_local(training.recipe, training.stream, str(tmp_path / "alone"), runtime)

    listener = Listener(300, lambda: os.kill(listener.starts()[0].pids[1], signal.SIGKILL))
    stopping = False

    def stop_soon(notice: Notice) -> None:
        nonlocal stopping
        listener(notice)
        stopping = stopping or (len(listener.starts()) == 2 and isinstance(notice, Tick) and notice.nimg > 700)

    folder = tmp_path / "disturbed"
    assert not train_on_ray(job(folder), stop_soon, lambda: stopping)
    first, second = listener.starts()
    assert first.nimg == 0 and second.nimg in (200, 400) and set(first.pids).isdisjoint(second.pids)

    names = CheckpointFolder(str(folder)).names()
    newest = folder / names[0] / TENSORS
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    notices: list[Notice] = []
    assert train_on_ray(job(folder, workers=1, seconds=0.0), notices.append)
    (third,) = [notice for notice in notices if isinstance(notice, Started)]
    assert 0 < third.nimg < int(names[0].split("-")[1]) and len(third.pids) == 1
    assert any(str(newest) in notice.text for notice in notices if isinstance(notice, Warned))
    assert any(isinstance(notice, Images) and notice.picture.shape == (4, 4, 3) for notice in notices)
    assert differing(final_state(folder), final_state(tmp_path / "alone")) == []
    assert len(CheckpointFolder(str(folder)).names()) <= 4  # three whole ones, and the one cut in half


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", [gan_training, joint_training, panet_training], ids=["gan", "joint-gan", "panet"])
def test_a_run_whose_worker_is_killed_ends_with_the_weights_of_an_undisturbed_run(
    tmp_path: Path, kind: ModuleType
) -> None:
    """GANs with augmentation p > 0, mixing, R1, path length, EMA and w_avg live; signal 9 between ticks, twice."""
    runtime = Runtime(workers=2, tick_kimg=0.04, checkpoint_kimg=0.08, max_failures=2, device="cpu", threads=1)
    alone = kind.make({"kimg": 0.4, "seconds": 0.0}, "cpu")
    assert run_local(alone.recipe, alone.stream, str(tmp_path / "alone"), runtime)

    killed: list[int] = []

    def kill_twice(notice: Notice) -> None:
        listener(notice)
        if isinstance(notice, Tick) and notice.nimg > 140 * (len(killed) + 1) and len(killed) < 2:
            victim = listener.starts()[-1].pids[len(killed)]  # rank 0 first, then rank 1
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)

    listener = Listener(10**9, lambda: None)
    folder = tmp_path / "killed"
    gan = {"kimg": 0.4, "seconds": 0.05}
    assert train_on_ray(
        Job(f"{kind.__name__}:make", gan, str(folder), "f", runtime.model_dump()),
        kill_twice,
    )
    assert len(killed) == 2
    assert [start.nimg > 0 for start in listener.starts()] == [False, True, True]
    assert differing(final_state(folder, 400), final_state(tmp_path / "alone", 400)) == []


@pytest.mark.timeout(600)
def test_bad_data_is_told_as_it_is_and_not_tried_again(tmp_path: Path) -> None:
    notices: list[Notice] = []
    with pytest.raises(DataError, match=r"broken\.png") as error:
        train_on_ray(job(tmp_path / "bad", seconds=0.0, fail_at=300), notices.append)
    assert error.value.hint == "remove it"
    assert len([notice for notice in notices if isinstance(notice, Started)]) == 1


@pytest.mark.timeout(300)
def test_workers_that_cannot_be_placed_say_what_they_ask_for(tmp_path: Path) -> None:
    with pytest.raises(
        MissingEnvironmentError, match=r"500 workers with 1 CPU, 0 GPUs each .* the cluster has \d+ CPU"
    ):
        train_on_ray(job(tmp_path, workers=500), print)
