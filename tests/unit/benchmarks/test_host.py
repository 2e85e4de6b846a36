from __future__ import annotations

from pathlib import Path

import pytest

from raygseg.benchmarks.support import host


def test_share_of_stolen_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = tmp_path / "stat"
    monkeypatch.setattr(host, "STAT", stat)
    stat.write_text("cpu  100 10 20 500 7 1 2 40 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
    stolen = host.StolenTime()
    assert stolen.share() == 0.0  # nothing has passed
    stat.write_text("cpu  150 10 30 900 9 1 2 60 0 0\n")  # 60 ticks busy, 20 stolen; idle and waiting do not count
    assert stolen.share() == 0.25


def test_a_system_without_the_file_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "STAT", tmp_path / "absent")
    assert host.StolenTime().share() == 0.0
