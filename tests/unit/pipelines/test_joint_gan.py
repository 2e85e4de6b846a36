"""Kind joint-gan through the pipelines: trained, resumed, bundled, registered, measured."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raygseg.bundle import read_bundle
from raygseg.config.schema import SegmenterConfig
from raygseg.errors import DataError
from raygseg.methods.semanticgan.sampler import JointSampler
from raygseg.pipelines import agreement as measuring
from raygseg.pipelines.agreement import agreement, records
from raygseg.pipelines.kinds import load_generator, load_sampler
from raygseg.pipelines.run_report import run_report
from raygseg.pipelines.sheets import draw_sheet
from raygseg.pipelines.train import train
from raygseg.pipelines.trainables import make_training
from tests.unit.engine.joint_training import settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
DATA = "toy://default?count=12&seed=3"


def runtime(folder: Path, name: str) -> dict[str, object]:
    return {
        "in_process": True,
        "output": str(folder / name),
        "tracking_uri": f"sqlite:///{folder}/mlflow.db",
        "tick_kimg": 0.008,
        "checkpoint_kimg": 0.016,
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    train(settings(name="joint", schedule={"total_kimg": 0.032}, runtime=runtime(folder, "joint")))
    return folder / "joint"


@pytest.fixture(scope="module")
def segmenter(run: Path) -> str:
    values = {
        "name": "judge", "labelled": DATA, "resolution": 8, "schedule": {"total_kimg": 0.016, "batch_size": 8},
        "network": {"width": 4, "depth": 1}, "runtime": runtime(run.parent, "judge"),
    }  # fmt: skip
    return train(SegmenterConfig.model_validate(values)).bundle_path


def test_bundle_sheet_and_record(run: Path) -> None:
    bundle = read_bundle(run / "bundle")
    assert bundle.kind == "sampler" and bundle.build["method"] == "semanticgan"
    assert bundle.facts["data"]["labelled"]["count"] == 5 and bundle.facts["data"]["pictures"]["count"] == 40
    assert "joint: a sampler" in bundle.card and "left_arm" in bundle.card
    entries = [json.loads(line) for line in (run / "tracking.jsonl").read_text().splitlines()]
    sheets = [entry["file"] for entry in entries if entry.get("file")]
    sheet = np.asarray(Image.open(io.BytesIO((run / sheets[-1]).read_bytes())))
    assert min(sheet.shape[:2]) > 6 * 8  # six rows of pictures beside their labels, and the legend
    figures = {name for entry in entries for name in entry.get("metrics", {})}
    assert {"loss/label_discriminator", "label_augment_p", "sign/real_pair"} <= figures


def test_a_checkpoint_is_a_sampler_and_a_generator_too(run: Path, tmp_path: Path) -> None:
    last = sorted(run.glob("checkpoint-*"))[-1]
    sampler = load_sampler(str(last))
    assert isinstance(sampler, JointSampler)
    whole = load_sampler(run / "bundle").sample([1])
    assert np.array_equal(sampler.sample([1]).images, whole.images)
    assert load_generator(str(last)).resolution == 8
    draw_sheet(str(run / "bundle"), "grid", str(tmp_path / "grid.png"), count=4)


def test_another_run_starts_from_it(run: Path) -> None:
    start = settings(start=str(run), seed=8).model_dump(mode="json")
    training = make_training(start)
    assert training.facts["parents"] == {"start": str(run)}
    ours = training.recipe.modules()["average"].state_dict()
    theirs = read_bundle(run / "bundle").tensors
    assert all(np.array_equal(ours[name], theirs[f"generator.{name}"]) for name in ours)


def test_agreement_of_every_checkpoint_is_measured_once(
    run: Path, segmenter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = agreement(str(run), segmenter, count=20)
    assert [r.nimg for r in first] == [16, 32] and first == records(str(run))
    assert all(0 <= r.miou <= 1 and 0 <= r.pixel_accuracy <= 1 for r in first)
    assert set(first[0].iou) == set(load_sampler(run / "bundle").labels.names)
    assert (run / measuring.SHEET).is_file()
    monkeypatch.setattr(measuring, "_compared", None)  # would fail
    assert agreement(str(run), segmenter, count=20) == first
    assert measuring.table(first)[1]["kimg"] == 0.0
    page = Path(run_report(str(run))).read_text()
    assert "agreement of labels with a segmenter" in page


def test_a_segmenter_of_other_classes_is_refused(run: Path, tmp_path: Path) -> None:
    from raygseg.bundle import write_bundle
    from raygseg.labels import LabelSpace
    from tests.unit.methods.semanticgan.test_sampler import sampler

    other = write_bundle(tmp_path / "other", sampler(LabelSpace(("background", "a", "b"))).to_bundle())
    with pytest.raises(DataError, match="its classes are not those of"):
        agreement(str(other), str(run.parent / "judge" / "bundle"), count=2)
