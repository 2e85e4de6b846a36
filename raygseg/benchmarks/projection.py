"""What a batch saves in latent projection: eight pictures at once against the same eight one by one.

Both sides are `nn.projection.project` with the same plan, pictures, generator and feature network, each in a
process of its own that is set up alike. The baseline is the plain form of a projector: a call a picture. The
statistics of w are computed once for all of them, on both sides; released projectors compute them anew for every
picture, which would cost ours `statistics_cpu_seconds` more a picture.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from raygseg.benchmarks.support.host import StolenTime
from raygseg.benchmarks.support.rounds import RoundProcess, Setting
from raygseg.data.sources import open_pictures
from raygseg.engine.process import use_cpu
from raygseg.errors import ConfigError
from raygseg.interfaces import Generator
from raygseg.methods.stylegan2.discriminator_features import DiscriminatorFeatures
from raygseg.methods.stylegan2.generator import StyleGAN2Generator
from raygseg.methods.stylegan2.mobile import load_mobile_generator
from raygseg.nn.backbones.catalogue import FILES
from raygseg.nn.backbones.pooled import SHOWN
from raygseg.nn.backbones.vgg16 import load_vgg16
from raygseg.nn.projection import PerceptualDistance, Projection, ProjectionPlan, latent_spread, project
from raygseg.pipelines.kinds import load_generator
from raygseg.pipelines.projection_store import BATCH

TOY = str(Path(__file__).resolve().parents[2] / "configs" / "toy" / "generator")
GENERATORS = ("toy", "stylegan2", "mobile")


class Task(NamedTuple):
    """What both sides do, as plain values."""

    generator: str
    resolution: int
    features: str
    precision: str
    pictures: int
    steps: int
    noise_share: float


class Prepared(NamedTuple):
    generator: Generator
    distance: PerceptualDistance
    images: Tensor
    plan: ProjectionPlan


def prepared(task: Task) -> Prepared:
    """Networks and pictures of a task. ConfigError for a generator that is not known."""
    generator = _generator(task)
    side = generator.resolution
    source = "toy://default?count=100&seed=5"
    if task.generator == "mobile":
        source = f"{os.environ.get('RAYGSEG_DATA', '')}/faces/frontal?split=train"
    pictures = open_pictures(source, side, limit=task.pictures)
    images = torch.stack([torch.from_numpy(pictures.read(i)) for i in range(task.pictures)])
    signed = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    plan = ProjectionPlan(task.steps, noise_share=task.noise_share)
    distance = PerceptualDistance(*features_of(task.features, side, _precision(task)))
    return Prepared(generator, distance, signed, plan)


def _generator(task: Task) -> Generator:
    """toy: the repository's own; stylegan2: untrained, of the published widths; mobile: of RAYGSEG_DATA."""
    if task.generator == "toy":
        return load_generator(TOY)
    if task.generator == "stylegan2":
        torch.manual_seed(0)
        return StyleGAN2Generator(task.resolution).eval().requires_grad_(False)
    if task.generator == "mobile":
        file = Path(os.environ.get("RAYGSEG_DATA", ""), "weights", "face_generator_mobile.safetensors")
        return load_mobile_generator(file, task.resolution, precision=_precision(task))
    raise ConfigError(f"generator: '{task.generator}' is not known", f"use one of {list(GENERATORS)}")


def features_of(name: str, side: int, precision: Any = "fp32") -> tuple[nn.Module, str]:
    """VGG-16 where its file is there, else a discriminator, untrained: it costs what a trained one costs."""
    file = Path(os.environ.get("RAYGSEG_DATA", ""), "weights", FILES["vgg16"])
    if name == "vgg16" or (name == "auto" and file.is_file()):
        return load_vgg16(file, 5, side, precision), SHOWN["vgg16"]
    torch.manual_seed(1)
    network = DiscriminatorFeatures({"resolution": side, "channel_base": 2048, "channel_max": 64})
    return network.eval().requires_grad_(False), "discriminator (untrained)"


