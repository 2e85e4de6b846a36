"""`evaluate` with a segmenter that thresholds colours, on pictures of many sizes written by the test."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from raygseg.config.schema import EvaluateConfig
from raygseg.data.sources import open_labelled
from raygseg.errors import DataError, RegistryError
from raygseg.interfaces import Picture, Segmentation
from raygseg.labels import LabelSpace
from raygseg.pipelines import evaluate as evaluate_module
from raygseg.pipelines.evaluate import evaluate

LABELS = LabelSpace(("background", "red", "green", "blue"), void=255)
PURE = LabelSpace(LABELS.names, ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)))
SIZES = [(16, 16), (1, 1), (40, 7), (9, 30), (300, 7), (24, 24)]


@dataclass
class ColourSegmenter:
    """The strongest channel above 128 is the part; `blind` names a class it never sees."""

    labels: LabelSpace = LABELS
    resolution: int = 16
    blind: int = -1
    largest_batch: int = 0

    def predict(self, pictures: Sequence[Picture]) -> list[Segmentation]:
        self.largest_batch = max(self.largest_batch, len(pictures))
        return [self._one(p) for p in pictures]

    def _one(self, picture: Picture) -> Segmentation:
        chosen = np.where(picture.max(-1) > 128, picture.argmax(-1) + 1, 0).astype(np.uint8)
        chosen[chosen == self.blind] = 0
        return Segmentation(chosen, np.full(chosen.shape, 204, np.uint8))

    def probabilities(self, images: Tensor) -> Tensor:
        raise NotImplementedError


def scene(index: int, size: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A label map of random stripes and the picture of pure colours that it describes."""
    rng = np.random.default_rng(index)
    truth = np.repeat(np.repeat(rng.integers(0, 4, (8, 8)), 40, 0), 40, 1)[: size[0], : size[1]].astype(np.uint8)
    truth = np.where(rng.random(size) < 0.3, rng.integers(0, 3, size), truth).astype(np.uint8)
    return PURE.colourise(truth), truth


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    for name in ("images", "masks"):
        (data / name).mkdir(parents=True)
    LABELS.save(data / "labels.json")
    for i, size in enumerate(SIZES):
        picture, truth = scene(i, size)
        Image.fromarray(picture).save(data / "images" / f"p{i}.png")
        Image.fromarray(truth).save(data / "masks" / f"p{i}.png")
    return data


def config(folder: Path, **changes: object) -> EvaluateConfig:
    output = str(folder.parent / "out")
    values = {"name": "check", "model": "bundle", "data": str(folder), "output": output, "bootstrap": 50}
    return EvaluateConfig.model_validate(values | changes)


