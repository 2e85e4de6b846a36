"""What the host did meanwhile: on a virtual machine other guests may take part of the processor."""

from __future__ import annotations

from pathlib import Path

STAT = Path("/proc/stat")


class StolenTime:
    """Share of the wanted processor time that the hypervisor gave to others since this was made.

    A figure of a benchmark that compares one process with two is worth little when it is above a few
    per cent: two that wait for each other lose more than one alone.
    """

    def __init__(self) -> None:
        self._start = _ticks()

    def share(self) -> float:
        """In 0..1; 0 where the system does not say."""
        busy, stolen = (now - then for now, then in zip(_ticks(), self._start, strict=True))
        return round(stolen / (busy + stolen), 4) if busy + stolen else 0.0


def _ticks() -> tuple[int, int]:
    """Busy and stolen clock ticks of all processors since the machine started."""
    if not STAT.exists():
        return 0, 0
    user, nice, system, _idle, _wait, irq, softirq, stolen = map(int, STAT.read_text().split("\n")[0].split()[1:9])
    return user + nice + system + irq + softirq, stolen