def _precision(task: Task) -> Any:
    return task.precision


def in_batches(work: Prepared, size: int) -> list[Projection]:
    """Project `size` pictures at a time."""
    spread = latent_spread(work.generator)
    return [
        project(work.generator, work.distance, part, plan=work.plan, spread=spread) for part in work.images.split(size)
    ]


def round_of(task: tuple[Any, ...], size: int) -> Callable[[], None]:
    """A call that projects all pictures once."""
    work = prepared(Task(*task))

    def once() -> None:
        in_batches(work, size)

    return once


def run(
    generator: str = "toy",
    resolution: int = 64,
    features: str = "auto",
    precision: str = "fp32",
    pictures: int = BATCH,
    steps: int = 30,
    noise_share: float = 0.2,
    repeats: int = 5,
    threads: int = 1,
) -> dict[str, Any]:
    """Measure. `ratio`: median over rounds of seconds one by one / seconds in one batch.

    `ratio_cpu`: the same of processor time, which holds on a host that does other things meanwhile too.

    `distance_difference`: largest difference of a picture's final distance between the two ways, and
    `distance_mean` to hold it against.

    Args:
        generator: toy (configs/toy/generator, 32 px), stylegan2 (untrained, published widths, at `resolution`) or
            mobile (the face generator of RAYGSEG_DATA, at `resolution`).
        features: vgg16, discriminator (untrained), or auto: vgg16 where RAYGSEG_DATA has it.
        precision: of VGG-16's and the face generator's convolutions: fp32 or bf16.
        pictures: in the batch.
        threads: of torch, on both sides.
    """
    stolen = StolenTime()
    task = Task(generator, resolution, features, precision, pictures, steps, noise_share)
    setting = Setting(threads, True)
    seconds: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    with (
        RoundProcess(setting, round_of, tuple(task), pictures) as batch,
        RoundProcess(setting, round_of, tuple(task), 1) as single,
    ):
        rounds = {"batch": batch, "one by one": single}
        for i in range(repeats):
            for name in list(rounds) if i % 2 else reversed(list(rounds)):
                seconds.setdefault(name, []).append(rounds[name]())
                cpu.setdefault(name, []).append(rounds[name].cpu_seconds)
    together, alone, statistics, name, side = _both(task, threads)
    return {
        "name": "projection",
        "ratio": _ratio(seconds["one by one"], seconds["batch"]),
        "ratio_cpu": _ratio(cpu["one by one"], cpu["batch"]),
        "seconds_a_picture": {key: round(median(values) / pictures, 3) for key, values in seconds.items()},
        "cpu_seconds_a_picture": {key: round(median(values) / pictures, 3) for key, values in cpu.items()},
        "statistics_cpu_seconds": round(statistics, 3),
        "distance_difference": float((together.distances - alone.distances).abs().max()),
        "distance_mean": round(float(together.distances.mean()), 4),
        "baseline": "project() a picture at a time, statistics of w computed once",
        "features": name,
        "stolen": stolen.share(),
        "settings": {**task._asdict(), "resolution": side, "features": features, "repeats": repeats,
                     "threads": threads, "torch": torch.__version__},
    }  # fmt: skip


def _ratio(baseline: list[float], ours: list[float]) -> float:
    return round(median(b / o for b, o in zip(baseline, ours, strict=True)), 3)


def _both(task: Task, threads: int) -> tuple[Projection, Projection, float, str, int]:
    """What both ways find, seconds that the statistics of w take, the feature network's name, the pictures' size."""
    previous = torch.get_num_threads()
    use_cpu(threads)
    try:
        work = prepared(task)
        together, alone = (Projection.joined(in_batches(work, size)) for size in (task.pictures, 1))
        began = time.process_time()
        latent_spread(work.generator)
        statistics = time.process_time() - began
        return together, alone, statistics, work.distance.name, work.generator.resolution
    finally:
        torch.set_num_threads(previous)
