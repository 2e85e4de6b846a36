"""The embedding benchmark: both ways find the same, and its line holds what it promises."""

from __future__ import annotations

import json

import pytest

from raygseg.benchmarks import embed
from tests.unit.benchmarks.test_projection_benchmark import Here


def test_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "RoundProcess", Here)
    line = embed.run(32, features="discriminator", steps=2, batch=2, alone=2, channel_base=512, repeats=1)
    assert (line["name"], line["ratio"], line["features"]) == ("embed", 1.0, "discriminator (untrained)")
    assert line["distance_difference"] < 1e-2 * line["distance_mean"]
    assert line["settings"]["steps"] == 2
    assert json.loads(json.dumps(line)) == line
