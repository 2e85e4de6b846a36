"""Training with Ray: two one-thread workers against one, and one against the loop in this process.

All three run the same toy GAN on the same data with one-thread processes. A step has two
micro-batches: two workers take one each, one worker accumulates both, so the work per step is equal
(and so are the weights). The time of a step is the median over ticks, the first tick left out:
start-up of Ray, of the networks and of the pictures' cache is apart. The one checkpoint (in real runs
one in hundreds of steps) comes after the last tick. The three are measured in turn, `repeats` times;
ratios are medians of the ratios within a repeat.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from raygseg.benchmarks.support.host import StolenTime
from raygseg.config.schema import GanConfig

STEPS_PER_TICK = 16  # one whole round of the lazy regularisers
FACTORY = "raygseg.pipelines.trainables:make_training"


def gan_config(output: str, workers: int, ticks: int, batch_size: int, resolution: int, capacity: int) -> GanConfig:
    """A StyleGAN2 small enough for a CPU, with R1 and path length; its few pictures are soon all in memory."""
    tick_kimg = STEPS_PER_TICK * batch_size / 1000
    values: dict[str, Any] = {
        "name": "ddp-benchmark",
        "data": {"source": "toy://default?count=64&seed=0", "resolution": resolution},
        "schedule": {"total_kimg": tick_kimg * ticks, "batch_size": batch_size, "micro_batch": batch_size // 2},
        "generator": {"z_dim": 64, "w_dim": 64, "mapping_layers": 2, "channel_base": capacity, "channel_max": 64},
        "augment": {"mode": "none"},
        "runtime": {
            "output": output,
            "workers": workers,
            "device": "cpu",
            "threads": 1,
            "tick_kimg": tick_kimg,
            "checkpoint_kimg": 2 * ticks * tick_kimg,
        },
    }
    return GanConfig.model_validate(values)


class StepTimes:
    """Seconds a step at every tick but the first."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._seconds: list[float] = []

    def add(self, metrics: Mapping[str, float]) -> None:
        self._seconds.append(metrics["s_per_kimg"] * self._batch_size / 1000)

    def typical(self) -> float:
        return median(self._seconds[1:])


def in_process(config: GanConfig) -> float:
    """Seconds a step of the loop in this process."""
    from raygseg.engine.local import run_local
    from raygseg.engine.loop import Clock, Hooks
    from raygseg.pipelines.trainables import make_training

    times = StepTimes(config.schedule.batch_size)

    class Listen(Hooks):
        def on_tick(self, clock: Clock, metrics: Mapping[str, float]) -> None:
            times.add(metrics)

    training = make_training(config.model_dump(mode="json"), "cpu")
    run_local(training.recipe, training.stream, config.runtime.output, config.runtime, [Listen()])
    return times.typical()


def on_ray(config: GanConfig) -> float:
    """Seconds a step of Ray Train's workers."""
    from raygseg.distributed.noticeboard import Notice, Tick
    from raygseg.distributed.training import Job, train_on_ray

    times = StepTimes(config.schedule.batch_size)

    def listen(notice: Notice) -> None:
        if isinstance(notice, Tick):
            times.add(notice.metrics)

    plain = config.model_dump(mode="json")
    train_on_ray(Job(FACTORY, plain, config.runtime.output, "", plain["runtime"]), listen)
    return times.typical()


def run(
    repeats: int = 5, ticks: int = 4, batch_size: int = 32, resolution: int = 32, capacity: int = 2048
) -> dict[str, Any]:
    """Measure. `ratio`: time of one worker / two workers; `one_worker_ratio`: time in process / one worker."""
    from raygseg.distributed import cluster

    settings = {"batch_size": batch_size, "resolution": resolution, "capacity": capacity, "ticks": ticks}
    ways: dict[str, tuple[int, Callable[[GanConfig], float]]] = {
        "in_process": (1, in_process),
        "one_worker": (1, on_ray),
        "two_workers": (2, on_ray),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    cluster.connect()
    stolen = StolenTime()
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(repeats):
            for name, (workers, measure) in ways.items():
                place = str(Path(folder, f"{name}-{repeat}"))
                config = gan_config(place, workers, ticks, batch_size, resolution, capacity)
                seconds[name].append(measure(config))
    pairs = list(zip(seconds["in_process"], seconds["one_worker"], seconds["two_workers"], strict=True))
    return {
        "name": "ddp",
        "ratio": median(one / two for _, one, two in pairs),
        "one_worker_ratio": median(local / one for local, one, _ in pairs),
        "seconds_a_step": {name: median(values) for name, values in seconds.items()},
        "all_seconds_a_step": seconds,
        "stolen": stolen.share(),
        "settings": {**settings, "repeats": repeats, "steps_a_tick": STEPS_PER_TICK, "threads": 1},
    }
