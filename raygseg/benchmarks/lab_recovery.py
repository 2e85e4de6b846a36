"""How long a training stands still when a host dies or is cut off: detect, restart, first step.

On the rehearsal cluster (`cluster/lab`, root): a head and worker hosts of one CPU each, checkpoints on S3, the job
submitted as a user would. `spare`: a host with a worker dies and another takes its place; `shrink`: there is no
other, the run goes on with fewer, and grows when the host is back; `cut`: the host lives on without a network.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from statistics import median
from typing import Any, NamedTuple

from raygseg.benchmarks.support.rehearsal import Rehearsal, Told, rehearsal, wait_until
from raygseg.errors import ConfigError, TrainingError

WORKER = "ray::RayTrainWorker"
WORKERS = 3
LIMITS = {"spare": 30.0, "shrink": 60.0, "cut": 45.0}  # seconds from the blow to the first step
LOST = re.compile(r"(\d{4}-\d\d-\d\dT\S+): lost, and starting again")
GOING = re.compile(
    r"(\d{4}-\d\d-\d\dT\S+): going on at (\S+) kimg with (\d+) workers?(?: instead of (\d+))? "
    r"\((?:(\S+) s until there was room, )?(\S+) s to load, (\S+) s to the first step\)"
)


class Recovery(NamedTuple):
    """Seconds from the blow until the driver knew, from then until the workers had loaded, and to their first step."""

    detect: float
    restart: float
    first_step: float
    workers: int

    @property
    def total(self) -> float:
        return self.detect + self.restart + self.first_step


def run(
    folder: str = "/var/tmp/raygseg-recovery",
    hosts: int = 4,
    rounds: int = 3,
    blows: Sequence[str] = ("spare", "shrink", "cut"),
    steps_between_checkpoints: int = 20,
    progress: Callable[..., None] | None = None,
) -> dict[str, Any]:
    """Measure every blow `rounds` times, each on a fresh run.

    Args:
        folder: of the lab; one that is up there is used and left as it was found.
        hosts: worker hosts; more than three, for there to be a spare one.
        rounds, blows: how often, and which.
        steps_between_checkpoints: what a loss costs besides: steps that are done again.
    """
    if unknown := [blow for blow in blows if blow not in LIMITS]:
        raise ConfigError(f"blows: there is no '{unknown[0]}'", f"use some of {', '.join(LIMITS)}")
    if hosts <= WORKERS:
        raise ConfigError(f"hosts: {hosts} leave no spare one beside {WORKERS} workers", "set hosts=4")
    found: dict[str, list[Recovery]] = {blow: [] for blow in blows}
    grown: list[float] = []
    with rehearsal(folder, hosts) as lab:
        for number in range(rounds):
            for blow in blows:
                drill = Drill(lab, blow, f"{blow}-{number}-{int(time.time())}", steps_between_checkpoints)
                found[blow].append(drill.run())
                grown += [drill.grown] if drill.grown else []
                if progress is not None:
                    progress(blow, number + 1, rounds, {"total_s": round(found[blow][-1].total, 1)})
    rows = {blow: summary(blow, recoveries) for blow, recoveries in found.items()}
    worst = max(row["median_s"] / row["limit_s"] for row in rows.values())
    return {"ratio": round(worst, 3), "blows": rows, "grown_back_s": [round(value, 1) for value in grown]}


def summary(blow: str, recoveries: Sequence[Recovery]) -> dict[str, Any]:
    """The median of the totals beside its limit; every round with its parts."""
    return {
        "median_s": round(median(recovery.total for recovery in recoveries), 1),
        "limit_s": LIMITS[blow],
        "rounds": [
            {name: round(value, 1) for name, value in (*recovery._asdict().items(), ("total", recovery.total))}
            for recovery in recoveries
        ],
    }


class Drill:
    """One run of three workers, one blow.

    Attributes:
        grown: seconds from the return of a host until the run stepped with all its workers again; 0 for none.
    """

    def __init__(self, lab: Rehearsal, blow: str, name: str, interval: int) -> None:
        self.lab, self.blow, self.place = lab, blow, f"s3://lab/drills/{name}"
        self.fewest, self.interval, self.grown = (2 if blow == "shrink" else 0), interval, 0.0
        self._struck: list[str] = []

    def run(self) -> Recovery:
        wait_until(self.lab.all_answer, "all hosts answer", 2.0)
        if self.blow == "shrink":
            self.strike("kill", self.lab.hosts[-1])
            wait_until(lambda: "dead" in self.lab("status", check=False).stdout, "the spare host is gone", 1.0)
        job = self.lab.at_desk(*self.words())
        try:
            job.wait_for(lambda line: "train: " in line and "left" in line, "the first tick")
            wait_until(lambda: self.nimg() > 0, "the first checkpoint", 1.0)
            host = sorted(set(self.lab.processes(WORKER)) & set(self.lab.hosts))[-1]
            recovery = self.hit(job, host)
            if self.blow == "shrink":
                self.grow(job, host)
        finally:
            job.interrupt()  # the job saves and ends
            job.end()
            self.lab.heal(*self._struck)
        if not self.nimg():
            raise TrainingError(f"{self.place}: no whole checkpoint after the run", job.last())
        return recovery

    def strike(self, how: str, host: str) -> None:
        self._struck.append(host)
        self.lab(how, host)

    def hit(self, job: Told, host: str) -> Recovery:
        after, began = len(job.lines), time.time()
        self.strike("cut" if self.blow == "cut" else "kill", host)
        lost = job.wait_for(LOST.search, "the loss is noticed", after)
        going = job.wait_for(GOING.search, "the run goes on", after)
        detected = datetime.fromisoformat(lost[1]).timestamp() - began
        room, loading, step = (float(going[n] or 0) for n in (5, 6, 7))
        return Recovery(detected, room + loading, step, int(going[3]))

    def grow(self, job: Told, host: str) -> None:
        after, began = len(job.lines), time.time()
        self.lab("heal", host)
        going = job.wait_for(lambda line: (m := GOING.search(line)) and int(m[3]) == WORKERS and m, "it grows", after)
        self.grown = datetime.fromisoformat(going[1]).timestamp() - began

    def words(self) -> list[str]:
        """A small run that would go on for hours; a tick every 10 steps."""
        batch = 4 * WORKERS
        return [
            "raygseg", "submit", "train", "configs/toy/gan.yaml", f"runtime.output={self.place}",
            f"runtime.workers={WORKERS}", f"runtime.min_workers={self.fewest}", "runtime.resize_s=5",
            f"schedule.batch_size={batch}", "schedule.micro_batch=4", "schedule.total_kimg=1000",
            f"runtime.tick_kimg={10 * batch / 1000}", f"runtime.checkpoint_kimg={self.interval * batch / 1000}",
        ]  # fmt: skip

    def nimg(self) -> int:
        """Pictures that the newest whole checkpoint has seen."""
        return int(self.lab.asked("checkpoint", self.place)["nimg"])
