"""The gate lets in what the generator can draw."""

from __future__ import annotations

import json
import math

import pytest
import torch

from raygseg.errors import CheckpointError, ConfigError
from raygseg.nn.projection import Projection, ProjectionPlan, project
from raygseg.nn.projection_gate import Gate, calibrated, own_pictures
from tests.unit.tiny_networks import tiny_distance, tiny_generator


def projections(distances: list[float]) -> Projection:
    values = torch.tensor(distances)
    return Projection(torch.zeros(len(values), 1, 1), values, values / 10, values, torch.full_like(values, 2.0))


def test_the_threshold_is_the_quantile_of_the_generators_own() -> None:
    found = projections([i / 100 for i in range(101)])
    gate = calibrated(found, ProjectionPlan(), "VGG16")
    assert gate.threshold == pytest.approx(0.95)
    assert sum(gate.judge(found)) == 96
    assert gate.accepts(0.95 - 1e-6) and not gate.accepts(0.951) and not gate.accepts(math.nan)
    assert calibrated(found, ProjectionPlan(), "VGG16", slack=2.0).threshold == pytest.approx(1.9)
    relative = calibrated(found, ProjectionPlan(), "VGG16", "relative distance", 0.5)
    assert relative.threshold == pytest.approx(0.25)


def test_it_comes_back_from_json() -> None:
    gate = calibrated(projections([1.0, 2.0]), ProjectionPlan(steps=7), "VGG16", "squared error")
    assert Gate.from_dict(json.loads(json.dumps(gate.to_dict()))) == gate
    with pytest.raises(CheckpointError, match=r"gate\.json: not a gate"):
        Gate.from_dict({"plan": {}}, "gate.json")
    with pytest.raises(CheckpointError, match="'luck' is not known"):
        Gate.from_dict(gate.to_dict() | {"statistic": "luck"})


def test_faults_are_named() -> None:
    with pytest.raises(ConfigError, match="'luck' is not known"):
        calibrated(projections([1.0]), ProjectionPlan(), "VGG16", "luck")
    with pytest.raises(ConfigError, match="no pictures"):
        calibrated(projections([]), ProjectionPlan(), "VGG16")


def test_what_the_generator_draws_passes_and_what_it_cannot_does_not() -> None:
    generator, distance, plan = tiny_generator(), tiny_distance(), ProjectionPlan(20)
    own = own_pictures(generator, range(100, 116))
    gate = calibrated(project(generator, distance, own[:8], plan=plan), plan, distance.name, "squared error", 1.0)
    stripes = torch.where(torch.arange(16) % 2 > 0, 1.0, -1.0).expand(2, 3, 16, 16)
    judged = gate.judge(project(generator, distance, torch.cat([own[8:], stripes]), plan=plan))
    assert sum(judged[:8]) >= 6 and judged[8:] == [False, False]
