"""Results of an experiment, each stored when it is there and not made again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raygseg.errors import ConfigError

Cell = dict[str, Any]

Progress = Callable[..., None]  # (stage, done, total, facts)


def within(progress: Progress | None, name: str) -> Progress | None:
    """The same, told which of many things is under way."""
    if progress is None:
        return None
    tell = progress
    return lambda stage, *rest: tell(f"{name}: {stage}", *rest)


class Cells:
    """Named results in FOLDER/cells, one JSON file each, written whole or not at all."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def kept(self, name: str, work: Callable[[], Cell], plan: str = "") -> Cell:
        """The stored result, or what `work` gives, stored with the time that it took.

        Args:
            plan: what the work was made by (a configuration's fingerprint, say).

        Raises ConfigError where the stored result was made by another plan.
        """
        file = self.folder / "cells" / f"{name}.json"
        if not file.is_file():
            wall, cpu = time.perf_counter(), time.process_time()
            cell = work()
            cell |= {"plan": plan} if plan else {}
            cell |= {"wall_s": round(time.perf_counter() - wall, 1), "cpu_s": round(time.process_time() - cpu, 1)}
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps(cell, indent=1) + "\n")
            partial.rename(file)
        stored: Cell = json.loads(file.read_text())
        if plan and stored.get("plan") != plan:
            raise ConfigError(f"{file} was made under another plan", "give output= another folder, or the plan back")
        return stored
