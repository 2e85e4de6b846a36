"""A small training for the Ray tests, with a pause a step so that there is time to disturb it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from raygseg.engine.loop import Training
from raygseg.errors import DataError
from tests.unit.engine.regression_recipe import RegressionRecipe, RegressionStream


class SlowStream(RegressionStream):
    """Waits before each micro-batch; at picture `fail_at` it fails like a broken file."""

    def __init__(self, seconds: float, fail_at: int) -> None:
        self.seconds, self.fail_at = seconds, fail_at

    def micro_batch(self, first: int, count: int) -> Mapping[str, Tensor]:
        time.sleep(self.seconds)
        if first <= self.fail_at < first + count:
            raise DataError("broken.png: not a picture", "remove it")
        return super().micro_batch(first, count)


def make(config: Mapping[str, Any], device: str) -> Training:
    """config: total_images, micro_batch (of 8 pictures a step), seconds a micro-batch, fail_at."""
    micro = config.get("micro_batch", 4)
    recipe = RegressionRecipe(batch_size=8, micro_batch=micro, total_images=config["total_images"])

    def previews() -> dict[str, NDArray[np.uint8]]:
        return {"grid": np.full((4, 4, 3), os.getpid() % 256, dtype=np.uint8)}

    return Training(recipe, SlowStream(config.get("seconds", 0.0), config.get("fail_at", -1)), previews)
