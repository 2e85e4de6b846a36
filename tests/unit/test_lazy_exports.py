"""`import raygseg` is light, and its exports are there."""

from __future__ import annotations

import subprocess
import sys

import pytest

import raygseg


def test_importing_loads_nothing_heavy() -> None:
    code = (
        "import sys, raygseg; raygseg.LabelSpace, raygseg.RaygsegError, raygseg.__version__; "
        "print([m for m in ('torch', 'ray', 'mlflow', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_exports_are_found_and_others_are_not() -> None:
    for name in raygseg.__all__:
        assert getattr(raygseg, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'load_car'"):
        raygseg.load_car  # noqa: B018
