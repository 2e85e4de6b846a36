"""An encoder goes through train, the registry, evaluate and segment; what it leaves is a segmenter by embedding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raygseg.bundle import read_bundle, write_bundle
from raygseg.config.encoder import EncoderConfig
from raygseg.config.schema import EvaluateConfig
from raygseg.data.toy import toy_labels
from raygseg.engine.loop import Trainer
from raygseg.errors import CheckpointError, DataError
from raygseg.labels import LabelSpace
from raygseg.methods.semanticgan.label_codec import LabelCodec
from raygseg.methods.semanticgan.sampler import JointSampler
from raygseg.methods.semanticgan.segmenter import EmbeddingSegmenter
from raygseg.pipelines.encoder_run import labelled_of, open_joint
from raygseg.pipelines.evaluate import evaluate
from raygseg.pipelines.kinds import load_segmenter
from raygseg.pipelines.segment import segment
from raygseg.pipelines.train import plan, train
from raygseg.pipelines.trainables import make_training
from tests.unit.methods.semanticgan.tiny_joint import ENCODER, JUDGE, joint_generator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]  # making an MLflow store takes its time


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a joint generator of the toy classes and a discriminator's bundle for its features."""
    from raygseg.bundle import Bundle
    from raygseg.methods.stylegan2.discriminator import Discriminator

    place = tmp_path_factory.mktemp("runs")
    labels = toy_labels()
    write_bundle(place / "joint", JointSampler(joint_generator(LabelCodec(labels)), labels).to_bundle())
    judge = Discriminator(**JUDGE)
    write_bundle(place / "judge", Bundle("discriminator", JUDGE, judge.state_dict()))
    return place


def configuration(folder: Path, **changes: Any) -> EncoderConfig:
    values: dict[str, Any] = {
        "name": "encoder",
        "generator": str(folder / "joint"),
        "data": {"source": "toy://default?count=8&seed=0", "resolution": 32},
        "labelled": "toy://default?count=6&seed=7",
        "labelled_limit": 3,
        "schedule": {"total_kimg": 0.008, "batch_size": 4},
        "encoder": ENCODER,
        "features": {"name": "discriminator", "weights": str(folder / "judge")},
        "embedding": {"steps": 2},
        "runtime": {
            "in_process": True,
            "output": str(folder / "encoder"),
            "tracking_uri": f"sqlite:///{folder}/mlflow.db",
        },
    }
    return EncoderConfig.model_validate(values | changes)


def test_the_whole_way(folder: Path) -> None:
    config = configuration(folder)
    facts = plan(config)
    assert facts["steps"] == 2 and 1_000 < facts["parameters"]["encoder"] < 50_000
    result = train(config)
    assert result.nimg == 8 and result.model_name == "encoder"
    bundle = read_bundle(result.bundle_path)
    assert bundle.kind == "segmenter" and bundle.build["plan"]["steps"] == 2
    assert "3 items" in bundle.card and "discriminator" in bundle.card

    store = config.runtime.tracking_uri
    segmenter = load_segmenter(f"models:/encoder/{result.model_version}", store)
    assert isinstance(segmenter, EmbeddingSegmenter) and segmenter.plan.steps == 2
    assert segmenter.predict([np.zeros((20, 30, 3), np.uint8)])[0].label_map.shape == (20, 30)
    values = {
        "name": "score", "model": result.bundle_path, "data": "toy://ood?count=3&seed=5",
        "output": str(folder / "score"), "overlays": 1, "bootstrap": 0, "runtime": {"tracking_uri": store},
    }  # fmt: skip
    assert evaluate(EvaluateConfig.model_validate(values)).pictures == 3
    (folder / "photos").mkdir(exist_ok=True)
    Image.fromarray(np.full((40, 25, 3), 90, np.uint8)).save(folder / "photos" / "a.png")
    found = segment(result.bundle_path, str(folder / "photos"), str(folder / "masks"), tracking_uri=store)
    assert found.segmented == 1

    # Another plan is no other run: the trained encoder is bundled anew.
    again = train(configuration(folder, embedding={"steps": 0, "drift_cap": 0.5}))
    assert again.nimg == result.nimg
    plans = read_bundle(again.bundle_path).build["plan"]
    assert (plans["steps"], plans["drift_cap"]) == (0, 0.5)


def test_what_is_no_joint_generator_and_other_classes_are_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="not a joint generator"):
        open_joint("configs/toy/generator")
    other = LabelCodec(LabelSpace(("background", "body"), background=0))
    with pytest.raises(DataError, match="the generator \\['background', 'body'\\]"):
        labelled_of(configuration(folder), other)


def test_previews_leave_every_mode_as_it_was(folder: Path) -> None:
    """Spec C4.9: in the released code the first preview freezes the encoder's norms for good (B11-1)."""
    made = make_training(configuration(folder).model_dump(mode="json"))
    trainer = Trainer(made.recipe, made.stream)
    trainer.step()
    networks = {"generator": made.recipe.generator, **made.recipe.modules()}  # type: ignore[attr-defined]
    before = {f"{name}.{part}": m.training for name, net in networks.items() for part, m in net.named_modules()}
    sheet = made.previews()["embeddings"]
    after = {f"{name}.{part}": m.training for name, net in networks.items() for part, m in net.named_modules()}
    trainer.close()
    assert sheet.dtype == np.uint8 and sheet.shape[2] == 3
    assert before == after and before["net."] and not before["average."] and not before["generator."]


def test_labels_of_a_run_are_those_of_its_seed(folder: Path) -> None:
    codec = open_joint(str(folder / "joint")).codec
    names = [set(labelled_of(configuration(folder, labelled_limit=k), codec).names) for k in (2, 4)]
    assert len(names[0]) == 2 and names[0] < names[1]
