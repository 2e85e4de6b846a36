"""The arms with a generator: every picture is projected once and rendered once, whatever arm or fold asks for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raygseg.bundle import Bundle, write_bundle
from raygseg.config.schema import CompareConfig
from raygseg.data.pair_set import PairSet
from raygseg.pipelines import compare_arms, projection_run, projection_store
from raygseg.pipelines.compare import compare
from raygseg.pipelines.feature_nets import FeatureNet
from tests.unit.tiny_networks import BUILD, JUDGE, tiny_features, tiny_generator

PAIRS, GATE = 20, 3


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CompareConfig:
    build = {"architecture": "stylegan2", **BUILD}
    write_bundle(tmp_path / "generator", Bundle("generator", build, tiny_generator().state_dict()))
    net = FeatureNet(tiny_features(), "discriminator", {"network": "discriminator", "discriminator": dict(JUDGE)})
    monkeypatch.setattr(projection_run, "open_features", lambda *_: net)
    values = {
        "name": "trial",
        "labelled": "toy://default?count=4&seed=2&size=16",
        "folds": 2,
        "tests": {"unseen": "toy://default?count=3&seed=8&size=16"},
        "arms": ["projection", "student"],
        "generator": str(tmp_path / "generator"),
        "resolution": 16,
        "schedule": {"total_kimg": 0.016, "batch_size": 4},
        "network": {"width": 4, "depth": 2},
        "head": {"architecture": "linear", "projection_dim": 4, "stack_resolution": 16},
        "projection_steps": 2,
        "gate_samples": GATE,
        "num_pairs": PAIRS,
        "bootstrap": 0,
        "runtime": {"output": str(tmp_path / "out"), "in_process": True},
    }
    return CompareConfig.model_validate(values)


def test_each_picture_is_projected_and_rendered_once(
    config: CompareConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    projected: list[int] = []
    original = projection_store.project

    def counted(generator: Any, distance: Any, images: Any, *rest: Any) -> Any:
        projected.append(len(images))
        return original(generator, distance, images, *rest)

    monkeypatch.setattr(projection_store, "project", counted)
    monkeypatch.setattr(compare_arms, "generate", lambda run: PairSet.open(run.output))  # must be there already
    result = compare(config)
    assert sum(projected) == 4 + GATE + 3  # labelled, of the gate, unseen; three heads and two sets ask for them
    assert {row.arm for row in result.rows} == {"projection", "student"}
    for split in ("fold-0", "fold-1", "all"):
        pairs = PairSet.open(str(tmp_path / "out" / "draw-0" / split / "pairs"))
        assert pairs.manifest.complete and pairs.manifest.num_pairs == PAIRS
    cells = [json.loads(file.read_text()) for file in (tmp_path / "out" / "cells").glob("*.json")]
    assert len(cells) == 6 and all(cell["generator"] == config.generator for cell in cells)
    compare(config)
    assert sum(projected) == 4 + GATE + 3
