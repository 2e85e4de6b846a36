"""The whole `generate`: a sampler bundle in, a recorded pair set out, on Ray."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from raygseg.bundle import read_bundle, write_bundle
from raygseg.config.schema import GenerateConfig
from raygseg.config.sections import Runtime
from raygseg.data.pair_set import PairSet
from raygseg.data.pairs import decode_pairs
from raygseg.errors import CheckpointError, FingerprintError

pytestmark = pytest.mark.timeout(600)  # seconds where cores are free; starting actors takes long where they are not


@pytest.fixture(scope="module")
def sampler_bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    from raygseg.benchmarks.generate import write_sampler

    return write_sampler(tmp_path_factory.mktemp("bundle") / "sampler", resolution=16, capacity=0.02)


def config(sampler: str, folder: Path, **changes: object) -> GenerateConfig:
    runtime = Runtime(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    values = {"num_pairs": 40, "rows_per_shard": 16, "batch_size": 8, "actors": 1, **changes}
    return GenerateConfig(name="pairs", sampler=sampler, output=f"{folder}/set", runtime=runtime, **values)


def test_pairs_are_those_of_the_bundle_and_the_run_is_recorded(
    tmp_path: Path, sampler_bundle: str, ray_cluster: None
) -> None:
    from mlflow import MlflowClient

    from raygseg.pipelines.generate import generate
    from raygseg.pipelines.kinds import load_sampler

    told: list[tuple[str, float, float]] = []
    result = generate(config(sampler_bundle, tmp_path), progress=lambda *at: told.append(at[:3]))
    assert (result.num_pairs, result.made) == (40, 40)
    assert told[0] == ("generate", 0, 40) and told[-1] == ("generate", 40, 40)
    assert sum(result.class_shares.values()) == pytest.approx(1)
    pairs = PairSet.open(result.output)
    previous = torch.get_num_threads()
    torch.set_num_threads(1)
    truth = load_sampler(sampler_bundle).sample(range(8))
    torch.set_num_threads(previous)
    first = decode_pairs(pairs.read(pairs.shards[0]), pairs.labels.num_classes)
    assert torch.equal(first.images[:8], truth.images)
    run = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").get_run(result.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["pairs"] == 40 and run.data.params["num_pairs"] == "40"

    again = generate(config(sampler_bundle, tmp_path))
    assert again.made == 0 and again.run_id == result.run_id
    with pytest.raises(FingerprintError, match="batch_size: 8 -> 4"):
        generate(config(sampler_bundle, tmp_path, batch_size=4))
    longer = generate(config(sampler_bundle, tmp_path, num_pairs=50, mode="extend"))
    assert (longer.num_pairs, longer.made) == (50, 10)


def test_another_model_under_the_same_name_is_refused(tmp_path: Path, sampler_bundle: str) -> None:
    from raygseg.pipelines import generate as module

    settings = config(sampler_bundle, tmp_path)
    loader = module._loader(settings)
    assert module.load_checked_sampler(loader.argument, "cpu").resolution == 16
    bundle = read_bundle(sampler_bundle)
    moved = write_bundle(tmp_path / "moved", bundle)
    loader = module._loader(settings.model_copy(update={"sampler": str(moved)}))
    changed = {name: tensor + 1 for name, tensor in bundle.tensors.items()}
    write_bundle(moved, replace(bundle, tensors=changed))
    with pytest.raises(CheckpointError, match="changed since generation began"):
        module.load_checked_sampler(loader.argument, "cpu")


@pytest.mark.parametrize("names", [("background", "a", "b"), ("background", "cell")])
def test_a_student_learns_from_what_a_joint_generator_makes(
    names: tuple[str, ...], tmp_path: Path, ray_cluster: None
) -> None:
    """Neither `generate` nor the student knows how the labels came about."""
    from raygseg.config.schema import SegmenterConfig
    from raygseg.labels import LabelSpace
    from raygseg.methods.semanticgan.sampler import JointSampler
    from raygseg.methods.stylegan2.generator import StyleGAN2Generator
    from raygseg.pipelines.generate import generate
    from raygseg.pipelines.kinds import load_segmenter
    from raygseg.pipelines.train import train

    torch.manual_seed(0)
    channels = 1 if len(names) == 2 else len(names)
    sampler = JointSampler(StyleGAN2Generator(8, 8, 8, 2, 64, 8, 3, channels), LabelSpace(names), temperature=1.0)
    bundle = str(write_bundle(tmp_path / "joint", sampler.to_bundle()))
    result = generate(config(bundle, tmp_path))
    pairs = PairSet.open(result.output)
    assert result.num_pairs == 40 and pairs.labels.names == names
    run = {"in_process": True, "output": f"{tmp_path}/student", "tracking_uri": f"sqlite:///{tmp_path}/mlflow.db"}
    student = SegmenterConfig.model_validate(
        {
            "name": "student", "pairs": result.output, "resolution": 8, "network": {"width": 4, "depth": 2},
            "schedule": {"total_kimg": 0.016, "batch_size": 8}, "runtime": run,
        }
    )  # fmt: skip
    picture = sampler.sample([1]).images[0].permute(1, 2, 0).numpy()
    (answer,) = load_segmenter(train(student).bundle_path).predict([picture])
    assert answer.label_map.shape == (8, 8) and answer.label_map.max() < len(names)
