"""What all tiers share: quiet libraries, one thread, the real pictures where there are any."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Before anything imports torch, Ray or MLflow.
for _name, _value in {
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_OFFLINE": "1",
}.items():
    os.environ.setdefault(_name, _value)

# Deterministic examples: a test that passed today passes tomorrow, on a slow machine too.
settings.register_profile(
    "raygseg", deadline=None, derandomize=True, max_examples=25, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("raygseg")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout's root: `configs/`, `jobs/`, `README.md` are below it."""
    return REPOSITORY


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real pictures that RAYGSEG_DATA names; skips the test where there is none."""
    folder = os.environ.get("RAYGSEG_DATA", "")
    if not folder:
        pytest.skip("RAYGSEG_DATA is not set: no real pictures on this machine")
    if not Path(folder).is_dir():
        pytest.fail(f"RAYGSEG_DATA={folder} is not a folder")
    return Path(folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests below tests/gpu carry the `gpu` mark and skip where there is no CUDA device."""
    gpu = [item for item in items if "gpu" in Path(item.path).relative_to(REPOSITORY / "tests").parts[:1]]
    gpu += [item for item in items if item not in gpu and item.get_closest_marker("gpu")]
    if not gpu:
        return
    import torch

    for item in gpu:
        item.add_marker("gpu")
        if not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))
