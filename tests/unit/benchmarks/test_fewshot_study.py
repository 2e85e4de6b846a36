"""The study of PANet trains each arm of a fold once, under the same plan, and scores after every fold."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raygseg import benchmarks
from raygseg.benchmarks import fewshot
from raygseg.errors import ConfigError


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Trainings that leave a folder, and scorings, in order."""
    made = SimpleNamespace(trained=[], scored=[])

    def train(config: Any, progress: Any) -> Any:
        made.trained.append(config)
        if progress is not None:
            progress("train", 1, 2, {})
        bundle = Path(config.runtime.output, "bundle")
        bundle.mkdir(parents=True)
        return SimpleNamespace(bundle_path=str(bundle), nimg=1, metrics={"loss": 1.0})

    def score(**settings: Any) -> dict[str, Any]:
        made.scored.append(settings)
        return {"rows": list(settings["folds"])}

    monkeypatch.setattr("raygseg.pipelines.train.train", train)
    monkeypatch.setattr(fewshot, "run", score)
    return made


def study(place: Path, **changes: Any) -> dict[str, Any]:
    for part in ("fewshot", "weights"):
        (place / part).mkdir(exist_ok=True)
    told = {"folds": (1, 0), "kimg": 0.9, "resolution": 24, "overrides": ("optimiser.lr=0.5",), **changes}
    return benchmarks.run("fewshot-study", output=str(place / "out"), data=str(place), **told)


def test_arms_differ_in_what_they_are_named_for_alone(tmp_path: Path, calls: SimpleNamespace) -> None:
    found = study(tmp_path)
    assert found["rows"] == [1, 0]
    assert [config.name for config in calls.trained] == [
        "plain-1", "aligned-1", "plain-0", "aligned-0", "aligned-5-shot-0",
    ]  # fmt: skip
    plain, aligned, _, _, more = calls.trained
    assert (plain.alignment, aligned.alignment, aligned.shots, more.shots) == (0, 1, 1, 5)
    assert (aligned.schedule.total_kimg, aligned.optimiser.lr_step_kimg) == (0.9, 0.6)
    assert (more.schedule.total_kimg, more.optimiser.lr_step_kimg) == (0.5, 0.3333)
    for config in calls.trained:
        assert config.optimiser.lr == 0.5 and config.resolution == 24 and config.seed == 0
    same = {"name", "alignment", "runtime", "base"}
    assert plain.model_dump(exclude=same) == aligned.model_dump(exclude=same)


def test_weak_labels_are_scored_once_their_fold_is_trained(tmp_path: Path, calls: SimpleNamespace) -> None:
    study(tmp_path)
    assert [(told["folds"], told["weak_fold"]) for told in calls.scored] == [((1,), -1), ((1, 0), 0)]
    bundle = calls.scored[0]["arms"]["aligned 5-shot"].format(fold=0)
    assert bundle == f"{calls.trained[-1].runtime.output}/bundle" and Path(bundle).is_dir()


def test_what_is_trained_is_not_trained_again(tmp_path: Path, calls: SimpleNamespace) -> None:
    study(tmp_path, folds=(1,), more_fold=-1)
    study(tmp_path, folds=(1, 2), more_fold=-1)
    assert [config.name for config in calls.trained] == ["plain-1", "aligned-1", "plain-2", "aligned-2"]


def test_another_plan_is_not_mixed_in(tmp_path: Path, calls: SimpleNamespace) -> None:
    study(tmp_path, folds=(1,), more_fold=-1)
    with pytest.raises(ConfigError, match=r"plain-1\.json was made under another plan"):
        study(tmp_path, folds=(1,), more_fold=-1, kimg=1.2)


def test_what_is_under_way_is_told(tmp_path: Path, calls: SimpleNamespace) -> None:
    told: list[tuple[Any, ...]] = []
    study(tmp_path, folds=(1,), progress=lambda *words: told.append(words))
    assert told == [(f"{arm}-1: train", 1, 2, {}) for arm in ("plain", "aligned")]
    assert calls.scored[0]["progress"] is not None
