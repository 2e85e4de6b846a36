"""Measurements as JSON lines: every one says of which item it is and under which key it can be found again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]
RESULTS = "results.jsonl"
DONE = "done"  # the key of an item's last record


def read(path: Path) -> list[Record]:
    """All whole lines of the file; a line that a killed process cut short is left out."""
    if not path.is_file():
        return []
    records: list[Record] = []
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and {"item", "key", "at"} <= record.keys():
            records.append(record)
    return records


def append(path: Path, records: Iterable[Record]) -> None:
    """Written at once: what is measured is not lost with the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        for record in records:
            file.write(json.dumps(record) + "\n")


def identity(record: Record) -> tuple[str, str, str]:
    return str(record["item"]), str(record["key"]), str(record["at"])


def unknown(records: Sequence[Record], known: Sequence[Record]) -> list[Record]:
    """Those of `records` that are not among `known`, each once, in order."""
    seen = {identity(record) for record in known}
    fresh: list[Record] = []
    for record in records:
        if identity(record) not in seen:
            seen.add(identity(record))
            fresh.append(record)
    return fresh


def done_items(records: Iterable[Record]) -> set[str]:
    return {str(record["item"]) for record in records if record["key"] == DONE}
