"""Output: facts as tables, figures, and progress as plain lines where there is no terminal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

from raygseg.cli import console


class Point(NamedTuple):
    x: float


@dataclass
class Result:
    bundle: Path
    score: Point
    names: tuple[str, ...]


def test_plain_and_facts(capsys: pytest.CaptureFixture[str]) -> None:
    result = Result(Path("runs/x"), Point(0.123456), ("a", "[b]"))
    assert console.plain(result) == {"bundle": "runs/x", "score": {"x": 0.123456}, "names": ["a", "[b]"]}
    console.show_facts("title", result)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == ["title", "bundle runs/x", "score.x 0.1235", "names a, [b]"]


def test_json_of_what_is_not_finite() -> None:
    assert console.json_text({"a": float("nan"), "b": [float("inf"), 1.5]}) == '{"a": null, "b": [null, 1.5]}'


@pytest.mark.parametrize(
    ("value", "text"),
    [(3, "3"), (12345, "12,345"), (0.25, "0.25"), (1e-7, "1e-07"), (True, "True"), (float("nan"), "nan"), ("a", "a")],
)
def test_number(value: object, text: str) -> None:
    assert console.number(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (200, "3:20"), (7400, "2:03:20")])
def test_duration(seconds: float, text: str) -> None:
    assert console.duration(seconds) == text


def test_one_line_a_tick(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter([0.0, 0.2, 10.0, 10.1])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with console.Reporter() as progress:
        progress("train", 0, 40)
        progress("train", 1, 40)  # within a second of the last line: left out
        progress("train", 10, 40, {"loss": 0.5, "memory": "1.2 GiB"})
        progress("train", 40, 40)  # the last line always comes
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "train: 0/40 (0 %)",
        "train: 10/40 (25 %)  left 30 s  loss 0.5  memory 1.2 GiB",
        "train: 40/40 (100 %)  left 0 s",
    ]


def test_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    with console.Reporter() as progress:
        progress("generate [x]", 50, 200, {"rows/s": 12.5})
        progress("unknown length", 3, 0)
    text = capsys.readouterr().err
    assert "generate [x]" in text
    assert "50/200" in text
    assert "rows/s 12.5" in text


def test_yaml_byte_for_byte_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_yaml("a: [1]  # [bold]\n")
    assert capsys.readouterr().out == "a: [1]  # [bold]\n"
