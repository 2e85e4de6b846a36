"""What the benchmark of validation beside training makes of a run's ticks, and whom it lets run meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raygseg.benchmarks import validation
from raygseg.benchmarks.support import turns
from raygseg.benchmarks.support.turns import Turns, allow, cpu_seconds
from raygseg.tracking.journal import Journal

COUNT = "while True: pass"


def test_the_paces_of_a_run_are_its_ticks(tmp_path: Path) -> None:
    lines = [{"nimg": n, "time": 0, "metrics": {"s_per_kimg": n / 10}} for n in (10, 20)]
    lines.insert(1, {"nimg": 10, "time": 0, "picture": "samples", "file": "a.png"})
    (tmp_path / "tracking.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert turns.paces(Journal(tmp_path)) == [1.0, 2.0]


def test_the_ratio_is_that_of_the_throughputs_turn_by_turn() -> None:
    assert validation.ratio([8.0, 10.0, 10.0, 10.0, 12.0, 8.0], [10.0, 10.0, 20.0, 20.0, 8.0, 12.0], turn=2) == 0.9


def test_ticks_go_to_the_arms_in_turn_and_the_first_after_a_change_is_left_out(tmp_path: Path) -> None:
    made = Turns(tmp_path, stay=2, lead=2, ticks=10)
    with made:
        pass
    assert [made.arm_of(tick) for tick in (0, 2, 4, 6, 8, 10)] == [
        "validated", "alone", "validated", "busy", "alone", "validated",
    ]  # fmt: skip
    # the last tick came after the run's own: nobody's
    assert made.sorted([float(n) for n in range(11)]) == {"alone": [3.0, 9.0], "validated": [5.0], "busy": [7.0]}


def test_a_held_process_uses_no_processor_time_until_it_is_let_go_on() -> None:
    process = subprocess.Popen([sys.executable, "-c", COUNT])
    try:
        allow([process.pid], False)
        time.sleep(0.1)
        before = cpu_seconds(process.pid)
        time.sleep(0.3)
        assert cpu_seconds(process.pid) == before
        allow([process.pid], True)
        deadline = time.monotonic() + 30
        while cpu_seconds(process.pid) < before + 0.1:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    assert cpu_seconds(process.pid) == 0.0
    allow([process.pid], True)  # one that has ended is nobody's trouble


def test_the_task_is_held_while_the_training_is_alone_and_let_go_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    title = turns.TASK.decode()
    process = subprocess.Popen(["bash", "-c", f"exec -a {title} {sys.executable} -c '{COUNT}'"])
    monkeypatch.setattr(turns, "LOOK_S", 0.02)
    # other tasks of this machine are not this test's
    monkeypatch.setattr(turns, "tasks", lambda found=turns.tasks: [n for n in found() if n == process.pid])

    def state() -> str:
        return (turns.PROCESSES / str(process.pid) / "stat").read_text().rpartition(")")[2].split()[0]

    def wait_for(wanted: str) -> None:
        deadline = time.monotonic() + 30
        while (state() == "T") != (wanted == "T"):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    journal = tmp_path / "tracking.jsonl"
    try:
        with Turns(tmp_path, stay=1, lead=0, ticks=3) as made:
            wait_for("T")
            journal.write_text(json.dumps({"nimg": 1, "time": 0, "metrics": {"s_per_kimg": 1.0}}) + "\n")
            wait_for("R")
            deadline = time.monotonic() + 30
            while made.task_s < 0.1:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            with journal.open("a") as file:
                file.write(json.dumps({"nimg": 2, "time": 0, "metrics": {"s_per_kimg": 1.0}}) + "\n")
            wait_for("T")
        assert state() != "T"
        assert 0.0 < made.task_s <= made.turn_s * 1.5
    finally:
        process.kill()
        process.wait()


def test_the_counter_ends_with_the_run(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), Turns(tmp_path, stay=1, lead=0, ticks=3) as made:
        counter = made._counter
        assert counter.poll() is None
        raise RuntimeError
    assert counter.returncode is not None
