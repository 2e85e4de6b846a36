"""What validation beside training costs it: the same run with and without, in pairs.

While checkpoints are measured (FID-VGG16 and a grid, in a Ray task of their own, one after the other without a pause),
the ticks of a run should take as long as without. On a machine that has no core to spare this measures how far the
task gives way; with one, or a GPU, it should cost nothing. A third run beside a process that only counts shows what
the host takes from whoever has a busy neighbour, whatever that does.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from raygseg.benchmarks.support.data_folder import data_folder
from raygseg.benchmarks.support.host import StolenTime
from raygseg.config.loader import load_config
from raygseg.nn.backbones.catalogue import FILES
from raygseg.tracking.journal import Journal

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "toy" / "gan.yaml"
LEAD = 2  # ticks of warming up, and until the first checkpoint is being measured


def run(
    workers: int = 1, ticks: int = 10, tick_kimg: float = 0.25, count: int = 500, repeats: int = 3, data: str = ""
) -> dict[str, Any]:
    """Measure. `ratio`: median over pairs of throughput with validation / alone; `ratio_busy`: / beside the counter.

    Args:
        workers: of the training. ticks, tick_kimg: length of a run, and of what is timed.
        count: pictures of each measurement, generated and real; enough that one is always under way.
        data: folder of the data sets, for the weights; empty: RAYGSEG_DATA.
    """
    from raygseg.pipelines.train import train

    weights = data_folder(data, "weights") / "weights" / FILES["vgg16"]
    ways: dict[str, list[str]] = {
        "alone": [],
        "busy": [],
        "validated": ["validation.every_kimg=0.001", f"validation.count={count}", f"validation.limit={count}"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    measured: list[int] = []
    stolen = StolenTime()
    with tempfile.TemporaryDirectory(prefix="raygseg-validation-") as folder:
        for repeat in range(repeats):
            for name in list(ways) if repeat % 2 else reversed(list(ways)):
                place = Path(folder, f"{name}-{repeat}")
                config = load_config(CONFIG, [
                    f"runtime.output={place}", f"runtime.tracking_uri=sqlite:///{folder}/mlflow.db",
                    f"runtime.workers={workers}", f"schedule.total_kimg={ticks * tick_kimg}",
                    f"runtime.tick_kimg={tick_kimg}", f"runtime.checkpoint_kimg={tick_kimg}",
                    f"validation.weights={weights}", *ways[name],
                ])  # fmt: skip
                with counting(name == "busy"):
                    train(config)
                seconds[name].append(median(paces(place)[LEAD:]))
                if name == "validated":
                    measured.append(len((place / "fidelity.jsonl").read_text().splitlines()))
    return {
        "ratio": ratio(seconds["alone"], seconds["validated"]),
        "ratio_busy": ratio(seconds["busy"], seconds["validated"]),
        "seconds_a_kimg": {name: round(median(values), 2) for name, values in seconds.items()},
        "all_seconds_a_kimg": seconds,
        "checkpoints_measured": measured,
        "stolen": stolen.share(),
        "settings": {"workers": workers, "ticks": ticks, "tick_kimg": tick_kimg, "count": count, "repeats": repeats},
    }


def ratio(without: Sequence[float], validated: Sequence[float]) -> float:
    """Median over pairs."""
    return round(median(a / b for a, b in zip(without, validated, strict=True)), 3)


@contextmanager
def counting(wanted: bool) -> Iterator[None]:
    """Beside a process that counts, as unhurried as the task."""
    if not wanted:
        yield
        return
    process = subprocess.Popen(["nice", "-n", "10", sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def paces(place: Path) -> list[float]:
    """Seconds a kimg of every tick of a run."""
    entries = Journal(place).since(0)
    return [float(entry.metrics["s_per_kimg"]) for entry in entries if "s_per_kimg" in entry.metrics]
