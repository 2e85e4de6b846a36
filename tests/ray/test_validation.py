from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from raygseg.config.loader import fingerprint
from raygseg.config.schema import GanConfig
from raygseg.errors import ConfigError
from raygseg.pipelines.fidelity import fidelity, records
from raygseg.pipelines.train import check_shares, train
from tests.unit.engine.two_workers import differing
from tests.unit.pipelines.test_train import gan
from tests.unit.tiny_networks import vgg16_file

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.slow, pytest.mark.timeout(300)]
REALS = "toy://default?count=20&seed=0"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return vgg16_file(tmp_path_factory.mktemp("weights"))


def beside(folder: Path, name: str, **validation: Any) -> GanConfig:
    """A run on Ray that measures every checkpoint; `keep_checkpoints` lets all of them live."""
    runtime = {"in_process": False, "device": "cpu", "keep_checkpoints": 9, "checkpoint_kimg": 0.008}
    return gan(folder, name, runtime, validation={"every_kimg": 0.008, "count": 16, **validation})


def test_checkpoints_are_measured_beside_training_as_they_are_afterwards(tmp_path: Path, weights: str) -> None:
    told: list[Mapping[str, float]] = []
    config = beside(tmp_path, "measured", weights=weights, precision="fp32")
    train(config, lambda stage, done, total, facts: told.append(facts))
    place = Path(config.runtime.output)
    found = records(str(place))
    assert found and found[-1].nimg == 32, "the last checkpoint is measured whatever was passed over"
    afterwards = fidelity(found[-1].generator, REALS, str(tmp_path / "again"), count=16, weights=weights)
    assert afterwards[0].fid == found[-1].fid
    assert [facts["of_kimg"] for facts in told if "of_kimg" in facts][-1] == 0.032
    points = [json.loads(line) for line in (place / "tracking.jsonl").read_text().splitlines()]
    measured = [(point["nimg"], point.get("metrics", {}).get("fid_vgg16")) for point in points]
    tracked = {nimg: fid for nimg, fid in measured if fid is not None}
    assert tracked == {record.nimg: record.fid for record in found}
    assert len(list(place.glob("reals-vgg16-*.npz"))) == 1, "the real pictures were looked at once"


def test_the_result_does_not_depend_on_it_and_a_failure_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no weights")
    configs = [beside(tmp_path, "broken", weights=str(broken)), gan(tmp_path, "without")]
    with caplog.at_level(logging.WARNING):
        results = [train(config) for config in configs]
    assert "kimg was not measured" in caplog.text and str(broken) in caplog.text
    assert fingerprint(configs[0]) == fingerprint(configs[1].model_copy(update={"name": "broken"}))
    states = [torch_state(result.bundle_path) for result in results]
    assert differing(*states) == []


def torch_state(bundle: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(Path(bundle) / "weights.safetensors")


def test_it_needs_ray(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="in_process"):
        check_shares(gan(tmp_path, "alone", validation={"every_kimg": 1}))
