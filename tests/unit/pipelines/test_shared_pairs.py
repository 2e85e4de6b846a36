"""Several heads' pair sets from one rendering of every picture: the same rows, fewer passes, resumable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from raygseg.bundle import write_bundle
from raygseg.config.schema import GenerateConfig
from raygseg.data.pair_set import PairSet
from raygseg.data.pairs import stored_images, top_two
from raygseg.errors import ConfigError
from raygseg.interfaces import Generator
from raygseg.labels import LabelSpace
from raygseg.methods.repurposegan.heads import LabelHead
from raygseg.methods.repurposegan.sampler import GeneratorHeadSampler
from raygseg.pipelines.kinds import load_sampler
from raygseg.pipelines.shared_pairs import write_shared
from tests.unit.tiny_networks import BUILD, tiny_generator

LABELS = LabelSpace(("background", "part"))


def sampler(folder: Path, seed: int, generator: Generator | None = None) -> str:
    made = generator or tiny_generator()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = LabelHead("linear", made.feature_layers, 2, 16)
    place = folder / f"sampler-{seed}"
    write_bundle(place, GeneratorHeadSampler(made, head, LABELS).to_bundle({"architecture": "stylegan2", **BUILD}))
    return str(place)


def runs(folder: Path, samplers: list[str], **changes: int) -> list[GenerateConfig]:
    values = {"num_pairs": 12, "rows_per_shard": 6, "batch_size": 3, **changes}
    return [
        GenerateConfig.model_validate({"name": "t", "sampler": s, "output": str(folder / f"pairs-{i}"), **values})
        for i, s in enumerate(samplers)
    ]


def test_each_set_holds_its_own_heads_rows_and_pictures_are_rendered_once(tmp_path: Path) -> None:
    samplers = [sampler(tmp_path, seed) for seed in (1, 2, 3)]
    told: list[tuple[int, int]] = []
    passes = write_shared(runs(tmp_path, samplers), lambda stage, done, total, facts: told.append((done, total)))
    assert passes == 4  # 12 rows in batches of 3, whatever the number of heads
    assert told[-1] == (36, 36)
    for place, name in enumerate(samplers):
        pairs = PairSet.open(str(tmp_path / f"pairs-{place}"))
        assert pairs.manifest.complete
        table = pairs.read(pairs.shards[1])
        alone = load_sampler(name).sample(range(6, 9))
        assert np.array_equal(stored_images(table)[:3], alone.images.numpy())
        assert np.array_equal(top_two(table)[0][:3, 0], alone.probabilities.argmax(1).numpy())


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    samplers = [sampler(tmp_path, seed) for seed in (1, 2)]
    write_shared(runs(tmp_path, samplers[:1]))
    assert write_shared(runs(tmp_path, samplers)) == 4  # for the second set only
    assert write_shared(runs(tmp_path, samplers)) == 0


def test_sets_that_cannot_share_are_refused(tmp_path: Path) -> None:
    other = tiny_generator()
    next(other.parameters()).add_(1.0)
    mixed = [sampler(tmp_path, 1), sampler(tmp_path, 2, other)]
    with pytest.raises(ConfigError, match="another generator"):
        write_shared(runs(tmp_path, mixed))
    first, second = runs(tmp_path, mixed)
    with pytest.raises(ConfigError, match="rows_per_shard"):
        write_shared([first, second.model_copy(update={"rows_per_shard": 4})])
