"""What Ray, encoding and writing cost the sampler: pairs a second of `generate` against the bare sampler.

Both sides run the same randomly initialised StyleGAN2 with a CNN-S head, loaded from the same
bundle, in batches of the same size, with the same number of torch threads. The baseline samples in
this process and throws the pairs away. Ours is `generate_pairs` with one actor, which also encodes
and writes; its rate is taken from the end of the first shard to the end of the last, so that
starting the actor counts for neither side.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from raygseg.benchmarks.support.host import StolenTime
from raygseg.bundle import write_bundle
from raygseg.data.shards import Manifest
from raygseg.distributed import cluster
from raygseg.distributed.generation import ActorPool, SamplerLoader, generate_pairs
from raygseg.interfaces import PairSampler
from raygseg.labels import LabelSpace
from raygseg.methods.repurposegan.heads import LabelHead
from raygseg.methods.repurposegan.sampler import GeneratorHeadSampler
from raygseg.methods.stylegan2.generator import StyleGAN2Generator

CLASSES = 9


def write_sampler(folder: Path, resolution: int, capacity: float) -> str:
    """The bundle of an untrained sampler; its path."""
    torch.manual_seed(0)
    build = {"resolution": resolution, "channel_base": int(32768 * capacity), "channel_max": int(512 * capacity)}
    generator = StyleGAN2Generator(**build)
    head = LabelHead("cnn-s", generator.feature_layers, CLASSES, resolution)
    labels = LabelSpace(tuple(f"part{i}" for i in range(CLASSES)))
    sampler = GeneratorHeadSampler(generator.eval(), head, labels)
    write_bundle(folder, sampler.to_bundle({"architecture": "stylegan2", **build}))
    return str(folder)


def load(path: str, device: str) -> PairSampler:
    """In the actor and in this process alike."""
    from raygseg.pipelines.kinds import load_sampler

    return load_sampler(path, device=device)


def bare_rate(sampler: PairSampler, rows: int, batch_size: int) -> float:
    """Pairs a second of the sampler alone."""
    began = time.perf_counter()
    for first in range(0, rows, batch_size):
        sampler.sample(range(first, min(first + batch_size, rows)))
    return rows / (time.perf_counter() - began)


def generate_rate(path: str, output: str, wanted: Manifest, threads: int) -> float:
    """Pairs a second of generation with one actor, in the steady state."""
    loader = SamplerLoader(__name__, load.__name__, path)
    pool = ActorPool(actors=1, cpus=float(threads), threads=threads)
    return generate_pairs(loader, output, wanted, "overwrite", pool).pairs_per_second


def run(
    repeats: int = 3,
    shards: int = 7,
    rows_per_shard: int = 64,
    batch_size: int = 16,
    resolution: int = 64,
    capacity: float = 0.25,
    threads: int = 1,
) -> dict[str, Any]:
    """Measure. `ratio`: median over paired repeats of baseline / ours seconds a pair.

    Args:
        repeats: pairs of measurements, in alternating order.
        shards: shards a repeat; the first is left out of the rate, the baseline samples as many rows as count.
        rows_per_shard, batch_size: of the generated set.
        resolution, capacity: of the generator (spec A1); pairs have its resolution.
        threads: torch threads of the actor and of the baseline.
    """
    previous = torch.get_num_threads()
    torch.set_num_threads(threads)
    cluster.connect()
    stolen = StolenTime()
    bare: list[float] = []
    ours: list[float] = []
    try:
        with tempfile.TemporaryDirectory(prefix="raygseg-generate-") as folder:
            path = write_sampler(Path(folder, "sampler"), resolution, capacity)
            sampler = load(path, "cpu")
            settings = {"sampler": "untrained", "first_seed": 0, "batch_size": batch_size, "image_format": "png"}
            wanted = Manifest(settings, sampler.labels, resolution, (shards * rows_per_shard,), rows_per_shard)
            bare_rate(sampler, batch_size, batch_size)  # warm-up
            for repeat in range(repeats):
                for side in (0, 1) if repeat % 2 == 0 else (1, 0):
                    if side == 0:
                        bare.append(bare_rate(sampler, (shards - 1) * rows_per_shard, batch_size))
                    else:
                        ours.append(generate_rate(path, str(Path(folder, "pairs")), wanted, threads))
    finally:
        torch.set_num_threads(previous)
    return {
        "name": "generate",
        "ratio": round(median(o / b for o, b in zip(ours, bare, strict=True)), 3),
        "baseline_pairs_per_second": round(median(bare), 2),
        "generate_pairs_per_second": round(median(ours), 2),
        "stolen": stolen.share(),
        "ratios": [round(o / b, 3) for o, b in zip(ours, bare, strict=True)],
        "settings": {
            "resolution": resolution,
            "capacity": capacity,
            "head": "cnn-s",
            "classes": CLASSES,
            "rows": shards * rows_per_shard,
            "rows_per_shard": rows_per_shard,
            "batch_size": batch_size,
            "actors": 1,
            "threads": threads,
            "repeats": repeats,
            "torch": torch.__version__,
        },
    }
