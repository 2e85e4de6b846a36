"""PANet beside the released code on ten real episodes; needs its checkout and the real pictures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raygseg.benchmarks import panet_parity
from raygseg.benchmarks.support import peers
from raygseg.errors import MissingEnvironmentError


def test_without_the_released_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "animals_voc").mkdir()
    monkeypatch.delenv(peers.VARIABLE, raising=False)
    with pytest.raises(MissingEnvironmentError, match=r"RAYGSEG_PEERS is not set(.|\n)*checkout of PANet"):
        panet_parity.run(data=str(tmp_path))
    monkeypatch.delenv("RAYGSEG_DATA", raising=False)
    with pytest.raises(MissingEnvironmentError, match="no folder 'animals_voc'"):
        panet_parity.run()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(
    not (os.environ.get("RAYGSEG_DATA") and Path(os.environ.get(peers.VARIABLE, "/none"), peers.PANET).is_dir()),
    reason="needs RAYGSEG_DATA and a checkout of PANet in RAYGSEG_PEERS",
)
def test_ten_episodes_agree() -> None:
    found = panet_parity.run(episodes=10, logits_of=10, steps_of=1, resolution=97, source="animals_voc?split=test")
    assert found["protocol"].startswith("panet_release")
    assert found["logit_error"] < 1e-4
    assert found["iou_error"] < 1e-3
    assert found["loss_error"] < 1e-4
