"""Runs: found again, points never doubled, a dead store never in the way of training."""

from __future__ import annotations

import logging
import pickle
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raygseg.errors import ConfigError
from raygseg.tracking.hooks import TrackingHook
from raygseg.tracking.identity import RunSettings
from raygseg.tracking.journal import JOURNAL, Entry, Journal
from raygseg.tracking.runs import TrackedRun
from raygseg.tracking.store import connect, experiment_id, resolve_tracking_uri

CONFIG = {
    "kind": "gan",
    "name": "toy",
    "data": {"source": "toy://plain?count=10", "resolution": 32},
    "generator": {"widths": (64, 32), "note": "x" * 2000},
    "runtime": {"workers": 2},
}


def settings(uri: str, folder: Path, **changes: Any) -> RunSettings:
    return RunSettings(
        **{"name": "toy", "fingerprint": "f1", "tracking_uri": uri, "run_dir": str(folder / "run"),
           "config": CONFIG, "data": {"train": ("toy://plain", "d1")}} | changes
    )  # fmt: skip


def points(uri: str, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(p.step, p.value) for p in connect(uri).get_metric_history(run_id, key)]


def test_a_resume_finds_the_same_run_and_doubles_nothing(uri: str, tmp_path: Path) -> None:
    first = TrackedRun.open(settings(uri, tmp_path))
    for nimg in (100, 200, 300):
        first.log_metrics(nimg, {"loss": nimg / 10, "score (mean)": 1.0})
    first.log_picture(200, "fakes/ema", np.full((4, 6, 3), 9, np.uint8))
    assert first.flush()
    first.close()  # as a kill: no final status

    changed_runtime = CONFIG | {"runtime": {"workers": 4}}
    second = TrackedRun.open(settings(uri, tmp_path, config=changed_runtime))
    for nimg in (200, 300, 400):  # back to the checkpoint of 100
        second.log_metrics(nimg, {"loss": nimg / 10})
        second.log_picture(nimg, "fakes/ema", np.full((4, 6, 3), 9, np.uint8))
    assert second.finish("FINISHED")

    assert second.run_id == first.run_id
    assert points(uri, first.run_id, "loss") == [(100, 10.0), (200, 20.0), (300, 30.0), (400, 40.0)]
    assert len(points(uri, first.run_id, "score _mean_")) == 3
    pngs = [a.path for a in connect(uri).list_artifacts(first.run_id, "images") if a.path.endswith(".png")]
    assert len(pngs) == 3 and sum("step+200+" in p for p in pngs) == 1
    run = connect(uri).get_run(first.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["data.resolution"] == "32" and len(run.data.params["generator.note"]) <= 500
    assert "runtime.workers" not in run.data.params and run.data.tags["runtime.workers"] == "4"
    assert run.data.tags["raygseg.fingerprint"] == "f1" and run.inputs.dataset_inputs[0].dataset.digest == "d1"
    config = Path(connect(uri).download_artifacts(first.run_id, "config.yaml", str(tmp_path))).read_text()
    assert "x" * 2000 in config


def test_another_fingerprint_or_folder_is_another_run(uri: str, tmp_path: Path) -> None:
    ids = set()
    for change in ({}, {"fingerprint": "f2"}, {"run_dir": str(tmp_path / "elsewhere")}, {"name": "other"}):
        run = TrackedRun.open(settings(uri, tmp_path, **change))
        ids.add(run.run_id)
        run.close()
    assert len(ids) == 4 and "" not in ids


def test_the_journal_brings_back_what_a_dead_store_missed(
    uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    dead = settings("http://127.0.0.1:9", tmp_path)
    with caplog.at_level(logging.WARNING, "raygseg.tracking"):
        run = TrackedRun.open(dead, patience=10)
        for nimg in range(100, 600, 100):
            run.log_metrics(nimg, {"loss": float(nimg)})
        run.log_picture(500, "fakes", np.zeros((4, 4, 3), np.uint8))
        assert run.run_id == "" and not run.flush(0.1)
        run.close()
    assert sum("training goes on" in r.message for r in caplog.records) == 1

    alive = TrackedRun.open(settings(uri, tmp_path))  # resumed when there is a store again
    assert alive.finish()
    assert points(uri, alive.run_id, "loss") == [(n, float(n)) for n in range(100, 600, 100)]
    assert any("fakes+step+500+" in a.path for a in connect(uri).list_artifacts(alive.run_id, "images"))


def test_a_store_that_comes_back_gets_everything(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raygseg.tracking.runs._PAUSES", (0.01,))
    refusals = iter([OSError("down")] * 3)

    def client_of(address: str) -> Any:
        for refusal in refusals:
            raise refusal
        return connect(address)

    run = TrackedRun(settings(uri, tmp_path), client_of)
    run.log_metrics(1, {"loss": 0.5})
    assert run.flush(20)
    assert points(uri, run.run_id, "loss") == [(1, 0.5)]
    run.close()


def test_a_hook_travels_and_the_driver_completes_its_points(uri: str, tmp_path: Path) -> None:
    driver = TrackingHook(settings(uri, tmp_path))
    run_id = driver.start()
    driver.on_facts({"data": {"pictures": {"source": "toy://b", "fingerprint": "d2", "count": 5}}, "other": 1})
    controller = pickle.loads(pickle.dumps(driver))  # noqa: S301
    assert controller.settings.run_id == run_id
    controller.on_tick(1500, {"loss": 2.0})
    controller.on_images(1500, "fakes", np.zeros((4, 4, 3), np.uint8))
    controller.release()
    # A point that the controller journalled and could not send any more:
    Journal(tmp_path / "run").append(Entry(2000, int(time.time() * 1000), {"loss": 1.0}))
    driver.on_end("FAILED")
    assert points(uri, run_id, "loss") == [(1500, 2.0), (2000, 1.0)]
    assert points(uri, run_id, "kimg") == [(1500, 1.5)]
    assert len([a for a in connect(uri).list_artifacts(run_id, "images") if a.path.endswith(".png")]) == 1
    run = connect(uri).get_run(run_id)
    assert run.info.status == "FAILED" and run.data.tags["raygseg.data.pictures.fingerprint"] == "d2"
    assert {d.dataset.digest for d in run.inputs.dataset_inputs} == {"d1", "d2"}


def test_a_line_cut_by_a_kill_costs_one_point_only(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_text('{"nimg": 1, "time": 1, "metrics": {"a": 1}}\n{"nimg": 2, "ti')
    journal = Journal(tmp_path)
    journal.append(journal.since(0)[0])
    assert [e.nimg for e in Journal(tmp_path).since(0)] == [1, 1]


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "mlruns", "sqlite://", "s3://bucket/runs"])
def test_stores_that_mlflow_refuses_are_named_at_once(uri: str) -> None:
    with pytest.raises(ConfigError, match="tracking_uri") as caught:
        resolve_tracking_uri(uri)
    assert "sqlite:///" in caught.value.hint


def test_artifacts_lie_beside_the_sqlite_file(
    fresh_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    uri = resolve_tracking_uri()
    assert uri == f"sqlite:///{tmp_path}/runs/mlflow.db"
    (tmp_path / "runs").mkdir()
    shutil.copy(fresh_store, tmp_path / "runs" / "mlflow.db")
    client = connect(uri)
    location = client.get_experiment(experiment_id(client, uri, "e")).artifact_location
    assert location == (tmp_path / "runs" / "mlartifacts").as_uri()
