"""PANet goes through train, the registry, segment with a support folder, and MLflow's predict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raygseg.bundle import read_bundle
from raygseg.cli.app import main
from raygseg.config.panet import PanetConfig
from raygseg.errors import ConfigError, DataError, FingerprintError, MissingEnvironmentError
from raygseg.pipelines.few_shot import training_episodes
from raygseg.pipelines.kinds import load_few_shot, load_segmenter
from raygseg.pipelines.segment import segment
from raygseg.pipelines.serving import ServedFewShot, _load_pyfunc
from raygseg.pipelines.train import plan, train
from tests.unit.methods.panet.few_shapes import shape_picture
from tests.unit.nn.backbones.weights_files import write_vgg16

CLASSES = ["background", "red", "green", "blue", "yellow"]
PICTURES = 8  # a class; half of them are kept for tests
R = 32


def write_labelled(place: Path, colours: list[int], count: int = PICTURES) -> Path:
    """images/, masks/ and labels.json: `count` pictures of each colour."""
    for part in ("images", "masks"):
        (place / part).mkdir(parents=True)
    for colour in colours:
        for i in range(count):
            picture, mask = shape_picture(colour, np.random.default_rng(10 * colour + i))
            Image.fromarray(picture).save(place / "images" / f"{colour}-{i}.png")
            Image.fromarray(mask * np.uint8(colour + 1)).save(place / "masks" / f"{colour}-{i}.png")
    (place / "labels.json").write_text(json.dumps({"classes": CLASSES, "void": 255}))
    return place


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("panet")
    write_labelled(place / "data", [0, 1, 2, 3])
    write_labelled(place / "support", [0, 1], 1)
    (place / "photos").mkdir()
    Image.fromarray(np.full((40, 25, 3), 90, np.uint8)).save(place / "photos" / "a.png")
    return place


def values(folder: Path, **more: Any) -> dict[str, Any]:
    runtime = {"in_process": True, "output": str(folder / "run"), "tracking_uri": f"sqlite:///{folder}/mlflow.db"}
    return {
        "name": "few",
        "data": str(folder / "data"),
        "fold": 1,
        "resolution": R,
        "network": {"weights": str(folder / "v.safetensors")},
        "schedule": {"total_kimg": 0.002, "batch_size": 1},
        "runtime": runtime,
    } | more


def configure(folder: Path, **more: Any) -> PanetConfig:
    return PanetConfig.model_validate(values(folder, **more))


def test_episodes_are_those_of_the_base_classes(folder: Path) -> None:
    episodes = training_episodes(configure(folder, shots=2))
    assert episodes.classes == ("red", "blue", "yellow")
    assert episodes.episode(5)["support_images"].shape == (1, 2, 3, R, R)
    assert episodes.identity() != training_episodes(configure(folder, shots=1)).identity()
    with pytest.raises(DataError, match="red"):  # 4 of the 8 pictures are kept for tests
        training_episodes(configure(folder, shots=4))
    fewer = training_episodes(configure(folder, protocol={"name": "panet_release"}, shots=7))
    assert fewer.classes == ("red", "blue", "yellow")
    with pytest.raises(ConfigError, match="fold: 4"):
        training_episodes(configure(folder, fold=4))


def test_what_is_asked_for_wrongly(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAYGSEG_DATA", raising=False)
    from raygseg.methods.panet.training import build_network

    with pytest.raises(MissingEnvironmentError, match=r"none.safetensors"):
        build_network(configure(folder, network={"weights": str(folder / "none.safetensors")}))
    with pytest.raises(MissingEnvironmentError, match="RAYGSEG_DATA is not set"):
        build_network(configure(folder, network={}))
    file = folder / "wrong.yaml"
    lines = {**values(folder), "kind": "panet", "protocol": {"name": "panets"}}
    file.write_text(json.dumps(lines))
    assert main(["train", str(file)]) == 2
    assert "protocol.name" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_whole_way(folder: Path) -> None:
    write_vgg16(folder / "v.safetensors", depth=5)
    config = configure(folder)
    assert plan(config)["parameters"] == {"network": 14_714_688}
    result = train(config)
    assert result.nimg == 2 and {"loss/alignment", "foreground_iou"} <= set(result.metrics)
    bundle = read_bundle(result.bundle_path)
    assert bundle.kind == "few-shot" and bundle.build["resolution"] == R
    for told in ("base classes: red, blue, yellow", "protocol: standard", "1-way 1-shot", "--support", "VGG-16"):
        assert told in bundle.card, told
    network, resolution = load_few_shot(result.bundle_path)
    assert resolution == R and network.scale == 20

    support, photos, masks = (str(folder / name) for name in ("support", "photos", "masks"))
    with pytest.raises(ConfigError, match="needs a support set"):
        segment(result.bundle_path, photos, masks)
    found = segment(result.bundle_path, photos, masks, support=support)
    assert found.segmented == 1 and Image.open(folder / "masks" / "masks" / "a.png").size == (25, 40)
    assert segment(result.bundle_path, photos, masks, support=support).done_before == 1
    write_labelled(folder / "other", [2], 1)
    with pytest.raises(FingerprintError, match="different model"):
        segment(result.bundle_path, photos, masks, support=str(folder / "other"))

    import mlflow.pyfunc

    store = str(config.runtime.tracking_uri)
    mlflow.set_tracking_uri(store)
    served = mlflow.pyfunc.load_model(f"models:/few/{result.model_version}")
    segmenter = load_segmenter(f"models:/few/{result.model_version}", store, support=support)
    shown = [np.asarray(Image.open(folder / "support" / "images" / f"{i}-0.png")) for i in (0, 1)]
    maps = [np.asarray(Image.open(folder / "support" / "masks" / f"{i}-0.png")) for i in (0, 1)]
    query = np.stack([shape_picture(0, np.random.default_rng(99))[0]])
    asked = {"support_pictures": np.stack(shown), "support_maps": np.stack(maps), "pictures": query}
    answer = served.predict(asked)
    assert answer.shape == (1, R, R) and answer.dtype == np.uint8
    assert np.array_equal(answer[0], segmenter.predict(list(query))[0].label_map)


@pytest.mark.slow
def test_served_support_is_pooled_once_and_checked(folder: Path, tmp_path: Path) -> None:
    from raygseg.bundle import write_bundle
    from raygseg.methods.panet.network import blank_network

    served = _load_pyfunc(str(write_bundle(tmp_path / "b", blank_network("vgg16").to_bundle(R))))
    assert isinstance(served, ServedFewShot)
    picture, mask = shape_picture(0, np.random.default_rng(0))
    asked = {"support_pictures": picture[None], "support_maps": mask[None], "pictures": picture[None]}
    both = served.predict(asked, {"confidence": True})
    kept = served._kept
    assert both["confidence"].shape == (1, R, R) and kept is not None
    served.predict(asked)
    assert served._kept is kept
    served.predict({**asked, "support_maps": mask[None, ::-1].copy()})
    assert served._kept is not kept
    with pytest.raises(DataError, match="no array 'support_maps'"):
        served.predict({"support_pictures": picture[None], "pictures": picture[None]})
    with pytest.raises(DataError, match="support_maps uint8"):
        served.predict({**asked, "support_maps": mask[None, :5]})
