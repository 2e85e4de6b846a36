"""The projection benchmark on the toy generator: both ways find the same, and its line holds what it promises."""

from __future__ import annotations

import json
from typing import Any, Self

import pytest

from raygseg.benchmarks import projection
from raygseg.errors import ConfigError


class Here:
    """Builds the round in this process and does not run it."""

    cpu_seconds = 1.0

    def __init__(self, setting: object, make: Any, *arguments: Any) -> None:
        self.work = make(*arguments)

    def __call__(self) -> float:
        return 1.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "RoundProcess", Here)
    line = projection.run(features="discriminator", pictures=2, steps=4, repeats=1)
    assert (line["name"], line["ratio"], line["features"]) == ("projection", 1.0, "discriminator (untrained)")
    assert line["distance_difference"] < 1e-2 * line["distance_mean"]
    assert line["settings"]["resolution"] == 32
    assert json.loads(json.dumps(line)) == line
    with pytest.raises(ConfigError, match="'face' is not known"):
        projection.run(generator="face")
