"""What goes along with a job: everything it reads, nothing else, and never without a word."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from raygseg.distributed import packing
from raygseg.distributed.packing import check_inputs, inputs_of, local_place, write_pack
from raygseg.errors import ConfigError, StorageError


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A stand-in for the checkout."""
    root = tmp_path / "code"
    for name in ("raygseg/__init__.py", "raygseg/cli/app.py", "jobs/train.py", "raygseg/cli/__pycache__/app.pyc"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    (folder / "runs/head/bundle").mkdir(parents=True)
    (folder / ".gitignore").write_text("runs/\n*.bin\n")
    (folder / "runs/head/bundle/weights.safetensors").write_bytes(b"w" * 1000)
    (folder / "runs/head/bundle/.hidden").write_text("h")
    (folder / "runs/head/bundle/extra.bin").write_text("b")
    (folder / "gan.yaml").write_text("kind: gan")
    monkeypatch.chdir(folder)
    return folder


def names(pack: packing.Pack) -> set[str]:
    with zipfile.ZipFile(pack.file) as archive:
        assert archive.testzip() is None
        return set(archive.namelist())


def test_inputs_are_the_local_places_of_a_configuration(here: Path) -> None:
    settings = {
        "kind": "gan",
        "name": "runs",  # a name, though a folder of that name is here
        "generator": "runs/head/bundle",
        "labelled": "gan.yaml?split=test",
        "data": {"source": "toy://default?count=3", "resolution": 32},
        "tests": {"far": "s3://lab/far", "near": "photos/near"},
        "model": "models:/toy/3",
        "sampler": "head",
        "samples": f"file://{here}/runs",
        "runtime": {"output": "runs/x"},
        "output": "runs/y",
    }
    assert inputs_of(settings) == {
        "generator": "runs/head/bundle",
        "labelled": "gan.yaml",
        "tests.near": "photos/near",
        "samples": f"{here}/runs",
    }
    assert local_place("a word") == ""


def test_inputs_are_packed_or_named_or_refused(here: Path) -> None:
    packed, elsewhere = check_inputs({"generator": "runs/head/bundle", "data": "/data/cars"}, here)
    assert packed == [Path("runs/head/bundle")]
    assert elsewhere == ["data=/data/cars"]
    with pytest.raises(ConfigError, match=r"labelled: 'photos/x' is not here"):
        check_inputs({"labelled": "photos/x"}, here)
    with pytest.raises(ConfigError, match="lies outside"):
        check_inputs({"generator": "../gan.yaml"}, here / "runs")


def test_what_git_ignores_goes_along(here: Path, code: Path) -> None:
    pack = write_pack(here / "runs/packs", here, [Path("runs/head/bundle"), Path("gan.yaml")], code)
    bundle = {f"runs/head/bundle/{name}" for name in ("weights.safetensors", ".hidden", "extra.bin")}
    assert names(pack) == {"raygseg/__init__.py", "raygseg/cli/app.py", "jobs/train.py", "gan.yaml"} | bundle
    assert pack.files == 7
    assert pack.parts["runs/head/bundle"] == 1002
    assert pack.bytes == pack.file.stat().st_size


def test_the_same_content_is_the_same_file(here: Path, code: Path) -> None:
    first = write_pack(here / "packs", here, [Path("gan.yaml")], code)
    stamp = first.file.stat().st_mtime_ns
    os.utime(here / "gan.yaml", (1, 1))
    assert write_pack(here / "packs", here, [Path("gan.yaml")], code) == first
    assert first.file.stat().st_mtime_ns == stamp  # nor written again
    (here / "gan.yaml").write_text("kind: head")
    assert write_pack(here / "packs", here, [Path("gan.yaml")], code).file != first.file


def test_too_much_is_refused_by_name(here: Path, code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "LIMIT_BYTES", 2000)
    (here / "noise").write_bytes(os.urandom(4000))
    with pytest.raises(ConfigError, match=r"Largest: noise \(0 MiB\)"):
        write_pack(here / "packs", here, [Path("noise"), Path("gan.yaml")], code)
    (here / "zeros").write_bytes(bytes(30000))
    with pytest.raises(ConfigError, match="Largest: zeros"):
        write_pack(here / "packs", here, [Path("zeros")], code)


def test_a_place_that_cannot_be_written(here: Path, code: Path) -> None:
    with pytest.raises(StorageError, match="cannot keep the job's files"):
        write_pack(here / "gan.yaml" / "packs", here, [], code)
