"""A registered model in a fresh process: `mlflow.pyfunc.load_model("models:/NAME@champion").predict(x)`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from raygseg.bundle import Bundle, write_bundle
from raygseg.errors import RegistryError
from raygseg.labels import LabelSpace
from raygseg.methods.student.segmenter import UNetSegmenter
from raygseg.methods.stylegan2.generator import StyleGAN2Generator
from raygseg.nn.unet import UNet
from raygseg.pipelines import kinds, registry, serving
from raygseg.tracking.registry import promote

BUILD = {"resolution": 16, "z_dim": 16, "w_dim": 16, "mapping_layers": 2, "channel_base": 256, "channel_max": 16}
PREDICT = """
import sys, numpy, mlflow.pyfunc
model = mlflow.pyfunc.load_model(sys.argv[1])
numpy.save(sys.argv[3], model.predict(numpy.load(sys.argv[2])))
"""


def predict_in_fresh_process(uri: str, store: str, value: np.ndarray, folder: Path) -> np.ndarray:
    """What a user's own script gets who knows MLflow and has raygseg installed, standing anywhere."""
    given, answer = folder / "given.npy", folder / "answer.npy"
    np.save(given, value)
    environment = os.environ | {"MLFLOW_TRACKING_URI": store, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", PREDICT, uri, str(given), str(answer)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return np.asarray(np.load(answer))


def generator_bundle(folder: Path) -> Path:
    torch.manual_seed(0)
    generator = StyleGAN2Generator(**BUILD)
    return write_bundle(folder, Bundle("generator", {"architecture": "stylegan2", **BUILD}, generator.state_dict()))


@pytest.mark.slow
@pytest.mark.timeout(400)  # two imports of torch and mlflow, and a new store: CPU time 15 s
def test_a_registered_generator_in_a_fresh_process(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    bundle = generator_bundle(tmp_path / "bundle")
    info = registry.register(bundle, "toy-gan", tracking_uri=store)
    assert info.uri == "models:/toy-gan/1"  # the newest generator is champion without an evaluation
    seeds = np.arange(3)
    pictures = predict_in_fresh_process("models:/toy-gan@champion", store, seeds, tmp_path)
    here = serving.ServedGenerator(kinds.load_generator("models:/toy-gan@champion", store)).predict(seeds)
    assert pictures.shape == (3, 16, 16, 3) and pictures.dtype == np.uint8
    assert np.array_equal(pictures, here) and pictures.std() > 0


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_an_evaluated_segmenter_in_a_fresh_process(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    torch.manual_seed(0)
    segmenter = UNetSegmenter(UNet(3, 4, width=8, depth=2), LabelSpace(("background", "a", "b", "c")), 16)
    bundle = write_bundle(tmp_path / "bundle", segmenter.to_bundle())
    info = registry.register(bundle, "parts", tracking_uri=store)
    with pytest.raises(RegistryError, match="no alias 'champion'"):  # a segmenter leads by evaluation only
        registry.pull("parts", tmp_path / "early", store)
    assert promote("parts", info.version, metric="miou", value=0.4, data="test", tracking_uri=store).promoted
    pictures = np.random.default_rng(0).integers(0, 256, (2, 20, 28, 3), dtype=np.uint8)
    maps = predict_in_fresh_process("models:/parts@champion", store, pictures, tmp_path)
    here = np.stack([answer.label_map for answer in segmenter.predict(list(pictures))])
    assert maps.dtype == np.uint8 and np.array_equal(maps, here) and len(np.unique(maps)) > 1
    pulled = kinds.load_segmenter(registry.pull("parts", tmp_path / "pulled", store))
    assert np.array_equal(pulled.predict([pictures[0]])[0].label_map, maps[0])
