"""The study of few labels: its cells are made once, its table tells draws apart, its settings are checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raygseg.benchmarks import semanticgan
from raygseg.benchmarks.support.cells import Cell, Cells
from raygseg.benchmarks.support.studies import STUDIES
from raygseg.config.encoder import EncoderConfig
from raygseg.config.joint_gan import JointGanConfig
from raygseg.config.schema import GanConfig, SegmenterConfig
from raygseg.errors import ConfigError, MissingEnvironmentError


def test_a_cell_is_made_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def work() -> Cell:
        calls.append(1)
        return {"value": len(calls)}

    assert Cells(tmp_path).kept("a", work)["value"] == Cells(tmp_path).kept("a", work)["value"] == 1
    (tmp_path / "cells" / "b.partial").write_text("{")  # of a run that was killed while writing
    assert Cells(tmp_path).kept("b", work)["value"] == 2


def cell(value: float) -> dict[str, Any]:
    return dict.fromkeys(semanticgan.FIGURES, value)


def test_the_table_has_a_row_an_arm_and_the_range_of_draws() -> None:
    draws = {
        f"10-labels-{draw}": {f"{arm} {test}": cell(value) for arm in semanticgan.ARMS for test in ("in", "out")}
        for draw, value in enumerate((0.25, 0.75))
    }
    draws["50-labels-0"] = {f"{arm} {test}": cell(0.5) for arm in semanticgan.ARMS for test in ("in", "out")}
    lines = semanticgan.markdown(draws, ["in", "out"]).splitlines()
    assert len(lines) == 2 + 2 * len(semanticgan.ARMS)
    assert lines[2].startswith("| 10 | U-Net on the labels | 2 | 50.0 / 50.0 / 50.0 (25.0 - 75.0) |")
    assert lines[-1] == "| 50 | optimised | 1 | 50.0 / 50.0 / 50.0 | 50.0 / 50.0 / 50.0 |"


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_resolves_at_its_scale(name: str, tmp_path: Path) -> None:
    settings = semanticgan.Settings("/data", 0.5, 5, 0.1, 4, 0, "discriminator")
    trial = semanticgan.Trial(STUDIES[name], settings, tmp_path)
    seen: dict[str, Any] = {}

    def train(run: str, file: str, stage: str, *overrides: str) -> Cell:
        seen[stage] = trial.load(run, file, stage, *overrides)
        return {"bundle": f"{run}/bundle", "checkpoint": f"{run}/checkpoint-1"}

    trial.trained = train  # type: ignore[method-assign]
    semanticgan.Draw(trial, 10, 2, trial.pretrained()).trained()
    assert isinstance(seen["joint"], JointGanConfig) and isinstance(seen["direct"], SegmenterConfig)
    encoder = seen["encoder"]
    assert isinstance(encoder, EncoderConfig)
    assert (encoder.seed, encoder.labelled_limit, encoder.embedding.steps) == (2, 10, 5)
    assert encoder.schedule.total_kimg == pytest.approx(0.5 * STUDIES[name].kimg["encoder"])
    assert encoder.generator == "10-labels-2-joint/bundle"
    assert {run.runtime.in_process for run in seen.values()} == {True}
    joint = seen["joint"]
    assert (joint.labelled, joint.labelled_limit, joint.seed) == (encoder.labelled, 10, 2)
    assert joint.data.flip == encoder.data.flip == seen["direct"].augment.flip
    pretrain = seen.get("pretrain")
    assert joint.start == ("" if pretrain is None else "pretrain/checkpoint-1")
    if pretrain is not None:
        assert isinstance(pretrain, GanConfig) and pretrain.generator.widths == joint.generator.widths
    assert "DATA/" not in str([run.model_dump() for run in seen.values()])


def test_settings_that_are_wrong_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="'cats' is not known"):
        semanticgan.run("cats")
    monkeypatch.delenv("RAYGSEG_DATA", raising=False)
    with pytest.raises(MissingEnvironmentError, match="data sets are not at"):
        semanticgan.run("nuclei")
