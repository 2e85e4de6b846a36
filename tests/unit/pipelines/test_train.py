from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from raygseg.bundle import read_bundle
from raygseg.config.schema import GanConfig, SegmenterConfig
from raygseg.engine.checkpoint import CheckpointFolder, read_checkpoint
from raygseg.errors import ConfigError, FingerprintError
from raygseg.pipelines.kinds import load_generator
from raygseg.pipelines.train import plan, train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]  # making an MLflow store takes its time


def gan(folder: Path, name: str = "tiny", runtime: Mapping[str, Any] | None = None, **changes: Any) -> GanConfig:
    values: dict[str, Any] = {
        "name": name,
        "data": {"source": "toy://default?count=20&seed=0", "resolution": 8},
        "schedule": {"total_kimg": 0.032, "batch_size": 8, "micro_batch": 4},
        "generator": {"z_dim": 8, "w_dim": 8, "mapping_layers": 1, "channel_base": 32, "channel_max": 8},
        "loss": {"path_weight": 0},
        "runtime": {
            "in_process": True,
            "output": str(folder / name),
            "tracking_uri": f"sqlite:///{folder}/mlflow.db",
            "tick_kimg": 0.008,
            "checkpoint_kimg": 0.016,
            **(runtime or {}),
        },
    }
    return GanConfig.model_validate(values | changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def test_a_run_leaves_a_registered_bundle_and_the_same_call_goes_on(folder: Path) -> None:
    ticks: list[float] = []

    def interrupt(stage: str, done: float, total: float, facts: Mapping[str, float]) -> None:
        ticks.append(done)
        if done == 0.016:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match=r"0\.024 kimg"):  # the step after the signal is finished
        train(gan(folder), interrupt)
    assert ticks == [0, 0.008, 0.016, 0.024]
    assert CheckpointFolder(str(folder / "tiny")).names()[0] == "checkpoint-000000024"
    assert not (folder / "tiny" / "bundle").exists()

    result = train(gan(folder), lambda stage, done, total, facts: ticks.append(done))
    assert ticks[4:] == [0.024, 0.032]
    assert (result.nimg, result.model_name, result.model_version) == (32, "tiny", "1")
    bundle = read_bundle(result.bundle_path)
    assert bundle.kind == "generator" and bundle.facts["nimg"] == 32
    pictures = bundle.facts["data"]["pictures"]
    assert pictures["source"] == "toy://default?count=20&seed=0" and pictures["fingerprint"]
    assert bundle.config["schedule"]["batch_size"] == 8 and "toy://" in bundle.card
    assert "runtime" not in bundle.config  # nor in the digest, by which `generate` knows a sampler again
    assert load_generator(result.bundle_path).render(load_generator(result.bundle_path).latents([1])).images.shape == (
        1,
        3,
        8,
        8,
    )

    again = train(gan(folder))
    assert again.model_version == "1" and again.nimg == 32  # finished: the same bundle, the same version


def test_a_changed_configuration_in_the_same_place_is_refused_with_its_keys(folder: Path) -> None:
    train(gan(folder, "changed"))
    other = {"schedule": {"total_kimg": 0.032, "batch_size": 4, "micro_batch": 4}, "seed": 3}
    with pytest.raises(FingerprintError) as error:
        train(gan(folder, "changed", **other))
    assert "schedule.batch_size: 8 -> 4" in error.value.message and "seed: 0 -> 3" in error.value.message
    assert "micro_batch" not in error.value.message and error.value.exit_code == 2
    train(gan(folder, "changed", runtime={"tick_kimg": 1}))  # what does not decide the result may change


def of_an_older_version(run: Path, **told: Any) -> None:
    """Make a run one of a version that had no key augment.upright; `told` in place of what its record says."""
    record = json.loads((run / "run.json").read_text())
    record["config"]["augment"].pop("upright")
    record["config"].update(told)
    record["fingerprint"] = hashlib.sha256(json.dumps(record["config"]).encode()).hexdigest()
    (run / "run.json").write_text(json.dumps(record))
    for state in run.glob("checkpoint-*/state.json"):
        known = state.read_text()
        theirs = json.loads(known)["fingerprint"]
        state.write_text(known.replace(theirs, record["fingerprint"]))


def test_a_run_of_a_version_that_lacked_a_key_goes_on(folder: Path) -> None:
    def interrupt(stage: str, done: float, total: float, facts: Mapping[str, float]) -> None:
        if done == 0.008:
            os.kill(os.getpid(), signal.SIGINT)

    for name in ("older", "straight"):
        with pytest.raises(KeyboardInterrupt):
            train(gan(folder, name), interrupt)
    of_an_older_version(folder / "older")
    with pytest.raises(FingerprintError) as error:  # at another value than the one that stands for before
        train(gan(folder, "older", augment={"upright": True}))
    assert "augment.upright: (absent) -> True" in error.value.message
    begun: list[float] = []
    for name in ("older", "straight"):
        train(gan(folder, name), lambda stage, done, total, facts: begun.append(done))
    assert begun.count(0.016) == 2 and 0 not in begun  # neither began anew
    states = [read_checkpoint(str(folder / n / "checkpoint-000000032")).state["recipe"] for n in ("older", "straight")]
    weights = [state["modules"]["average"] for state in states]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    of_an_older_version(folder / "straight", seed="x")  # nothing that this version understands
    with pytest.raises(FingerprintError, match="another configuration"):
        train(gan(folder, "straight"))


def test_the_resolved_configuration_lies_in_the_run(folder: Path) -> None:
    config = gan(folder, "resolved")
    train(config)
    read = yaml.safe_load((folder / "resolved" / "config.yaml").read_text())
    assert GanConfig.model_validate(read) == config


def test_shares_are_checked_before_anything_is_made(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"2 micro-batches a step .*workers=3") as error:
        train(gan(folder, "uneven", runtime={"in_process": False, "workers": 3}))
    assert error.value.hint == "make schedule.batch_size a multiple of 3"
    with pytest.raises(ConfigError, match=r"in_process with runtime\.workers=2"):
        train(gan(folder, "both", runtime={"workers": 2}))
    assert not (folder / "uneven").exists()


def test_a_plan_counts_and_writes_nothing(folder: Path) -> None:
    facts = plan(gan(folder, "planned"))
    assert facts["steps"] == 4 and facts["runs in"] == "this process"
    assert facts["parameters"]["generator"] > 1000 < facts["parameters"]["discriminator"]
    assert facts["output"]["bundle"] == f"{folder}/planned/bundle"
    assert not (folder / "planned").exists()


def test_a_plan_says_what_it_cannot_know(tmp_path: Path) -> None:
    schedule = {"total_kimg": 1, "batch_size": 4}
    config = SegmenterConfig.model_validate(
        {"name": "s", "pairs": str(tmp_path / "none"), "resolution": 16, "schedule": schedule}
    )
    facts = plan(config)
    assert "known when its input is there" in facts["parameters"] and facts["steps"] == 250
    labelled = SegmenterConfig.model_validate(
        {"name": "s", "labelled": "toy://default?count=4&seed=0", "resolution": 16, "schedule": schedule}
    )
    assert plan(labelled)["parameters"]["network"] > 10000
