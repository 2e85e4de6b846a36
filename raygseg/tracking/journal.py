"""The local journal of a run: every point and picture is written here before it is sent to MLflow.

One JSON object a line, `{"nimg", "time", "metrics": {...}}` or `{"nimg", "time", "picture", "file"}`. What a
dead server missed is sent from here later, in this process or after a resume. Times are kept, so that
sending a point twice is the same row in MLflow.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

JOURNAL = "tracking.jsonl"
PICTURES = "pictures"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """What happened at `nimg` images seen, at `time` (ms since 1970): metrics, or one picture's file."""

    nimg: int
    time: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    picture: str = ""
    file: str = ""

    def line(self) -> str:
        record: dict[str, Any] = {"nimg": self.nimg, "time": self.time}
        if self.picture:
            record |= {"picture": self.picture, "file": self.file}
        else:
            record["metrics"] = dict(self.metrics)
        return json.dumps(record)


class Journal:
    """Entries in order, in memory and in `folder/tracking.jsonl`. Thread-safe.

    A folder that cannot be written (a full disk) costs the file and one warning, never the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / JOURNAL
        self._lock = threading.Lock()
        self._entries: list[Entry] = []
        self._warned = False
        self._stump = False
        self.reload()

    def __len__(self) -> int:
        return len(self._entries)

    def since(self, position: int) -> list[Entry]:
        """Entries number `position` and on."""
        with self._lock:
            return self._entries[position:]

    def append(self, entry: Entry) -> None:
        with self._lock:
            self._entries.append(entry)
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                with open(self.path, "a", encoding="utf-8") as file:
                    file.write(("\n" if self._stump else "") + entry.line() + "\n")
                self._stump = False
            except OSError as error:
                self._warn(error)

    def reload(self) -> None:
        """Read the file again: another process of the same run may have added to it."""
        try:
            lines = self.path.read_bytes().split(b"\n")
        except OSError:
            return
        entries = [entry for entry in map(_parse, lines) if entry is not None]
        with self._lock:
            if len(entries) >= len(self._entries):
                self._entries = entries
            # A kill in the middle of a line leaves a stump: the next entry must start on its own line.
            self._stump = bool(lines[-1])

    def keep_picture(self, nimg: int, name: str, picture: NDArray[np.uint8]) -> str:
        """Write the picture as PNG under the folder; its path relative to the folder, "" if that failed."""
        from PIL import Image

        file = self.folder / PICTURES / f"{name.replace('/', '_')}-{nimg:010d}.png"
        temporary = file.with_suffix(".part")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(temporary, format="PNG")
            os.replace(temporary, file)
        except OSError as error:
            self._warn(error)
            return ""
        return str(file.relative_to(self.folder))

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            _log.warning("%s cannot be written (%s); points that MLflow misses now are lost", self.path, error)


def _parse(line: bytes) -> Entry | None:
    """An Entry, or None for a blank or broken line (a kill in the middle of a write)."""
    try:
        record = json.loads(line)
        return Entry(
            nimg=int(record["nimg"]),
            time=int(record["time"]),
            metrics={str(key): float(value) for key, value in record.get("metrics", {}).items()},
            picture=str(record.get("picture", "")),
            file=str(record.get("file", "")),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
