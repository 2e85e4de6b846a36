"""What an item of the queue sees of the machine it runs on, and the loop that runs items until the time is over."""

from __future__ import annotations

import logging
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from raygseg.benchmarks.gpu_queue import parcels, records
from raygseg.benchmarks.gpu_queue.items import ITEMS, Item, chosen
from raygseg.benchmarks.gpu_queue.records import DONE, RESULTS, Record

Scale = Literal["full", "tiny"]
RESERVE_SECONDS = 40.0  # to write and pack what was done
ABOUT = "about.json"
log = logging.getLogger(__name__)


def default_work() -> Path:
    """Where work in progress lies on the machine with the GPU: it outlives the command, and is no part of .gpu/."""
    return Path(tempfile.gettempdir(), "raygseg-gpu-queue")


@dataclass
class Lease:
    """A machine for a while.

    Attributes:
        travels: the folder that came along (.gpu).
        work: stays on this machine between commands; work/return/ITEM is what goes back.
        output: from where files go back.
        deadline: of `time.monotonic`, the reserve taken off.
        facts: what every record says: device, versions, commit.
    """

    travels: Path
    work: Path
    output: Path
    device: str
    scale: Scale
    deadline: float
    facts: Mapping[str, Any] = field(default_factory=dict)
    known: list[Record] = field(default_factory=list)

    def __post_init__(self) -> None:
        came = records.read(self.travels / RESULTS)
        here = records.read(self.work / RESULTS)
        self.known = [*came, *records.unknown(here, came)]
        # What an earlier command measured here goes back again: nobody may have collected it.
        (self.output / RESULTS).unlink(missing_ok=True)
        records.append(self.output / RESULTS, records.unknown(here, came))

    def remaining(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()

    def record(self, item: str, key: str, figures: Mapping[str, Any]) -> None:
        """Keep a measurement, here and among what goes back, at once."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        record = {"item": item, "key": key, "at": at, **figures, **self.facts}
        self.known.append(record)
        for folder in (self.work, self.output):
            records.append(folder / RESULTS, [record])
        print(f"{item} {key}: {_brief(figures)}", flush=True)

    def has(self, item: str, key: str) -> bool:
        """Whether this was measured before, on whatever machine; what was skipped then is open."""
        return any((r["item"], r["key"]) == (item, key) and "skipped" not in r for r in self.known)

    def returned(self, item: str) -> Path:
        """The folder of what goes back from an item."""
        folder = self.work / "return" / item
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def _brief(figures: Mapping[str, Any]) -> str:
    return "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items())[:2000]


def run_items(lease: Lease, names: Sequence[str] = ()) -> list[str]:
    """Run the named items, else all that are not done, while there is time; the names of those that were begun.

    An item that fails is recorded with its trace and does not keep the next from running.
    """
    begun = []
    for item in chosen(names, records.done_items(lease.known)):
        lacking = [need for need in item.needs if not (lease.travels / need).exists()]
        if lacking:
            print(f"{item.name}: passed over, {lease.travels}/{lacking[0]} did not come along", flush=True)
            continue
        if lease.remaining() <= 0:
            print(f"{item.name}: no time left", flush=True)
            continue
        begun.append(item.name)
        if _finished(item, lease) and item.name not in records.done_items(lease.known):
            lease.record(item.name, DONE, {})
        if parcels.files_below(lease.work / "return"):
            parcels.pack(lease.work / "return", lease.output)
    return begun


def _finished(item: Item, lease: Lease) -> bool:
    try:
        return item.run(lease)
    except Exception:
        log.exception("%s failed", item.name)
        lease.record(item.name, "error", {"error": traceback.format_exc()[-4000:]})
        return False


def table(known: Sequence[Record], travels: Path) -> list[dict[str, str]]:
    """The queue for a person."""
    done = records.done_items(known)
    rows = []
    for item in ITEMS:
        count = sum(record["item"] == item.name for record in known)
        state = "done" if item.name in done else f"begun ({count} records)" if count else "to do"
        needs = ", ".join(f"{need}{'' if (travels / need).exists() else ' (missing)'}" for need in item.needs)
        rows.append(
            {
                "item": item.name,
                "minutes": str(item.minutes),
                "state": state,
                "needs": needs or "-",
                "comes back": item.returns,
                "what": item.what,
            }
        )
    return rows
