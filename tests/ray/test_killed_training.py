"""Whole recipes whose workers are killed, in a file of its own: it takes as long as the rest of the trainings."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import ModuleType

import pytest

from raygseg.config.sections import Runtime
from raygseg.distributed.noticeboard import Notice, Tick
from raygseg.distributed.training import Job, train_on_ray
from raygseg.engine.local import run_local
from tests.ray import gan_training, joint_training, panet_training
from tests.ray.listening import Listener, final_state
from tests.unit.engine.two_workers import differing

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.slow]


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
