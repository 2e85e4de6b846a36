"""What the user sees: tables, YAML, errors, and progress as a bar on a terminal or plain lines elsewhere.

Results go to stdout, everything else to stderr, so that `raygseg benchmark NAME --json | jq` works.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from raygseg.errors import RaygsegError

Facts = Mapping[str, object]


def stdout() -> Console:
    """Made at each use: tests and `| head` replace sys.stdout."""
    return Console(file=sys.stdout, highlight=False, soft_wrap=not sys.stdout.isatty())


def stderr() -> Console:
    return Console(file=sys.stderr, highlight=False, soft_wrap=not sys.stderr.isatty())


def show_error(error: RaygsegError) -> None:
    """What is wrong in red, then how to mend it."""
    console = stderr()
    console.print(f"[bold red]error:[/] [red]{escape(error.message)}[/]")
    if error.hint:
        console.print(f"  [bold]fix:[/] {escape(error.hint)}")


def show_unexpected(error: BaseException) -> None:
    """An error that nobody foresaw: its type, text and the last line of ours it passed."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "raygseg" in frame.filename]
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    show_error(
        RaygsegError(
            f"unexpected {type(error).__name__}: {error}{where}", "run again with --verbose for the whole trace"
        )
    )


def number(value: object) -> str:
    """Figures short enough for a status line; anything else as text."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    return f"{value:.4g}" if math.isfinite(value) else str(value)


def plain(value: Any) -> Any:
    """Dataclasses and named tuples as dicts, for tables and JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if hasattr(value, "_asdict"):
        return {k: plain(v) for k, v in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return value.item() if hasattr(value, "item") else str(value)


def json_text(value: Any, indent: int | None = None) -> str:
    """`plain(value)` as JSON that every reader takes: what is not finite becomes null."""
    return json.dumps(_finite(plain(value)), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show_facts(title: str, facts: Any) -> None:
    """A two-column table of a mapping, dataclass or named tuple; nested ones with dotted names."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _dotted(plain(facts)):
        table.add_row(escape(name), escape(value))
    stdout().print(table)


def show_table(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    """A line a row; the first row's keys are the columns."""
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2))
    for name in rows[0] if rows else ():
        table.add_column(escape(name), justify="right")
    for row in rows:
        table.add_row(*(escape(str(value)) for value in row.values()))
    stdout().print(table)


def _dotted(facts: Any, prefix: str = "") -> list[tuple[str, str]]:
    if not isinstance(facts, dict):
        return [(prefix or "result", number(facts))]
    rows: list[tuple[str, str]] = []
    for name, value in facts.items():
        if isinstance(value, dict):
            rows += _dotted(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            rows.append((f"{prefix}{name}", ", ".join(number(v) for v in value)))
        else:
            rows.append((f"{prefix}{name}", number(value)))
    return rows


def show_yaml(text: str) -> None:
    """YAML, coloured on a terminal and byte for byte elsewhere."""
    if not sys.stdout.isatty():
        sys.stdout.write(text)
        return
    from rich.syntax import Syntax

    stdout().print(Syntax(text, "yaml", background_color="default", word_wrap=True))


def duration(seconds: float) -> str:
    """`42 s`, `3:20`, `2:03:20`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


class Reporter:
    """The `progress(stage, done, total, facts)` that pipelines call; use it as a context manager.

    On a terminal: one bar a stage, with the time left. Elsewhere: one line a tick, at most one a
    second for a stage, its first and last always.
    """

    def __init__(self) -> None:
        self._console = stderr()
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, tuple[float, float]] = {}
        self._last: dict[str, float] = {}

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bars = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[amount]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("[dim]{task.fields[facts]}"),
                console=self._console,
            )
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, stage: str, done: float, total: float, facts: Facts | None = None) -> None:
        """done and total in the stage's own unit; facts: what else belongs on the line (losses, memory)."""
        text = "  ".join(f"{name} {number(value)}" for name, value in (facts or {}).items())
        if self._bars is None:
            self._line(stage, done, total, text)
            return
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(escape(stage), total=total or None, amount="", facts="")
        amount = f"{number(done)}/{number(total)}" if total else number(done)
        self._bars.update(
            self._tasks[stage], completed=done, total=total or None, amount=amount, facts=escape(text), refresh=True
        )

    def _line(self, stage: str, done: float, total: float, text: str) -> None:
        now = time.monotonic()
        began, first_done = self._began.setdefault(stage, (now, done))
        finished = bool(total) and done >= total
        if stage in self._last and now - self._last[stage] < 1.0 and not finished:
            return
        self._last[stage] = now
        parts = [f"{stage}: {number(done)}" + (f"/{number(total)} ({100 * done / total:.0f} %)" if total else "")]
        if total and done > first_done:
            parts.append(f"left {duration((now - began) / (done - first_done) * (total - done))}")
        self._console.print("  ".join([*parts, text] if text else parts), markup=False)
