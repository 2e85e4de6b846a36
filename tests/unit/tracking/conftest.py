"""An MLflow store in a sqlite file, made once and copied for each test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from raygseg.tracking.store import connect


@pytest.fixture(scope="session")
def fresh_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An initialised sqlite file; making its tables takes seconds, copying it none."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    connect(f"sqlite:///{file}").search_experiments(max_results=1)
    return file


@pytest.fixture
def uri(fresh_store: Path, tmp_path: Path) -> str:
    shutil.copy(fresh_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"
