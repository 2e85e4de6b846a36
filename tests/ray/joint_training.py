"""The real joint recipe with everything live, in Ray workers, with a pause a step so that there is time to kill one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raygseg.engine.loop import Training
from tests.ray.gan_training import SlowStream
from tests.unit.engine.joint_training import joint


def make(config: Mapping[str, Any], device: str) -> Training:
    """config: kimg of the whole run, seconds a micro-batch."""
    recipe, stream = joint(config["kimg"])
    return Training(recipe, SlowStream(stream, config["seconds"]))
