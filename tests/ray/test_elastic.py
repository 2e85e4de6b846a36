"""A run that shrinks and grows with its cluster; on nodes that can be killed (`ray.cluster_utils`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raygseg.distributed import outcome as outcomes
from raygseg.distributed.noticeboard import Failed, Lost, Notice, Placed, Recovered, Started, Stepped, Tick
from raygseg.distributed.training import make_trainer
from raygseg.engine.checkpoint import CheckpointFolder
from raygseg.errors import DataError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(360)]


def drilled(folder: Path, short: Path) -> list[tuple[float, str, Any]]:
    """(seconds, what, value) of everything that happened in the drill."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.ray.elastic_drill", str(folder)], cwd=Path(__file__).parents[2], timeout=330,
        env={**environment, "RAY_TMPDIR": str(short)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [(time, what, value) for time, what, value in json.loads(done.stdout.splitlines()[-1])]


@pytest.mark.skipif(os.environ.get("RAYGSEG_DRILLS") != "1", reason="takes three minutes: RAYGSEG_DRILLS=1 runs it")
def test_a_run_goes_on_with_fewer_hosts_grows_back_and_saves_before_a_host_is_taken(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    events = drilled(tmp_path / "run", tmp_path_factory.mktemp("r"))
    happened = [what for _, what, _ in events]
    starts = [value for _, what, value in events if what == "started"]
    assert [workers for _, workers in starts][:3] == [3, 2, 3], "killed, then added"
    assert starts[0][0] == 0 and starts[1][0] >= 400 and starts[2][0] >= starts[1][0], "from the newest checkpoint"
    assert happened.index("host killed") < happened.index("lost") < happened.index("host added")
    warned = next(value for _, what, value in events if what == "warned")
    assert "will be taken away in" in warned
    saved = [value for _, what, value in events[happened.index("warned") :] if what == "written"]
    assert saved and saved[0] % 400, "not one that was due anyway"
    found = CheckpointFolder(str(tmp_path / "run")).latest()
    assert found is not None and found.facts["nimg"] >= saved[0]


def test_ray_is_told_the_fewest_and_the_most(tmp_path: Path) -> None:
    from raygseg.config.sections import Runtime
    from raygseg.distributed.training import Job

    job = Job("m:f", {}, str(tmp_path), "f", {})
    elastic = make_trainer(job, Runtime(workers=4, min_workers=2, resize_s=7), {"CPU": 1.0}, None)
    assert elastic.scaling_config.num_workers == (2, 4)
    assert elastic.scaling_config.elastic_resize_monitor_interval_s == 7
    assert make_trainer(job, Runtime(workers=4), {"CPU": 1.0}, None).scaling_config.num_workers == 4


def test_room_is_missed_from_the_request_and_from_a_loss_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(outcomes.time, "monotonic", lambda: now[0])
    outcome = outcomes.Outcome(lambda notice: None)
    now[0] += 7
    assert outcome.waits_for_room() == 7
    outcome.hear([Placed(2)])
    now[0] += 50
    assert outcome.waits_for_room() == 0, "loading may take its time"
    outcome.hear([Started(0, (1, 2), {}), Lost({1: "killed"}), Tick(1, 8, {})])
    now[0] += 3
    assert outcome.waits_for_room() == 3
    outcome.hear([Failed(DataError("broken.png: not a picture", "remove it"))])
    now[0] += 300
    assert outcome.waits_for_room() == 0, "it ends by itself"


def test_a_recovery_is_timed_from_the_first_loss_to_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now, heard = [100.0], list[Notice]()
    monkeypatch.setattr(outcomes.time, "monotonic", lambda: now[0])
    outcome = outcomes.Outcome(heard.append)

    def after(seconds: float, notice: Notice) -> None:
        now[0] += seconds
        outcome.hear([notice])

    def start(workers: int, nimg: int) -> None:
        after(4, Placed(workers))
        after(2, Started(nimg, tuple(range(workers)), {}))
        after(1, Stepped(nimg + 8))

    start(3, 0)
    assert not any(isinstance(notice, Recovered) for notice in heard), "the beginning is no recovery"
    after(50, Lost({1: "killed"}))
    after(3, Lost({0: "its neighbour is gone"}))
    start(2, 400)
    assert heard[-1] == Recovered(408, 2, 3, room_s=7, loading_s=2, step_s=1)
    assert "0.408 kimg with 2 workers instead of 3 (7.0 s until there was room, 2.0 s" in heard[-1].told
    after(60, Stepped(800))  # none without a loss or another number
    assert isinstance(heard[-1], Stepped)
    start(3, 800)
    assert heard[-1] == Recovered(808, 3, 2, room_s=0, loading_s=2, step_s=1)
