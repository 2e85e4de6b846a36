"""The ladders: tables say what was measured, rungs change settings that exist, turned faces are even by yaw."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raygseg import benchmarks
from raygseg.benchmarks import faces_ladder, student_ladder
from raygseg.benchmarks.faces_ladder import SOME, TURNED, Ladder
from raygseg.config.schema import SegmenterConfig
from raygseg.config.sections import HeadNetwork, HeadTraining, StudentLoss
from raygseg.data.sources import open_labelled
from raygseg.errors import ConfigError


def scores(parts: float, coverage: float = 1.0) -> dict[str, object]:
    iou = {"background": 0.9, "eyes": parts}
    found = {"parts": parts, "with background": (0.9 + parts) / 2, "draws": [parts], "iou": iou}
    return {**found, "never predicted": [], "coverage": coverage}


def test_the_table_names_every_arm_and_what_it_refused() -> None:
    direct = {"frontal": scores(0.5), TURNED: {**scores(0.25), "by yaw": {"0": 0.4, "90": 0.1}}}
    projected = {"frontal": scores(0.6, 0.8), SOME: {**scores(0.3, 0.5), "by yaw": {"0": 0.45}}}
    figures = {"k=1 direct": direct, "k=1 projection": projected, "k=1 pairs": {"agreement with strong": [0.75]}}
    text = faces_ladder.markdown(figures)
    assert "| k=1 direct | 50.0, 70.0 (50.0) | 25.0, 57.5 (25.0) | 0 %, 0 % |" in text
    assert "| k=1 projection | 60.0, 75.0 (60.0) | 30.0, 60.0 (30.0) | 20 %, 50 % |" in text
    assert "| k=1 direct | 40 | - | - | - | - | - | 10 |" in text
    assert "by draw: 75.0." in text


def test_every_rung_changes_settings_that_exist() -> None:
    for changes, _ in student_ladder.PAIRS.values():
        assert set(changes) <= {*HeadNetwork.model_fields, *HeadTraining.model_fields}
    for pairs, changes in student_ladder.RUNGS.values():
        assert pairs in student_ladder.PAIRS
        loss = {key: value for key, value in changes.items() if key in student_ladder.LOSS_KEYS}
        assert set(loss) <= set(StudentLoss.model_fields)
        assert set(changes) - set(loss) <= set(SegmenterConfig.model_fields)
        StudentLoss.model_validate(loss)


def test_turned_faces_are_drawn_evenly_by_yaw(tmp_path: Path) -> None:
    place = tmp_path / "faces" / "multipose"
    for part in ("images", "masks"):
        (place / part).mkdir(parents=True)
    yaws = {f"{yaw}-{person}": yaw for yaw in (-90, 0, 90) for person in range(4)}
    for stem in yaws:
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(place / "images" / f"{stem}.png")
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(place / "masks" / f"{stem}.png")
    (place / "labels.json").write_text(json.dumps({"classes": ["background", "face"]}))
    (tmp_path / "faces" / "meta.json").write_text(json.dumps({"yaw_degrees": yaws}))
    Ladder(tmp_path / "out", tmp_path, 1).choose_turned(6)
    chosen = open_labelled(f"{tmp_path / 'out' / SOME}?split=test", None)
    assert Counter(abs(yaws[Path(name).stem]) for name in chosen.names) == {0: 3, 90: 3}


def test_progress_is_not_a_setting() -> None:
    with pytest.raises(ConfigError, match="no setting 'speed'"):
        benchmarks.run("faces-ladder", print, speed=1)
    with pytest.raises(ConfigError, match="its settings: output"):
        benchmarks.run("faces-ladder", print, sped=1)
