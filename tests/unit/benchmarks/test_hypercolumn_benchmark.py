"""The hypercolumn benchmark's arms agree and its line holds what it promises (on small maps)."""

from __future__ import annotations

import json

import pytest

from raygseg.benchmarks import hypercolumn


def test_the_real_maps_are_the_published_ones() -> None:
    layers = hypercolumn.tapped_layers()
    assert (len(layers), sum(layer.channels for layer in layers)) == (12, 4864)
    assert (hypercolumn.WIDTH, hypercolumn.GRID) == (128, 256)


def test_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hypercolumn, "WIDTHS", {8: 16, 16: 8, 32: 4})
    monkeypatch.setattr(hypercolumn, "GRID", 32)
    line = hypercolumn.run(repeats=3, memory_repeats=0)
    assert line["name"] == "hypercolumn"
    assert line["relative_error"] <= 1e-5
    assert line["ratio"] > 0
    assert line["settings"]["channels"] == 56
    assert json.loads(json.dumps(line)) == line


@pytest.mark.parametrize("arm", list(hypercolumn.ARMS))
def test_peak_memory_is_that_of_the_arm(arm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Growth above the maps, in a process of its own; the explicit stack alone is 224 channels of 256 KiB."""
    code = (
        "from raygseg.benchmarks import hypercolumn as h\n"
        "h.WIDTHS = {16: 100, 256: 12}; h.WIDTH = 16\n"
        f"print(h.peak_bytes({arm!r}))"
    )
    peak = int(hypercolumn.run_python(code))
    stack = 224 * 256**2 * 4
    if arm == "explicit":
        assert peak > 0.9 * stack
    else:
        assert 0 < peak < 0.6 * stack
