"""The real GAN recipe with everything live, in Ray workers, with a pause a step so that there is time to kill one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from raygseg.engine.loop import Training
from raygseg.interfaces import Stream
from tests.unit.engine.gan_training import gan


class SlowStream:
    """The pictures of another stream, each micro-batch `seconds` late."""

    def __init__(self, stream: Stream, seconds: float) -> None:
        self._stream, self._seconds = stream, seconds

    def micro_batch(self, first: int, count: int) -> Mapping[str, Tensor]:
        time.sleep(self._seconds)
        return self._stream.micro_batch(first, count)


def make(config: Mapping[str, Any], device: str) -> Training:
    """config: kimg of the whole run, seconds a micro-batch."""
    recipe, stream = gan(config["kimg"])
    return Training(recipe, SlowStream(stream, config["seconds"]))
