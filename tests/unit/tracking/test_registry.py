"""The registry: bundles in and out, the alias, and what happens to a changed byte."""

from __future__ import annotations

import json
import shutil
import urllib.parse
from pathlib import Path

import pytest
import torch

from raygseg.bundle import CHECKSUMS, WEIGHTS, Bundle, file_sha256, read_bundle, write_bundle
from raygseg.data import object_store
from raygseg.errors import CheckpointError, MissingEnvironmentError, RegistryError, StorageError
from raygseg.labels import LabelSpace
from raygseg.tracking.cards import model_card
from raygseg.tracking.registry import find_version, promote, pull, register_bundle, resolve
from raygseg.tracking.runs import TrackedRun
from raygseg.tracking.store import connect, plain_errors

LABELS = LabelSpace(("background", "left", "right"), swaps=((1, 2),))


def bundle(folder: Path, weight: float, kind: str = "segmenter") -> Path:
    made = Bundle(
        kind,
        {"resolution": 8},
        {"w": torch.full((3,), weight)},
        LABELS,
        facts={"fingerprint": "f1", "data_fingerprint": "d1", "nimg": 5000, "metrics": {"miou": 0.5}},
    )
    made = Bundle(**(made.__dict__ | {"card": model_card("parts", made)}))
    return write_bundle(folder, made)


def stored_file(tmp_path: Path, uri: str, version: str, name: str) -> Path:
    """Where the store keeps a file of a registered bundle."""
    source = connect(uri).get_model_version_download_uri("parts", version)
    if source.startswith("models:/"):
        source = connect(uri).get_logged_model(source.removeprefix("models:/")).artifact_location
    root = Path(urllib.parse.unquote(urllib.parse.urlsplit(source).path))
    assert root.is_relative_to(tmp_path / "mlartifacts")
    return next(root.rglob(name))


def test_register_promote_resolve_and_pull(uri: str, tmp_path: Path) -> None:
    run = TrackedRun.find_or_create(uri, "raygseg", "parts", "f1", {}, run_dir=str(tmp_path / "run"))
    run.finish()
    first_bundle = bundle(tmp_path / "one", 1.0)
    first = register_bundle(first_bundle, "parts", run_id=run.run_id, metrics={"miou": 0.5}, tracking_uri=uri)
    again = register_bundle(first_bundle, "parts", run_id=run.run_id, tracking_uri=uri)
    second = register_bundle(bundle(tmp_path / "two", 2.0), "parts", tracking_uri=uri)
    assert (first.version, first.created) == ("1", True)
    assert (again.version, again.created) == ("1", False)
    assert second.version == "2"

    version = connect(uri).get_model_version("parts", "1")
    assert version.run_id == run.run_id and "## Labels" in version.description
    assert version.tags["raygseg.data_fingerprint"] == "d1" and version.tags["raygseg.metric.miou"] == "0.5"
    assert version.tags["raygseg.checksum"] == file_sha256(first_bundle / CHECKSUMS)
    assert connect(uri).get_run(run.run_id).outputs.model_outputs

    with pytest.raises(RegistryError, match="no alias 'champion'; its aliases: none"):
        pull("parts", tmp_path / "early", uri)
    assert promote("parts", "1", metric="miou", value=0.5, data="A", tracking_uri=uri).promoted
    assert not promote("parts", "2", metric="miou", value=0.9, data="B", tracking_uri=uri).promoted
    stays = promote("parts", "2", metric="miou", value=0.5, data="A", tracking_uri=uri)
    assert not stays.promoted and stays.champion == "1"
    assert find_version(tmp_path / "two", "parts", uri) == "2" and find_version(tmp_path / "two", "cars", uri) is None
    moved = promote("parts", "2", metric="miou", value=0.6, data="A", tracking_uri=uri)
    assert moved.promoted and moved.version == "2" and moved.previous == "1" and "0.6000" in str(moved)
    tags = connect(uri).get_model_version("parts", "2").tags
    assert tags["raygseg.promotion.decision"] == "promoted" and "had 0.5000" in tags["raygseg.promotion.reason"]
    assert "version 2" in connect(uri).get_model_version("parts", "1").tags["raygseg.promotion.lost"]

    cache = tmp_path / "cache"
    for address, weight in (("models:/parts@champion", 2.0), ("models:/parts/1", 1.0), ("models:/parts/latest", 2.0)):
        found = resolve(address, uri, cache)
        assert read_bundle(found).tensors["w"][0] == weight and found == resolve(address, uri, cache)
    output = pull("parts", tmp_path / "pulled", uri)
    assert sorted(p.name for p in output.iterdir()) == sorted(p.name for p in first_bundle.iterdir())
    assert read_bundle(pull("models:/parts/1", output, uri)).tensors["w"][0] == 1.0  # replaces the older one
    assert not list(tmp_path.glob(".pulled-*"))


def test_pull_names_an_altered_file_and_leaves_nothing(uri: str, tmp_path: Path) -> None:
    register_bundle(bundle(tmp_path / "one", 1.0), "parts", tracking_uri=uri)
    weights = stored_file(tmp_path, uri, "1", WEIGHTS)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"models:/parts/1/{WEIGHTS}: checksum differs"):
        pull("models:/parts/1", tmp_path / "pulled", uri)
    # Altering the list of checksums along with it does not help: the registry knows the list's own checksum.
    listing = stored_file(tmp_path, uri, "1", CHECKSUMS)
    listing.write_text(json.dumps(json.loads(listing.read_text()) | {WEIGHTS: file_sha256(weights)}, indent=1))
    with pytest.raises(CheckpointError, match="altered after registration"):
        pull("models:/parts/1", tmp_path / "pulled", uri)
    assert not (tmp_path / "pulled").exists() and not list(tmp_path.glob(".pulled-*"))


