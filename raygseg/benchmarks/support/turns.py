"""The ticks of a run that goes on, given to arms in turn: what else runs on the machine while each of them passes.

Whole runs one after the other meet a virtual machine in different moods; ticks that follow each other meet the same.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from raygseg.tracking.journal import Journal

PROCESSES = Path("/proc")
TASK = b"ray::_run"  # as Ray titles the process of a `distributed.background.BackgroundCall`
LOOK_S = 0.2
ARMS = ("alone", "validated", "busy")


class Turns:
    """From entering until leaving, a thread that lets run what the arm of the present tick allows.

    alone: neither; validated: the task beside the training; busy: a process that only counts, as unhurried as the
    task. What is not allowed is stopped by SIGSTOP, and goes on where it was in its next turn.

    Args:
        place: the run's folder.
        stay: ticks that an arm stays. The first of them is not counted: a change comes up to `LOOK_S` late.
        lead: ticks of warming up that belong to no arm.
        ticks: of the run; after them the task is let run.

    Attributes:
        task_s: processor seconds of the task during its turns. turn_s: how long these were.
    """

    def __init__(self, place: Path, stay: int, lead: int, ticks: int) -> None:
        self.place, self.stay, self.lead, self.ticks = place, stay, lead, ticks
        self.task_s = self.turn_s = 0.0
        self._counter = subprocess.Popen(["nice", "-n", "10", sys.executable, "-c", "while True: pass"])
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._counter.send_signal(signal.SIGSTOP)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.set()
        self._thread.join()
        allow(tasks(), True)
        self._counter.kill()
        self._counter.wait()

    def arm_of(self, tick: int) -> str:
        """Of the tick with this number, from 0; "validated" before the first turn and after the last."""
        if not self.lead <= tick < self.ticks:
            return "validated"
        return ARMS[(tick - self.lead) // self.stay % len(ARMS)]

    def sorted(self, paces: Sequence[float]) -> dict[str, list[float]]:
        """The paces of a run's ticks by arm, those after a change left out; an arm's n-th belongs to turn n's."""
        found: dict[str, list[float]] = {arm: [] for arm in ARMS}
        for tick in range(self.lead, min(len(paces), self.ticks)):
            if (tick - self.lead) % self.stay:
                found[self.arm_of(tick)].append(paces[tick])
        return found

    def _watch(self) -> None:
        known: dict[int, float] = {}
        then, journal = time.perf_counter(), Journal(self.place)
        while not self._end.wait(LOOK_S):
            journal.reload()
            tick = len(paces(journal))
            arm, running = self.arm_of(tick), tasks()
            allow(running, arm == "validated")
            allow([self._counter.pid], arm == "busy")
            used = {process: cpu_seconds(process) for process in running}
            now = time.perf_counter()
            if arm == "validated" and self.lead <= tick < self.ticks:
                self.task_s += sum(seconds - known.get(process, seconds) for process, seconds in used.items())
                self.turn_s += now - then
            known, then = used, now


def paces(journal: Journal) -> list[float]:
    """Seconds a kimg of every tick of a run."""
    return [float(entry.metrics["s_per_kimg"]) for entry in journal.since(0) if "s_per_kimg" in entry.metrics]


def tasks() -> list[int]:
    """Processes of calls in the background."""
    found = []
    for folder in PROCESSES.glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().startswith(TASK):
                found.append(int(folder.name))
        except OSError:  # it has ended meanwhile
            continue
    return found


def allow(processes: Sequence[int], running: bool) -> None:
    """Let go on, or stop."""
    for process in processes:
        try:
            os.kill(process, signal.SIGCONT if running else signal.SIGSTOP)
        except ProcessLookupError:
            continue


def cpu_seconds(process: int) -> float:
    """Processor time of a process and its threads; 0 once it has ended."""
    try:
        told = (PROCESSES / str(process) / "stat").read_text()
    except OSError:
        return 0.0
    user, system = told.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