@pytest.fixture(autouse=True)
def recorded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the test that is about the store has one: making it takes seconds."""
    if "store" not in request.fixturenames:
        monkeypatch.setattr(evaluate_module, "track_evaluation", lambda *_: "")


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.mark.timeout(120)
def test_an_evaluation_is_a_run_of_the_experiment_store(folder: Path, store: str) -> None:
    from mlflow.tracking import MlflowClient

    wanted = config(folder, runtime={"tracking_uri": store})
    first = evaluate(wanted, ColourSegmenter(blind=3))
    run = MlflowClient(store).get_run(first.run_id)
    assert run.info.status == "FINISHED" and run.data.params["boundary_tolerance"] == "0.01"
    assert run.data.metrics["miou"] == pytest.approx(first.metrics["miou"])
    assert run.data.metrics["iou.blue"] == 0 and run.inputs.dataset_inputs[0].dataset.digest
    assert "report.html" in {file.path for file in MlflowClient(store).list_artifacts(first.run_id)}
    assert evaluate(wanted, ColourSegmenter(blind=3)).run_id == first.run_id
    assert evaluate(wanted, ColourSegmenter(blind=2)).run_id not in ("", first.run_id)  # other figures, another run


def test_a_perfect_segmenter_scores_one_at_every_size(folder: Path) -> None:
    segmenter = ColourSegmenter()
    result = evaluate(config(folder, batch_size=4), segmenter)
    assert result.pictures == len(SIZES) and result.skipped == 0
    assert all(value == 1.0 for value in result.metrics.values())
    assert segmenter.largest_batch == 4
    assert set(result.files) == {"metrics", "parts", "best", "worst", "report"}


def test_what_is_written_agrees_with_what_is_returned(folder: Path) -> None:
    result = evaluate(config(folder), ColourSegmenter(blind=3))
    assert result.never_predicted == ["blue"]
    assert result.iou["blue"] == 0.0
    record = json.loads(Path(result.files["metrics"]).read_text())
    assert record["metrics"] == pytest.approx(result.metrics)
    assert record["never_predicted"] == ["blue"]
    confusion = np.array(record["confusion"])
    assert confusion.sum() == sum(h * w for h, w in SIZES)
    assert confusion[:, 3].sum() == 0 and confusion[3, 0] == confusion[3].sum() > 0
    for name, (low, high) in record["intervals"].items():
        assert low <= record["metrics"][name] <= high, name
    parts = list(csv.DictReader(Path(result.files["parts"]).read_text().splitlines()))
    assert [p["name"] for p in parts] == list(LABELS.names)
    assert float(parts[1]["iou"]) == pytest.approx(result.iou["red"])
    assert parts[3]["remark"] == "never predicted"
    page = Path(result.files["report"]).read_text()
    assert "never predicted" in page and "http" not in page.split("<body>")[1]
    assert Image.open(result.files["worst"]).size[0] > 4 * 72


def test_the_worst_picture_is_drawn_first_and_no_picture_twice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raygseg.viz import extremes

    sheets: list[list[str]] = []

    def keep(rows: Sequence[extremes.Comparison], labels: LabelSpace) -> NDArray[np.uint8]:
        sheets.append([row.caption.split()[0] for row in rows])
        return np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr(extremes, "comparison_sheet", keep)
    evaluate(config(folder, overlays=8), ColourSegmenter(blind=1))
    scores = []
    for i, size in enumerate(SIZES):
        picture, truth = scene(i, size)
        predicted = ColourSegmenter(blind=1).predict([picture])[0].label_map
        parts = [k for k in (1, 2, 3) if ((truth == k) | (predicted == k)).any()]
        overlaps = [((truth == k) & (predicted == k)).sum() / ((truth == k) | (predicted == k)).sum() for k in parts]
        scores.append(np.mean(overlaps) if parts else np.mean(truth == predicted))
    ranking = [f"p{i}" for i in sorted(range(len(SIZES)), key=lambda i: (-scores[i], i))]
    best, worst = [[name.rsplit("/")[-1].removesuffix(".png") for name in sheet] for sheet in sheets]
    assert best == ranking[:3] and worst == ranking[:2:-1]
    again = evaluate(config(folder, overlays=2, output=str(folder.parent / "two")), ColourSegmenter(blind=1))
    assert sheets[2:] == [sheets[0][:2], sheets[1][:2]]
    assert again.pictures == len(SIZES)


def test_absent_classes_are_listed_and_left_out(tmp_path: Path, folder: Path) -> None:
    wide = LabelSpace((*LABELS.names, "violet"), void=255)
    wide.save(folder / "labels.json")
    result = evaluate(config(folder), ColourSegmenter(labels=wide))
    assert result.absent == ["violet"]
    assert np.isnan(result.iou["violet"]) and result.metrics["miou"] == 1.0
    assert json.loads(Path(result.files["metrics"]).read_text())["parts"][4]["iou"] is None


@pytest.mark.parametrize(("names", "words"), [
    (("background", "red", "green", "violet"), r"only the model has \['violet'\], only the data has \['blue'\]"),
    (("background", "green", "red", "blue"), "the order differs"),
])  # fmt: skip
def test_other_classes_are_refused_by_name(folder: Path, names: tuple[str, ...], words: str) -> None:
    with pytest.raises(DataError, match=words):
        evaluate(config(folder), ColourSegmenter(labels=LabelSpace(names)))


def test_corrupt_pictures_are_counted_and_listed(folder: Path) -> None:
    torn = (folder / "images" / "p0.png").read_bytes()[:60]
    (folder / "images" / "p5.png").write_bytes(torn)
    data = open_labelled(str(folder), None, max_bad_fraction=0.5)
    result = evaluate(config(folder), ColourSegmenter(), data)
    assert (result.pictures, result.skipped) == (len(SIZES) - 1, 1)
    listed = json.loads(Path(result.files["metrics"]).read_text())["skipped"]
    assert "p5" in listed[0]["file"] and "decoded" in listed[0]["reason"]
    assert "Skipped files" in Path(result.files["report"]).read_text()


def test_without_resamples_or_overlays(folder: Path) -> None:
    result = evaluate(config(folder, bootstrap=0, overlays=0), ColourSegmenter())
    record = json.loads(Path(result.files["metrics"]).read_text())
    assert record["intervals"] == {} and record["parts"][0]["iou_low"] is None
    assert set(result.files) == {"metrics", "parts", "report"}
    assert not (folder.parent / "out" / "overlays").exists()


def test_the_same_seed_gives_the_same_figures(folder: Path) -> None:
    first = evaluate(config(folder, output=str(folder.parent / "a")), ColourSegmenter(blind=2))
    second = evaluate(config(folder, output=str(folder.parent / "b"), batch_size=1), ColourSegmenter(blind=2))
    one, two = (json.loads(Path(r.files["metrics"]).read_text()) for r in (first, second))
    assert one["intervals"] == two["intervals"] and one["metrics"] == two["metrics"]


def test_progress_and_promotion(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raygseg.pipelines import evaluate as module

    asked: list[tuple[str, str, float, str]] = []

    def promote(config: EvaluateConfig, version: str, value: float, fingerprint: str) -> str:
        asked.append((config.promote, version, value, fingerprint))
        return "Version 7 is now champion."

    monkeypatch.setattr(module, "registered_version", lambda config: "7")
    monkeypatch.setattr(module, "_promote", promote)
    calls: list[tuple[str, float, float]] = []
    result = evaluate(
        config(folder, promote="colours"), ColourSegmenter(), progress=lambda s, d, t, f: calls.append((s, d, t))
    )
    assert asked[0][:3] == ("colours", "7", 1.0) and len(asked[0][3]) == 16
    assert result.promotion == "Version 7 is now champion."
    assert calls[-1] == ("evaluate", len(SIZES), len(SIZES))


def test_a_model_that_is_not_registered_is_refused_before_scoring(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = pytest.importorskip("raygseg.tracking.registry")
    monkeypatch.setattr(registry, "resolve", lambda uri, tracking: folder)
    monkeypatch.setattr(registry, "find_version", lambda bundle, name, tracking: None)
    with pytest.raises(RegistryError, match="no version of 'colours'"):
        evaluate(config(folder, promote="colours"), ColourSegmenter())
    assert not (folder.parent / "out").exists()
