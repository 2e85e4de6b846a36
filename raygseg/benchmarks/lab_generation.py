"""Generation to S3 while its driver, an actor, a host and the S3 server are killed, against an undisturbed set.

On the rehearsal cluster (`cluster/lab`, root), submitted as a user would. The driver's death ends the job: the same
command goes on. S3 comes back after a minute. What must come out: every row once, and the undisturbed checksum.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raygseg.benchmarks.generate import write_sampler
from raygseg.benchmarks.support.rehearsal import Rehearsal, Told, rehearsal, wait_until
from raygseg.errors import TrainingError

DRIVER, ACTOR, S3 = "jobs/generate.py", "ray::MapWorker", "s3"
SHARES = {"driver": 0.15, "actor": 0.35, "host": 0.5, "s3": 0.65}  # of the shards when each is killed


def run(
    folder: str = "/var/tmp/raygseg-generation",
    hosts: int = 3,
    rows: int = 50_000,
    rows_per_shard: int = 500,
    sampler: str = "",
    s3_away_s: float = 60.0,
    progress: Callable[..., None] | None = None,
) -> dict[str, Any]:
    """Disturb and compare. `ratio`: seconds of the undisturbed set / seconds with all kills.

    Args:
        folder: of the lab; one that is up there is used and left. hosts: its worker hosts.
        sampler: bundle to sample from; empty: an untrained one at 32 px.
        s3_away_s: how long the S3 server stays dead.
    """
    with tempfile.TemporaryDirectory(prefix="raygseg-drill-") as scratch, rehearsal(folder, hosts) as lab:
        bundle = sampler or write_sampler(Path(scratch, "sampler"), resolution=32, capacity=0.02)
        drill = Drill(lab, bundle, f"s3://lab/drills/pairs-{int(time.time())}", rows, rows_per_shard, progress)
        began = time.perf_counter()
        drill.finish(drill.start("undisturbed"))
        middle = time.perf_counter()
        kills = drill.disturbed("killed", s3_away_s)
        ended = time.perf_counter()
        calm, killed = drill.told("undisturbed"), drill.told("killed")
        return {
            "ratio": round((middle - began) / (ended - middle), 3),
            **killed,
            "same_checksum": killed["checksum"] == calm["checksum"],
            "shards_at_kills": kills,
            "undisturbed_s": round(middle - began, 1),
            "killed_s": round(ended - middle, 1),
            "settings": {"rows": rows, "rows_per_shard": rows_per_shard, "hosts": hosts, "s3_away_s": s3_away_s},
        }


class Drill:
    """Sets below one prefix."""

    def __init__(
        self, lab: Rehearsal, sampler: str, place: str, rows: int, each: int, progress: Callable[..., None] | None
    ) -> None:
        self.lab, self.sampler, self.place, self.rows, self.each = lab, sampler, place, rows, each
        self.progress = progress

    def start(self, name: str) -> Told:
        return self.lab.at_desk(
            "raygseg", "submit", "generate", f"name={name}", f"sampler={self.sampler}", f"output={self.place}/{name}",
            f"num_pairs={self.rows}", f"rows_per_shard={self.each}", "runtime.device=cpu",
        )  # fmt: skip

    def finish(self, job: Told) -> None:
        if job.end() != 0:
            raise TrainingError(f"generation ended with code {job.process.returncode}", job.last(8))

    def told(self, name: str) -> dict[str, Any]:
        return self.lab.asked("pairs", f"{self.place}/{name}", str(self.rows))

    def committed(self, name: str) -> int:
        return int(self.lab.asked("shards", f"{self.place}/{name}")["shards"])

    def disturbed(self, name: str, away: float) -> dict[str, int]:
        """Kill each in turn; committed shards at that time."""
        kills: dict[str, int] = {}
        job = self.start(name)
        self.reach("driver", name, job, kills)
        for pid in self.lab.processes(DRIVER)["head"]:
            os.kill(pid, signal.SIGKILL)
        if job.end() == 0:
            raise TrainingError("the job of a killed driver ended well", job.last())
        job = self.start(name)
        self.reach("actor", name, job, kills)
        actors = self.lab.processes(ACTOR)
        os.kill(actors[min(actors)][0], signal.SIGKILL)
        self.reach("host", name, job, kills)
        host = max(self.lab.processes(ACTOR))
        self.lab("kill", host)
        self.reach("s3", name, job, kills)
        self.lab("kill", S3)
        time.sleep(away)
        self.lab("heal", S3)
        self.finish(job)
        self.lab.heal(host)
        return kills

    def reach(self, stage: str, name: str, job: Told, kills: dict[str, int]) -> None:
        """Wait until so many shards are committed."""
        wanted = SHARES[stage] * self.rows / self.each

        def look() -> bool:
            if job.process.poll() is not None:
                raise TrainingError(f"generation ended before the kill of: {stage}", job.last(8))
            kills[stage] = self.committed(name)
            return kills[stage] >= wanted

        wait_until(look, f"{wanted:.0f} shards", pause=1.0)
        if self.progress is not None:
            self.progress(stage, kills[stage], self.rows // self.each, {})