def test_a_damaged_copy_in_the_cache_is_fetched_again(uri: str, tmp_path: Path) -> None:
    register_bundle(bundle(tmp_path / "one", 1.0), "parts", tracking_uri=uri)
    found = resolve("models:/parts/1", uri, tmp_path / "cache")
    (found / WEIGHTS).write_bytes(b"cut")
    assert read_bundle(resolve("models:/parts/1", uri, tmp_path / "cache")).tensors["w"][0] == 1.0


def test_errors_say_what_there_is(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bundle(tmp_path / "one", 1.0)
    register_bundle(folder, "parts", tracking_uri=uri)
    for address, text in (
        ("models:/cars@champion", "no model 'cars' in the registry; it knows parts"),
        ("models:/parts/7", "no version 7"),
        ("models:/parts", "is no model address"),
    ):
        with pytest.raises(RegistryError, match=text):
            resolve(address, uri)
    with pytest.raises(CheckpointError, match="no such bundle folder") as caught:
        resolve("parts", uri)
    assert "models:/parts@champion" in caught.value.hint
    (tmp_path / "busy").mkdir()
    (tmp_path / "busy" / "thesis.txt").write_text("mine")
    with pytest.raises(StorageError, match="is not a bundle"):
        pull("models:/parts/1", tmp_path / "busy", uri)
    with pytest.raises(RegistryError, match="kind 'panda' cannot be registered"):
        register_bundle(bundle(tmp_path / "odd", 1.0, kind="panda"), "odd", tracking_uri=uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(MissingEnvironmentError, match="does not answer"):
        resolve("models:/parts/1", "http://127.0.0.1:9")


def test_registering_refuses_a_damaged_bundle(uri: str, tmp_path: Path) -> None:
    folder = bundle(tmp_path / "one", 1.0)
    (folder / "card.md").write_text("changed")
    with pytest.raises(CheckpointError, match=r"card\.md: checksum differs"):
        register_bundle(folder, "parts", tracking_uri=uri)


def test_a_folder_is_pulled_like_a_model(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "one", 1.0)
    copy = pull(str(folder), tmp_path / "copy")
    shutil.rmtree(folder)
    assert read_bundle(copy).labels == LABELS


def test_the_card_holds_facts_labels_and_use() -> None:
    made = Bundle("segmenter", {"resolution": 8}, {"w": torch.zeros(2, 3)}, LABELS, facts={
        "nimg": 12000, "data": {"pairs": {"source": "s3://b/pairs", "count": 500, "fingerprint": "abc"}},
        "metrics": {"miou_foreground": 0.61234}, "per_class": {"left": 0.5}, "parents": {"sampler": "models:/h/1"},
    })  # fmt: skip
    card = model_card("parts", made)
    for text in ("Numbers in the weights: 6", "s3://b/pairs, 500 items", "| miou_foreground | 0.6123 |", "models:/h/1",
                 "| 1 | left |", "| right | 0.5000 |", "load_segmenter", "## Limits", "## Licence"):  # fmt: skip
        assert text in card


def test_a_bundle_on_s3_is_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, asked = bundle(tmp_path / "one", 1.0), []

    def local(uri: str) -> Path:
        return folder / uri.removeprefix("s3://lab/runs/parts").lstrip("/")

    def read(uri: str) -> bytes:
        asked.append(uri.rsplit("/", 1)[-1])
        return local(uri).read_bytes()

    monkeypatch.setattr(object_store, "read_bytes", read)
    monkeypatch.setattr(
        object_store, "list_files", lambda uri: [object_store.Entry(p.name, 1) for p in local(uri).iterdir()]
    )
    found = resolve("s3://lab/runs/parts", cache=tmp_path / "cache")
    assert read_bundle(found).tensors["w"][0] == 1.0 and asked.count(WEIGHTS) == 1
    assert resolve("s3://lab/runs/parts/", cache=tmp_path / "cache") == found and asked.count(WEIGHTS) == 1
    bundle(tmp_path / "one", 2.0)  # another bundle in the same place is noticed
    assert read_bundle(resolve("s3://lab/runs/parts", cache=tmp_path / "cache")).tensors["w"][0] == 2.0
    (folder / WEIGHTS).write_bytes(b"cut")
    with pytest.raises(CheckpointError, match=f"s3://lab/runs/parts/{WEIGHTS}: checksum differs"):
        pull("s3://lab/runs/parts", tmp_path / "pulled")


@pytest.mark.parametrize(("code", "says"), [(401, "wants a user and a password"), (403, "does not allow")])
def test_a_server_that_refuses_us_is_named_with_what_it_wants(code: int, says: str) -> None:
    from mlflow.exceptions import MlflowException

    answer = f"API request to endpoint /api/2.0/mlflow/registered-models/get failed with error code {code} != 200."
    with (
        pytest.raises(MissingEnvironmentError, match=f"http://host:5000 {says}") as caught,
        plain_errors("http://host:5000", "looking up models:/m/1"),
    ):
        raise MlflowException(answer)
    assert "MLFLOW_TRACKING_PASSWORD" in caught.value.hint
