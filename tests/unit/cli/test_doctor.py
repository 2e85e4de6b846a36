"""Doctor: every check can pass and can fail, and a failing one gives a fix and exit code 3."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from raygseg.cli import doctor
from raygseg.cli.app import main
from raygseg.cli.doctor_services import check_mlflow


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAYGSEG_DATA", "MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name, raising=False)
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def test_all_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert " 1. ok   Python" in text
    assert "0 failed" in text


def test_a_failing_check_is_3(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RAYGSEG_DATA", "/nonexistent")
    assert main(["doctor"]) == 3
    text = capsys.readouterr().out
    assert "FAIL RAYGSEG_DATA: /nonexistent is not a folder" in text
    assert "fix: correct or unset RAYGSEG_DATA" in text


def test_python() -> None:
    assert doctor.check_python((3, 10, 4)).state == "fail"
    assert doctor.check_python((3, 13, 0)).state == "ok"


def test_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.metadata, "version", {"torch": "2.13.0+cpu", "ray": "2.61.0"}.__getitem__)
    assert doctor.check_package("torch", "2.13.0", Requirement("torch>=2.7")).state == "ok"
    assert doctor.check_package("torch", "2.12.1", Requirement("torch>=2.7")).state == "note"
    outside = doctor.check_package("ray", "2.60.0", Requirement("ray>=2.60,<2.61"))
    assert (outside.state, "ray==2.60.0" in outside.fix) == ("fail", True)


def test_package_that_is_missing() -> None:
    missing = doctor.check_package("no-such-package", None, Requirement("no-such-package>=1"))
    assert (missing.state, missing.fix) == ("fail", "pip install 'no-such-package>=1'")


def test_tested_versions_are_the_constraints() -> None:
    pins = doctor.tested_versions()
    assert pins["torch"] == "2.13.0"
    assert pins["boto3"] == pins["botocore"]
    assert not [name for name in pins if name.startswith(("nvidia", "triton"))]


@pytest.mark.parametrize(("gib", "state"), [(1, "fail"), (5, "note"), (50, "ok")])
def test_disk(gib: int, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=gib * doctor.GIB))
    finding = doctor.check_disk()
    assert finding.state == state
    assert bool(finding.fix) == (state != "ok")


@pytest.mark.parametrize(("gib", "state"), [(1, "fail"), (16, "ok")])
def test_memory(gib: int, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": gib * doctor.GIB // 4096}.get)
    assert doctor.check_memory().state == state


def test_mlflow_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_mlflow().state == "ok"  # not there yet, and its folder can be made
    store = tmp_path / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
    with sqlite3.connect(store) as connection:
        connection.execute("create table runs (id text)")
        connection.execute("insert into runs values ('a')")
    connection.close()
    assert check_mlflow().found.endswith("1 runs")
    store.write_bytes(b"not a database" * 100)
    assert check_mlflow().state == "fail"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:./mlruns")
    assert "sqlite:///" in check_mlflow().fix
