"""A backbone head and a student with a backbone inside go through train, the registry, evaluate and segment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raygseg.bundle import read_bundle
from raygseg.config.schema import KINDS, EvaluateConfig
from raygseg.pipelines.evaluate import evaluate
from raygseg.pipelines.kinds import load_segmenter
from raygseg.pipelines.segment import segment
from raygseg.pipelines.train import plan, train
from tests.unit.nn.backbones.weights_files import write_efficientnet_lite0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]  # making an MLflow store takes its time


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs")
    write_efficientnet_lite0(place / "e.safetensors", depth=2)
    return place


def configuration(folder: Path, kind: str) -> dict[str, Any]:
    backbone = {"name": "efficientnet-lite0", "weights": str(folder / "e.safetensors")}
    own = {
        "backbone-head": {
            "backbone": backbone,
            "head": {"projection_dim": 8, "layers": ["stride2", "stride4"]},
            "training": {"steps": 4, "batch_size": 2},
        },
        "segmenter": {
            "network": {"width": 8, "depth": 2, "backbone": backbone},
            "schedule": {"total_kimg": 0.008, "batch_size": 2},
        },
    }
    runtime = {"in_process": True, "output": str(folder / kind), "tracking_uri": f"sqlite:///{folder}/mlflow.db"}
    source = "toy://default?count=6&seed=0"
    return {"name": kind, "labelled": source, "labelled_limit": 3, "resolution": 32, "runtime": runtime} | own[kind]


@pytest.mark.parametrize("kind", ["backbone-head", "segmenter"])
def test_the_whole_way(folder: Path, kind: str) -> None:
    config = KINDS[kind].model_validate(configuration(folder, kind))
    facts = plan(config)
    assert facts["steps"] == 4 and sum(facts["parameters"].values()) < 50_000  # the backbone's are not trained
    result = train(config)
    assert result.nimg == 8 and result.model_name == kind
    bundle = read_bundle(result.bundle_path)
    assert "SHA-256" in bundle.card and "3 items" in bundle.card and "EfficientNet-Lite0" in bundle.card
    assert train(config).model_version == result.model_version  # finished: nothing is trained again

    store = str(config.runtime.tracking_uri)
    segmenter = load_segmenter(f"models:/{kind}/{result.model_version}", store)
    assert segmenter.predict([np.zeros((20, 30, 3), np.uint8)])[0].label_map.shape == (20, 30)
    values = {
        "name": f"score-{kind}", "model": result.bundle_path, "data": "toy://default?count=3&seed=5",
        "output": str(folder / f"score-{kind}"), "overlays": 1, "bootstrap": 0, "runtime": {"tracking_uri": store},
    }  # fmt: skip
    assert evaluate(EvaluateConfig.model_validate(values)).pictures == 3
    (folder / "photos").mkdir(exist_ok=True)
    Image.fromarray(np.full((40, 25, 3), 90, np.uint8)).save(folder / "photos" / "a.png")
    found = segment(result.bundle_path, str(folder / "photos"), str(folder / f"masks-{kind}"), tracking_uri=store)
    assert found.segmented == 1
