"""What validation beside training costs it: ticks of one run with the task at work and with the task held, in turn.

A checkpoint is under measurement all the time (FID-VGG16 and a grid, in a Ray task of its own). The ticks are given
in turn to three arms: the task held, the task at work, the task held and a process that only counts in its place. The
third shows what the host takes from whoever has a busy neighbour, whatever that does. On a machine that has no core to
spare this measures how far the task gives way; with one, or a GPU, it should cost nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from raygseg.benchmarks.support.data_folder import data_folder
from raygseg.benchmarks.support.host import StolenTime
from raygseg.benchmarks.support.turns import ARMS, PROCESSES, Turns, paces
from raygseg.config.loader import load_config
from raygseg.errors import MissingEnvironmentError
from raygseg.nn.backbones.catalogue import FILES
from raygseg.tracking.journal import Journal

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "toy" / "gan.yaml"
STAY = 3  # ticks that an arm stays
LEAD = 2 * STAY  # warming up, and until the first checkpoint is being measured


def run(workers: int = 1, cycles: int = 6, tick_kimg: float = 0.25, count: int = 500, data: str = "") -> dict[str, Any]:
    """Measure. `ratio`: median over cycles of throughput with validation / alone; `ratio_busy`: / beside the counter.

    `task_share`: processor time of the task in its turns, of one core; small where there is none to spare.

    Args:
        workers: of the training. cycles: how often each arm has its turn. tick_kimg: length of a tick.
        count: pictures of each measurement, generated and real.
        data: folder of the data sets, for the weights; empty: RAYGSEG_DATA.
    """
    from raygseg.pipelines.train import train

    if not PROCESSES.is_dir():
        raise MissingEnvironmentError("this system has no /proc", "run this benchmark on Linux")
    weights = data_folder(data, "weights") / "weights" / FILES["vgg16"]
    ticks = LEAD + cycles * len(ARMS) * STAY
    stolen = StolenTime()
    with tempfile.TemporaryDirectory(prefix="raygseg-validation-") as folder:
        place = Path(folder, "run")
        config = load_config(CONFIG, [
            f"runtime.output={place}", f"runtime.tracking_uri=sqlite:///{folder}/mlflow.db",
            f"runtime.workers={workers}", f"schedule.total_kimg={ticks * tick_kimg}",
            f"runtime.tick_kimg={tick_kimg}", f"runtime.checkpoint_kimg={STAY * tick_kimg}",
            f"runtime.keep_checkpoints={ticks}",  # the held task may be slow to read its own
            "validation.every_kimg=0.001", f"validation.count={count}", f"validation.limit={count}",
            f"validation.weights={weights}",
        ])  # fmt: skip
        with Turns(place, STAY, LEAD, ticks) as turns:
            train(config)
        seconds = turns.sorted(paces(Journal(place)))
        measured = len((place / "fidelity.jsonl").read_text().splitlines())
    turn = STAY - 1
    return {
        "ratio": ratio(seconds["alone"], seconds["validated"], turn),
        "ratio_busy": ratio(seconds["busy"], seconds["validated"], turn),
        "seconds_a_kimg": {arm: round(median(values), 2) for arm, values in seconds.items()},
        "task_share": round(turns.task_s / turns.turn_s, 3) if turns.turn_s else 0.0,
        "all_seconds_a_kimg": {arm: [round(value, 2) for value in values] for arm, values in seconds.items()},
        "checkpoints_measured": measured,
        "stolen": stolen.share(),
        "settings": {"workers": workers, "cycles": cycles, "tick_kimg": tick_kimg, "count": count},
    }


def ratio(without: Sequence[float], validated: Sequence[float], turn: int) -> float:
    """Median over turns of `turn` ticks each; arms' turns of the same number followed each other."""
    sums = [[sum(values[i : i + turn]) for i in range(0, len(values), turn)] for values in (without, validated)]
    return round(float(median(a / b for a, b in zip(*sums, strict=True))), 3)
