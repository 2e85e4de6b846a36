"""The studies in the GPU queue, at a tiny size on the CPU: what travels, what they leave, where they go on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from raygseg.benchmarks.gpu_queue import folds, inputs, items, parcels, records, wheels
from raygseg.benchmarks.gpu_queue.command import main
from raygseg.benchmarks.semanticgan import ARMS
from raygseg.bundle import read_bundle
from raygseg.engine.checkpoint import checkpoint_nimg
from raygseg.methods.panet.network import blank_network
from raygseg.nn.backbones.catalogue import FILES
from tests.unit.benchmarks.queue_on_cpu import ABSENT, lease, words


def place_data(root: Path, count: int = 12) -> Path:
    """A stand-in for RAYGSEG_DATA: nuclei in two splits, and few-shot classes that are squares in them."""
    rng, names = np.random.default_rng(0), [f"{i:03d}" for i in range(count)]
    for part in ("images", "masks"):
        (root / "nuclei" / part).mkdir(parents=True)
    for name in names:
        mask = np.zeros((24, 24), np.uint8)
        for value in (1, 2):
            top, left = rng.integers(0, 12, 2)
            mask[top : top + 10, left : left + 10] = value
        noise = rng.integers(0, 40, (24, 24, 3))
        picture = (mask[..., None] * 100 + noise).astype(np.uint8)
        Image.fromarray(picture).save(root / "nuclei" / "images" / f"{name}.jpg")
        Image.fromarray(np.minimum(mask, 1)).save(root / "nuclei" / "masks" / f"{name}.png")
        (root / "squares" / "masks").mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(root / "squares" / "masks" / f"{name}.png")
    shutil.copytree(root / "nuclei" / "images", root / "squares" / "images")
    labels = {"classes": ["background", "nucleus"], "background": 0}
    (root / "nuclei" / "meta.json").write_text(json.dumps(labels))
    splits = {"in_domain": {"train": names[:10], "test": names[10:]}, "out_of_domain": names[10:]}
    (root / "nuclei" / "splits.json").write_text(json.dumps(splits))
    rows = [{"image": f"squares/images/{n}.jpg", "mask": f"squares/masks/{n}.png"} for n in names]
    classes = {f"squares/{v}": [{**row, "value": v} for row in rows] for v in (1, 2)}
    (root / "fewshot").mkdir()
    (root / "fewshot" / "index.json").write_text(json.dumps({"classes": classes}))
    folds = [[f"squares/{v}"] for v in (1, 2)]
    (root / "fewshot" / "meta.json").write_text(json.dumps({"folds": folds, "ignore_index": 255}))
    (root / "weights").mkdir()
    weights = {name: tensor.half() for name, tensor in blank_network("vgg16").encoder.state_dict().items()}
    save_file(weights, root / "weights" / FILES["vgg16"])
    return root


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_studies_run_beside_plain_torch_and_leave_figures(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SemanticGAN's three stages and PANet's folds, from what `prepare` packs, without Ray and MLflow."""
    monkeypatch.setattr(wheels, "fetch", lambda folder, python: folder.mkdir(parents=True, exist_ok=True))
    monkeypatch.setenv("RAYGSEG_DATA", str(place_data(tmp_path / "data")))
    three = ("nuclei-generator", "nuclei-labels", "panet-folds")
    assert main(words(tmp_path, "prepare", *three)) == 0
    with zipfile.ZipFile(tmp_path / "travels" / items.FEWSHOT_ZIP) as archive:
        assert {"fewshot/index.json", "squares/images/003.jpg", "squares/masks/003.png"} <= set(archive.namelist())
    # On the machine there is nothing but what travels.
    shutil.rmtree(tmp_path / "data")
    monkeypatch.delenv("RAYGSEG_DATA")
    job = str(repository / "jobs" / "gpu_queue.py")
    code = (
        f"import runpy, sys\nfor name in {(*ABSENT, 'scipy')}: sys.modules[name] = None\n"
        "sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    )
    for _ in range(2):  # the generator takes two calls, and what stands on it waits
        command = [sys.executable, "-c", code, job, *words(tmp_path, "run", *three)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert main(words(tmp_path, "collect", str(tmp_path / "out-1"))) == 0
    known = records.read(tmp_path / "keep" / "results.jsonl")
    assert not [record for record in known if "error" in record], known
    assert records.done_items(known) == set(three)
    (draw,) = [r for r in known if r["item"] == "nuclei-labels" and r["key"] != "done"]
    assert draw["key"] == "10-labels-0" and draw["start"] == "checkpoint-000000064"
    assert draw["scores"].keys() == {f"{a} {t}" for a in ARMS for t in ("in domain", "out of domain")}
    assert draw["scores"]["encoder in domain"]["pictures"] == 2
    assert (tmp_path / "keep" / "nuclei-labels" / "10-labels-0-in-domain.png").is_file()
    assert read_bundle(tmp_path / "keep" / "nuclei-generator" / "generator-000000064").build["image_channels"] == 1
    arms = {r["key"]: r for r in known if r["item"] == "panet-folds" and r["key"] != "done"}
    assert arms.keys() == {f"fold 0 {arm}" for arm in ("no training", "plain", "aligned")}
    for arm in arms.values():
        assert arm["shots"].keys() == {"1", "5"} and 0 <= arm["shots"]["5"]["miou"] <= 1
    first, second = (arms[f"fold 0 {arm}"]["episodes"] for arm in ("plain", "no training"))
    assert first == second


def test_a_lease_that_ends_leaves_a_study_where_it_can_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place_data(tmp_path / "data")
    monkeypatch.setenv("RAYGSEG_DATA", "")
    (tmp_path / "travels" / "inputs").mkdir(parents=True)
    parcels.zip_files(
        tmp_path / "travels" / items.FEWSHOT_ZIP, tmp_path / "data", parcels.files_below(tmp_path / "data")
    )
    shutil.copyfile(tmp_path / "data" / "weights" / FILES["vgg16"], tmp_path / "travels" / items.VGG16)
    short = lease(tmp_path)
    monkeypatch.setattr(folds, "score", lambda *_: {"shots": {}})
    monkeypatch.setattr(short, "remaining", lambda: 0.0)  # over after the first step of two
    assert not folds.run(short, "panet-folds")
    assert short.has("panet-folds", "fold 0 no training") and not short.has("panet-folds", "fold 0 plain")
    (left,) = (tmp_path / "work" / "panet-folds" / "trainings" / "plain-0").glob("checkpoint-*")
    assert 0 < checkpoint_nimg(left.name) < 8
    assert folds.run(lease(tmp_path), "panet-folds")


def test_what_does_not_fit_is_left_for_another_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wheels, "fetch", lambda folder, python: folder.mkdir(parents=True, exist_ok=True))
    monkeypatch.setattr(inputs, "_tree_bytes", lambda: 0)
    monkeypatch.setenv("RAYGSEG_DATA", str(place_data(tmp_path / "data")))
    travels = tmp_path / "travels"
    assert main(words(tmp_path, "prepare", "nuclei-generator")) == 0
    size = inputs.check_size(travels)[1]
    monkeypatch.setattr(inputs, "LIMIT", size + 1000)
    capsys.readouterr()
    assert main(words(tmp_path, "prepare", "nuclei-generator", "nuclei-labels")) == 0
    said = capsys.readouterr().out
    assert "nuclei-labels: does not fit beside the others" in said
    assert (travels / items.NUCLEI_ZIP).is_file() and not (travels / items.VGG16).exists()
    assert json.loads((travels / "about.json").read_text())["items"] == ["nuclei-generator"]
    assert main(words(tmp_path, "prepare", "nuclei-labels")) == 1
    assert "would travel" in capsys.readouterr().err
