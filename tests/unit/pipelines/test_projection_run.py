"""`raygseg project`: what it writes, what it refuses and lists, that it goes on, that its segmenter is scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from raygseg.bundle import Bundle, write_bundle
from raygseg.cli.app import main
from raygseg.config.schema import EvaluateConfig
from raygseg.data.sources import open_labelled
from raygseg.errors import CheckpointError, ConfigError, FingerprintError, MissingEnvironmentError
from raygseg.labels import LabelSpace
from raygseg.methods.repurposegan.heads import LabelHead
from raygseg.methods.repurposegan.sampler import GeneratorHeadSampler
from raygseg.methods.repurposegan.samples import read_samples
from raygseg.nn.projection import ProjectionPlan
from raygseg.pipelines import projection_store
from raygseg.pipelines.evaluate import evaluate
from raygseg.pipelines.feature_nets import open_features
from raygseg.pipelines.kinds import load_segmenter
from raygseg.pipelines.projection_run import ProjectSettings, run_projection
from tests.unit.tiny_networks import BUILD, JUDGE, tiny_features, tiny_generator

LABELS = LabelSpace(("background", "part"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """generator/, discriminator/, sampler/ and photos/: four of the generator's own, one that is not."""
    folder, generator = tmp_path_factory.mktemp("project"), tiny_generator()
    build = {"architecture": "stylegan2", **BUILD}
    write_bundle(folder / "generator", Bundle("generator", build, generator.state_dict()))
    write_bundle(
        folder / "discriminator", Bundle("discriminator", dict(JUDGE), tiny_features().discriminator.state_dict())
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        head = LabelHead("linear", generator.feature_layers, 2, 16)
    write_bundle(folder / "sampler", GeneratorHeadSampler(generator, head, LABELS).to_bundle(build))
    images = generator.render(generator.latents(range(4))).images.clamp(-1, 1)
    shown = [((image + 1) * 127.5).byte().permute(1, 2, 0).numpy() for image in images]
    shown.append(np.repeat(np.where(np.arange(16) % 2, 255, 0).astype(np.uint8)[None, :, None], 16, 0).repeat(3, 2))
    for part in ("images", "masks"):
        (folder / "photos" / part).mkdir(parents=True)
    for i, picture in enumerate(shown):
        Image.fromarray(picture).save(folder / "photos" / "images" / f"{i}.png")
        Image.fromarray((picture[..., 0] > 127).astype(np.uint8)).save(folder / "photos" / "masks" / f"{i}.png")
    LABELS.save(folder / "photos" / "labels.json")
    return folder


def settings(place: Path, steps: int = 8, **others: Any) -> ProjectSettings:
    given = {"weights": str(place / "discriminator"), "gate_samples": 6, "statistic": "squared error", "quantile": 1.0}
    return ProjectSettings(ProjectionPlan(steps), batch_size=2, **{**given, **others})


@pytest.fixture(scope="module")
def done(place: Path) -> Path:
    run_projection(str(place / "sampler"), str(place / "photos"), place / "out", settings(place))
    return place / "out"


def test_it_writes_samples_record_and_grid_and_lists_what_it_refused(place: Path, done: Path) -> None:
    record = json.loads((done / "projection.json").read_text())
    assert record["features"] == "discriminator" and record["gate"]["features"] == "discriminator"
    assert [row["name"] for row in record["pictures"]] == ["0.png", "1.png", "2.png", "3.png", "4.png"]
    accepted = [row["name"] for row in record["pictures"] if row["accepted"]]
    assert not record["pictures"][4]["accepted"] and len(accepted) >= 3
    assert record["coverage"] == len(accepted) / 5
    assert "4.png: squared error" in (done / "refused.txt").read_text()
    samples = read_samples(str(done / "samples"))
    assert len(samples) == len(accepted) and samples.ws is not None and set(samples.noise) == {1, 2, 3, 4}
    assert json.loads((done / "samples" / "samples.json").read_text())["photos"] == accepted
    sheet = np.asarray(Image.open(done / "projections.png"))
    assert sheet.shape[0] == 20 + 32  # a caption, a row of pairs
    assert (sheet[20 + 16, 4 * (16 + 4) + 8] == (220, 40, 40)).all()  # the red frame of the last one's picture


def test_the_same_call_projects_nothing_again(place: Path, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("projected again")

    before = (done / "projection.json").read_text()
    lost = sorted((done / "parts").iterdir())[0]
    with monkeypatch.context() as patch:
        patch.setattr(projection_store, "project", refuse)
        run_projection(str(place / "sampler"), str(place / "photos"), done, settings(place))
        assert (done / "projection.json").read_text() == before
        lost.write_bytes(b"cut short")
        with pytest.raises(AssertionError, match="again"):
            run_projection(str(place / "sampler"), str(place / "photos"), done, settings(place))
    run_projection(str(place / "sampler"), str(place / "photos"), done, settings(place))  # only the lost one
    after = json.loads((done / "projection.json").read_text())
    for old, new in zip(json.loads(before)["pictures"], after["pictures"], strict=True):
        assert old["accepted"] == new["accepted"] and new["distance"] == pytest.approx(old["distance"], rel=1e-2)


def test_outputs_may_share_what_was_projected(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = settings(place, store=str(tmp_path / "kept"))
    first = run_projection(str(place / "sampler"), str(place / "photos"), tmp_path / "a", shared)
    with monkeypatch.context() as patch:
        patch.setattr(projection_store, "project", None)  # must not be called
        second = run_projection(str(place / "sampler"), str(place / "photos"), tmp_path / "b", shared)
    assert second.accepted == first.accepted and second.distance == first.distance
    assert not (tmp_path / "a" / "parts").exists()


def test_other_settings_in_the_same_place_are_refused_with_the_keys(place: Path, done: Path) -> None:
    with pytest.raises(FingerprintError, match=r"plan\.steps: 8 -> 9"):
        run_projection(str(place / "sampler"), str(place / "photos"), done, settings(place, 9))


def test_its_segmenter_scores_and_reports_the_coverage(place: Path, done: Path, tmp_path: Path) -> None:
    model = load_segmenter(done / "segmenter")
    config = EvaluateConfig.model_validate(
        {"name": "t", "model": str(done / "segmenter"), "data": str(place / "photos"), "output": str(tmp_path / "e"),
         "runtime": {"tracking_uri": f"sqlite:///{tmp_path}/m.db"}, "bootstrap": 0}
    )  # fmt: skip
    result = evaluate(config, model, open_labelled(str(place / "photos"), None))
    record = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert result.refused == len(record["refused"]) >= 1 and "4.png" in record["refused"]
    assert record["coverage"] == 1 - result.refused / 5


def test_pictures_without_masks_and_the_verb(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["project", str(place / "generator"), str(place / "photos" / "images"), "-o", str(tmp_path / "out")]
    more = ["--steps", "3", "--gate", "2", "--weights", str(place / "discriminator"), "--batch-size", "4"]
    assert main([*words, *more]) == 0
    text = capsys.readouterr().out
    assert "discriminator" in text and "of 5" in text
    assert not (tmp_path / "out" / "segmenter").exists()
    samples = tmp_path / "out" / "samples"
    assert not samples.exists() or (samples / "codes.safetensors").is_file()


def test_feature_nets_by_name(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAYGSEG_DATA", raising=False)
    net = open_features("auto", "", 16, str(place / "discriminator"))
    assert net.name == "discriminator" and set(net.network(torch.zeros(1, 3, 16, 16))) == {"b8", "b4"}
    with pytest.raises(ConfigError, match="for 16 px, the pictures have 32"):
        open_features("discriminator", "", 32, str(place / "discriminator"))
    with pytest.raises(CheckpointError, match="is a generator, not a discriminator"):
        open_features("discriminator", "", 16, str(place / "generator"))
    with pytest.raises(MissingEnvironmentError, match="no feature network"):
        open_features("auto", str(place / "generator"), 16)
    with pytest.raises(ConfigError, match="'resnet' are not known"):
        open_features("resnet")
