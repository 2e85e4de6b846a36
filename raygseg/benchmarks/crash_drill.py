"""Kill generation three times and compare what is there with an undisturbed set.

`raygseg generate` runs as a user would start it, against one local cluster. The driver is killed
(SIGKILL) twice with shards committed and in flight, an actor once; then the command is left to
finish. The undisturbed set is made with another number of actors. Linux only: actors are found in
/proc.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from raygseg.benchmarks.generate import write_sampler
from raygseg.data.pair_set import PairSet
from raygseg.data.pairs import seeds_of
from raygseg.distributed import cluster
from raygseg.errors import TrainingError

ACTOR = b"ray::MapWorker"
PATIENCE_SECONDS = 900.0
DRIVER_KILLS = (0.35, 0.6)  # shares of the shards that are committed when the driver is killed


def start(sampler: str, output: Path, rows: int, rows_per_shard: int, actors: int) -> subprocess.Popen[bytes]:
    """`raygseg generate` in a process group of its own."""
    words = [
        "generate", "name=crash-drill", f"sampler={sampler}", f"output={output}", f"num_pairs={rows}",
        f"rows_per_shard={rows_per_shard}", f"actors={actors}", "runtime.device=cpu",
        f"runtime.tracking_uri=sqlite:///{output.parent}/mlflow.db",
    ]  # fmt: skip
    code = "import sys; from raygseg.cli.app import main; sys.exit(main(sys.argv[1:]))"
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    # Its own result is not ours: stdout stays free for the one line of figures.
    return subprocess.Popen(
        [sys.executable, "-c", code, *words], env=environment, start_new_session=True, stdout=subprocess.DEVNULL
    )


def committed(output: Path) -> int:
    """Shards that are there with their statistics."""
    return len(list(output.glob("stats/*.json")))


def wait_until(reached: Callable[[], bool], process: subprocess.Popen[bytes], what: str) -> None:
    """Raise TrainingError where the process ends first, or it takes too long."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not reached():
        if process.poll() is not None:
            raise TrainingError(f"generation ended (code {process.returncode}) before {what}", "use more rows")
        if time.monotonic() > deadline:
            raise TrainingError(f"{what} was not reached in {PATIENCE_SECONDS:g} s", "free the machine's cores")
        time.sleep(0.02)


def running_actors() -> list[int]:
    """Process ids of the sampling actors of the cluster that this process started."""
    parent, actors = {}, []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            status, command = (folder / "stat").read_text(), (folder / "cmdline").read_bytes()
        except OSError:  # ended meanwhile
            continue
        pid = int(folder.name)
        parent[pid] = int(status.rpartition(")")[2].split()[1])
        if command.startswith(ACTOR):
            actors.append(pid)

    def below(pid: int) -> bool:
        while pid in parent and pid != os.getpid():
            pid = parent[pid]
        return pid == os.getpid()

    return [pid for pid in actors if below(pid)]


def disturbed(sampler: str, output: Path, rows: int, rows_per_shard: int, actors: int) -> dict[str, list[int]]:
    """Generate with two driver kills and one actor kill; how many shards were committed (and actors busy) at each."""
    shards = -(-rows // rows_per_shard)
    kills: dict[str, list[int]] = {"driver": [], "busy": [], "actor": []}
    for share in DRIVER_KILLS:
        driver = start(sampler, output, rows, rows_per_shard, actors)
        wait_until(lambda share=share: committed(output) >= max(3, share * shards), driver, "the driver's kill")  # type: ignore[misc]
        kills["busy"].append(len(running_actors()))  # each samples a shard as long as any is left
        driver.kill()
        driver.wait()
        kills["driver"].append(committed(output))
    driver = start(sampler, output, rows, rows_per_shard, actors)
    before = committed(output)  # once there are more, the actors are the new driver's
    wait_until(lambda: committed(output) > before and bool(running_actors()), driver, "the actor's kill")
    os.kill(running_actors()[0], signal.SIGKILL)
    kills["actor"].append(committed(output))
    finish(driver)
    return kills


def finish(driver: subprocess.Popen[bytes]) -> None:
    if driver.wait() != 0:
        raise TrainingError(f"generation ended with code {driver.returncode}", "see its messages above")


def run(
    sampler: str = "", rows: int = 20_000, rows_per_shard: int = 500, actors: int = 2, undisturbed_actors: int = 1
) -> dict[str, Any]:
    """Measure. `ratio`: seconds of the undisturbed set / seconds with all kills and restarts.

    Args:
        sampler: bundle to sample from; empty: an untrained one at 32 px.
        rows, rows_per_shard: of both sets.
        actors, undisturbed_actors: of the killed and of the undisturbed generation.
    """
    cluster.connect()
    with tempfile.TemporaryDirectory(prefix="raygseg-drill-") as name:
        folder = Path(name)
        sampler = sampler or write_sampler(folder / "sampler", resolution=32, capacity=0.02)
        began = time.perf_counter()
        finish(start(sampler, folder / "undisturbed", rows, rows_per_shard, undisturbed_actors))
        middle = time.perf_counter()
        kills = disturbed(sampler, folder / "killed", rows, rows_per_shard, actors)
        ended = time.perf_counter()
        pairs, reference = PairSet.open(str(folder / "killed")), PairSet.open(str(folder / "undisturbed"))
        seeds = [int(seed) for table in pairs.tables() for seed in seeds_of(table)]
        checksum = pairs.checksum()
        return {
            "name": "crash_drill",
            "ratio": round((middle - began) / (ended - middle), 3),
            "rows": len(seeds),
            "missing": len(set(range(rows)) - set(seeds)),
            "doubled": len(seeds) - len(set(seeds)),
            "same_checksum": checksum == reference.checksum(),
            "checksum": checksum,
            "committed_shards_at_driver_kills": kills["driver"],
            "sampling_actors_at_driver_kills": kills["busy"],
            "committed_shards_at_actor_kill": kills["actor"],
            "leftover_files": len(list((folder / "killed").rglob("*.tmp"))),
            "undisturbed_seconds": round(middle - began, 1),
            "killed_seconds": round(ended - middle, 1),
            "settings": {
                "shards": len(reference.shards),
                "rows_per_shard": rows_per_shard,
                "resolution": reference.resolution,
                "actors": actors,
                "undisturbed_actors": undisturbed_actors,
            },
        }
