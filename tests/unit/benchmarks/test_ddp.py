from __future__ import annotations

from pathlib import Path

import pytest

from raygseg.benchmarks import ddp
from raygseg.config.schema import GanConfig
from raygseg.distributed import cluster


def test_both_kinds_of_workers_do_the_same_work() -> None:
    one, two = (ddp.gan_config("place", workers, 3, 16, 32, 1024) for workers in (1, 2))
    assert one.model_dump(exclude={"runtime"}) == two.model_dump(exclude={"runtime"})
    assert one.schedule.batch_size // one.schedule.micro == 2
    assert one.schedule.total_kimg == pytest.approx(3 * one.runtime.tick_kimg)


def test_the_loop_in_this_process_is_timed(tmp_path: Path) -> None:
    assert 0 < ddp.in_process(ddp.gan_config(str(tmp_path), 1, 2, 4, 8, 64)) < 60


def test_ratios_are_medians_of_ratios_within_a_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is three times as slow in the second repeat; ratios of medians would show that."""
    times = {"in_process": iter([1.0, 3.0, 1.0]), 1: iter([1.25, 3.0, 1.0]), 2: iter([0.5, 1.5, 0.8])}

    def on_ray(config: GanConfig) -> float:
        return next(times[config.runtime.workers])

    monkeypatch.setattr(ddp, "in_process", lambda config: next(times["in_process"]))
    monkeypatch.setattr(ddp, "on_ray", on_ray)
    monkeypatch.setattr(cluster, "connect", lambda: None)
    result = ddp.run(repeats=3)
    assert result["ratio"] == 2.0 and result["one_worker_ratio"] == 1.0
    assert result["seconds_a_step"] == {"in_process": 1.0, "one_worker": 1.25, "two_workers": 0.8}
