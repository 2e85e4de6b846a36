"""What an encoder's guess saves as the start of a projection: the distance reached in few and in many steps.

Every length is a whole projection with its own learning-rate schedule, from the mean w and from the encoder, of the
same pictures: the generator's own, which the encoder was made for, and photos, which it has never seen.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from raygseg.benchmarks.projection import Task, prepared
from raygseg.engine.process import use_cpu
from raygseg.nn.latent_encoder import EncoderPlan, kept_encoder
from raygseg.nn.projection import latent_spread, project
from raygseg.nn.projection_gate import FIRST_SEED, own_pictures
from raygseg.pipelines.projection_store import network_hash

STARTS = ("mean", "encoder")
Curve = Mapping[int, float]  # steps -> mean distance


def run(
    generator: str = "toy",
    resolution: int = 64,
    features: str = "auto",
    pictures: int = 8,
    steps: Sequence[int] = (0, 5, 10, 20, 40, 60),
    encoder: str = "runs/projection-start/encoder.safetensors",
    encoder_pictures: int = 2000,
    threads: int = 1,
) -> dict[str, Any]:
    """Measure. `steps_saved`: of the longest projection, by the shortest one from the encoder that is no worse.

    Args:
        generator, resolution, features: see the benchmark `projection`.
        encoder: its file; trained and written there where it is missing. encoder_pictures: for its training.
    """
    previous = torch.get_num_threads()
    use_cpu(threads)
    try:
        task = Task(generator, resolution, features, "bf16", pictures, 1, 0.0)
        return _measured(task, steps, encoder, encoder_pictures)
    finally:
        torch.set_num_threads(previous)


def _measured(task: Task, steps: Sequence[int], file: str, encoder_pictures: int) -> dict[str, Any]:
    work = prepared(task)
    began = time.process_time()
    guess = kept_encoder(file, work.generator, network_hash(work.generator), EncoderPlan(encoder_pictures))
    seconds = time.process_time() - began
    spread = latent_spread(work.generator)
    sets = {
        "generator's own": own_pictures(work.generator, range(FIRST_SEED, FIRST_SEED + task.pictures)),
        "photos": work.images,
    }

    def reached(images: Tensor, start: str, length: int) -> float:
        plan = replace(work.plan, steps=length)
        begin = guess(images) if start == "encoder" else None
        found = project(work.generator, work.distance, images, plan=plan, start=begin, spread=spread)
        return round(float(found.distances.mean()), 4)

    curves = {
        name: {start: {length: reached(images, start, length) for length in steps} for start in STARTS}
        for name, images in sets.items()
    }
    return {
        "name": "projection-start",
        "steps_saved": {name: saved(curve["mean"], curve["encoder"]) for name, curve in curves.items()},
        "distance_by_steps": curves,
        "held_out_error": round(float(guess.held_out_error), 3),
        "encoder_cpu_seconds": round(seconds, 1),
        "features": work.distance.name,
        "settings": {**task._asdict(), "resolution": work.generator.resolution, "encoder_pictures": encoder_pictures},
    }


def saved(mean: Curve, encoder: Curve) -> int:
    """Steps that the encoder's start saves of the longest projection from the mean; 0 where it is never as good."""
    longest = max(mean)
    enough = [length for length in sorted(encoder) if encoder[length] <= mean[longest]]
    return longest - enough[0] if enough else 0
