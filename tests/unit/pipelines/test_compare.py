"""A comparison trains every arm on every fold once, goes on where it stopped, and leaves a winner that trains."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raygseg.config.loader import load_config
from raygseg.config.schema import CompareConfig
from raygseg.data.picture_files import Picture
from raygseg.errors import ConfigError, DataError, FingerprintError, MissingEnvironmentError
from raygseg.interfaces import Segmentation
from raygseg.pipelines import compare as comparing
from raygseg.pipelines import compare_arms, compare_report, compare_trial, run_folder
from raygseg.pipelines.compare import compare
from raygseg.pipelines.compare_arms import ArmKind, Place, chosen_arms, direct


def wide(config: CompareConfig, place: Place) -> object:
    """A second arm: the same with another seed and network, in its own folder."""
    run = direct(config, place)
    output = run.runtime.output.replace("direct", "backbone")
    return run.model_copy(
        update={
            "network": run.network.model_copy(update={"width": 6}),
            "runtime": run.runtime.model_copy(update={"output": output}),
        }
    )


@pytest.fixture(autouse=True)
def two_arms(monkeypatch: pytest.MonkeyPatch) -> None:
    arms = {
        name: ArmKind(name, file, compare_arms._trained(file))
        for name, file in (("direct", direct), ("backbone", wide))
    }
    monkeypatch.setattr(compare_arms, "weights_place", lambda name, given: Path(__file__))
    for module in (compare_arms, compare_report, compare_trial, comparing):
        monkeypatch.setattr(module, "ARMS", arms)


def config(folder: Path, **changes: object) -> CompareConfig:
    values = {
        "name": "trial",
        "labelled": "toy://default?count=6&seed=2&size=16",
        "shots": 4,
        "folds": 2,
        "tests": {"unseen": "toy://default?count=3&seed=8&size=16"},
        "resolution": 16,
        "schedule": {"total_kimg": 0.016, "batch_size": 4},
        "network": {"width": 4, "depth": 2},
        "bootstrap": 20,
        "runtime": {"output": str(folder), "in_process": True},
        **changes,
    }
    return CompareConfig.model_validate(values)


def test_every_cell_is_run_once_and_the_winner_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []
    original = compare_arms.train

    def stops(run: object, progress: object) -> object:
        trained.append(run.runtime.output)  # type: ignore[attr-defined]
        if len(trained) == 3:
            raise KeyboardInterrupt
        return original(run, progress)  # type: ignore[arg-type]

    monkeypatch.setattr(compare_arms, "train", stops)
    seen: list[tuple[int, int]] = []
    with pytest.raises(KeyboardInterrupt):
        compare(config(tmp_path))
    result = compare(config(tmp_path), lambda stage, done, total, facts: seen.append((done, total)))
    assert len(set(trained)) == 6 and len(trained) == 7  # 2 arms x (2 folds + all), one cut short
    assert seen[-1] == (6, 6)
    assert {row.arm for row in result.rows} == {"direct", "backbone"}
    best = result.rows[0]
    assert result.recommended == best.arm and best.behind == 0 and result.decided_by == "folds"
    record = json.loads((tmp_path / "compare.json").read_text())
    assert [arm["arm"] for arm in record["arms"]] == [row.arm for row in result.rows]
    page = (tmp_path / "report.html").read_text()
    assert "unseen" in page and "data:image/png" in page
    winner = load_config(tmp_path / "winner.yaml")
    assert winner.kind == "segmenter" and winner.labelled_limit == 4  # type: ignore[attr-defined]
    assert winner.labelled == "toy://default?count=6&seed=2&size=16"  # type: ignore[attr-defined]
    trial = compare_trial.Trial(config(tmp_path), str(tmp_path))
    assert trial.unfinished(["direct", "backbone"]) == []
    (tmp_path / "cells" / "draw-0.fold-1.direct.folds.json").unlink()
    assert trial.unfinished(["direct", "backbone"]) == [trial.place_of(0, "fold-1")]


def test_a_fold_never_sees_what_it_is_scored_on(tmp_path: Path) -> None:
    trial = compare_trial.Trial(config(tmp_path), str(tmp_path))
    splits = json.loads((tmp_path / "draw-0" / "labelled" / "splits.json").read_text())
    for cell in trial.cells(["direct"]):
        if cell.scored_on == "folds":
            held_out = cell.source.rpartition("=")[2]
            assert not set(splits[cell.split]) & set(splits[held_out])


def test_another_comparison_in_the_same_place_is_refused(tmp_path: Path) -> None:
    run_folder.claim(str(tmp_path), config(tmp_path))
    with pytest.raises(FingerprintError, match="folds: 2 -> 4"):
        compare(config(tmp_path, folds=4))


def test_another_generator_for_the_same_arm_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(compare_arms.ARMS, "student", ArmKind("pairs", direct, compare_arms._trained(direct)))
    changes = {"arms": ("student",), "tests": {}}
    first = compare_trial.Trial(config(tmp_path, generator="a", **changes), str(tmp_path))
    cell = next(first.cells(["student"]))
    first.run(cell)
    with pytest.raises(FingerprintError, match="was made with generator=a"):
        compare_trial.Trial(config(tmp_path, generator="b", **changes), str(tmp_path)).run(cell)


def test_a_winner_through_a_generator_learns_from_the_first_draw_alone(tmp_path: Path) -> None:
    trial = compare_trial.Trial(config(tmp_path, generator="a"), str(tmp_path))
    place = comparing.winner_place(trial, "student")
    assert place.source == f"{tmp_path}/draw-0/labelled?split=all" and place.folder == f"{tmp_path}/draw-0/all"
    assert comparing.winner_place(trial, "direct").source == trial.config.labelled


def test_what_an_arm_refused_is_counted_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = compare_trial.load_segmenter

    class Refusing:
        """Refuses the first picture it is shown."""

        def __init__(self, *place: str) -> None:
            self.inner = load(*place)

        def predict(self, pictures: list[Picture]) -> list[Segmentation]:
            first, *others = self.inner.predict(pictures)
            return [first._replace(refused=True), *others]

    monkeypatch.setattr(compare_trial, "load_segmenter", Refusing)
    result = compare(config(tmp_path, tests={}, arms=("direct",)))
    assert result.rows[0].coverage == {"folds": 0.5}  # two folds of two pictures each
    assert "50 % refused" in (tmp_path / "table.md").read_text()


def test_draws_learn_from_other_pictures_and_validation_decides(tmp_path: Path) -> None:
    validation = "toy://default?count=2&seed=9&size=16"
    result = compare(config(tmp_path, draws=2, folds=0, validation=validation, tests={}, arms=("direct",)))
    assert result.decided_by == "validation" and len(result.rows[0].sets["validation"].draws) == 2
    names = [json.loads((tmp_path / f"draw-{d}" / "labelled" / "names.json").read_text()) for d in (0, 1)]
    assert names[0] != names[1]
    assert "nothing was set beside it" in result.reason


def test_other_classes_are_refused(tmp_path: Path) -> None:
    import numpy as np

    from raygseg.data.draws import write_draw
    from raygseg.data.sources import open_labelled

    other = str(tmp_path / "other")
    write_draw(open_labelled("toy://default?count=2&seed=8&size=16", None), 0, 0, 0, other)
    names = json.loads((tmp_path / "other" / "labels.json").read_text())
    names["classes"][1] = "something else"
    (tmp_path / "other" / "labels.json").write_text(json.dumps({"classes": names["classes"]}))
    assert np.ndim(names["palette"]) == 2
    with pytest.raises(DataError, match="other classes"):
        compare(config(tmp_path / "out", tests={"other": other}))


def test_arms_that_need_a_generator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = {arm: ArmKind(arm, direct, lambda *_: "") for arm in ("direct", "backbone", "student")}
    monkeypatch.setattr(compare_arms, "ARMS", everything)
    assert chosen_arms(config(tmp_path)) == ["direct", "backbone"]
    assert chosen_arms(config(tmp_path, generator="some/bundle")) == ["direct", "backbone", "student"]
    with pytest.raises(ConfigError, match="'student' needs a generator"):
        chosen_arms(config(tmp_path, arms=("student",)))


def test_an_arm_without_its_weights_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compare_arms, "weights_place", lambda name, given: tmp_path / "vgg16.safetensors")
    assert chosen_arms(config(tmp_path)) == ["direct"]
    assert "'backbone' is left out" in caplog.text
    with pytest.raises(MissingEnvironmentError, match="no weights of vgg16"):
        chosen_arms(config(tmp_path, arms=("backbone",)))


@pytest.mark.parametrize(("changes", "text"), [({"folds": 0}, "something must decide"), ({"folds": 1}, "folds: 1")])
def test_something_must_decide(tmp_path: Path, changes: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        config(tmp_path, **changes)
