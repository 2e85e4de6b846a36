from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from raygseg.config.sections import Runtime
from raygseg.distributed.noticeboard import Images, Notice, Started, Tick, Warned
from raygseg.distributed.training import Job, train_on_ray
from raygseg.engine.checkpoint import TENSORS, CheckpointFolder
from raygseg.engine.local import run_local
from raygseg.errors import DataError, MissingEnvironmentError
from tests.ray.listening import Listener, final_state
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
    assert differing(final_state(folder, IMAGES), final_state(tmp_path / "alone", IMAGES)) == []
    assert len(CheckpointFolder(str(folder)).names()) <= 4  # three whole ones, and the one cut in half


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
