"""A pair set whose rows tell their seed: every pixel of picture s has red value s."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from raygseg.config.schema import SegmenterConfig
from raygseg.data.pair_set import PairSet
from raygseg.data.shard_writer import Recording, ShardWriter
from raygseg.data.shards import Manifest, complete, plan
from raygseg.interfaces import Pairs
from raygseg.labels import LabelSpace

LABELS = LabelSpace(("background", "left", "right"), swaps=((1, 2),))
SIDE = 8


class SeedSampler:
    """Class of row s is s % 3 with probability 0.8; its score is (s % 10) / 10."""

    labels = LABELS
    resolution = SIDE

    def sample(self, seeds: Sequence[int]) -> Pairs:
        images = torch.zeros(len(seeds), 3, SIDE, SIDE, dtype=torch.uint8)
        probabilities = torch.full((len(seeds), 3, SIDE, SIDE), 0.1)
        for row, seed in enumerate(seeds):
            images[row, 0] = seed
            probabilities[row, seed % 3] = 0.8
        return Pairs(images, probabilities, torch.tensor([(seed % 10) / 10 for seed in seeds]))


def write_pairs(folder: Path, count: int = 50, rows_per_shard: int = 8) -> PairSet:
    settings = {"batch_size": 4, "first_seed": 0, "image_format": "png"}
    begun = plan(str(folder), Manifest(settings, LABELS, SIDE, (count,), rows_per_shard), "resume")
    with ShardWriter(SeedSampler(), Recording.of(str(folder), begun.manifest)) as writer:
        fresh = dict(zip([shard.first_row for shard in begun.pending], writer.write(begun.pending), strict=True))
    complete(str(folder), begun.manifest, fresh, 0.0)
    return PairSet.open(str(folder))


def run(**changes: Any) -> SegmenterConfig:
    values = {
        "name": "student",
        "seed": 1,
        "pairs": "written",
        "resolution": SIDE,
        "schedule": {"total_kimg": 1, "batch_size": 4},
        "chunk_shards": 2,
    }
    return SegmenterConfig.model_validate(values | changes)
