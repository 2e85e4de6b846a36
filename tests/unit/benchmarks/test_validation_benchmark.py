"""What the benchmark of validation beside training makes of its runs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from raygseg.benchmarks import validation


def test_the_paces_of_a_run_are_its_ticks(tmp_path: Path) -> None:
    lines = [{"nimg": n, "time": 0, "metrics": {"s_per_kimg": n / 10}} for n in (10, 20)]
    lines.insert(1, {"nimg": 10, "time": 0, "picture": "samples", "file": "a.png"})
    (tmp_path / "tracking.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert validation.paces(tmp_path) == [1.0, 2.0]


def test_the_ratio_is_that_of_the_throughputs() -> None:
    assert validation.ratio([9.0, 10.0, 10.0], [10.0, 10.0, 20.0]) == 0.9


def test_the_counter_ends_with_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def kept(*words: Any, **options: Any) -> subprocess.Popen[bytes]:
        begun.append(start(*words, **options))
        return begun[-1]

    monkeypatch.setattr(subprocess, "Popen", kept)
    with validation.counting(False):
        assert not begun
    with pytest.raises(RuntimeError), validation.counting(True):
        assert begun[0].poll() is None
        raise RuntimeError
    assert begun[0].returncode is not None
