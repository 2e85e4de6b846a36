"""PANet's recipe on episodes of shapes, in Ray workers, with a pause a step so that there is time to kill one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raygseg.engine.loop import Training
from raygseg.methods.panet.training import EpisodeStream, PanetRecipe
from tests.ray.gan_training import SlowStream
from tests.unit.methods.panet.few_shapes import ShapeEpisodes, configure, small_network


def make(config: Mapping[str, Any], device: str) -> Training:
    """config: kimg (thousands of episodes) of the whole run, seconds a micro-batch."""
    plan = configure(schedule={"total_kimg": config["kimg"], "batch_size": 4, "micro_batch": 2})
    return Training(
        PanetRecipe(plan, "cpu", small_network()), SlowStream(EpisodeStream(ShapeEpisodes()), config["seconds"])
    )
