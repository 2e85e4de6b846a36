"""Exported samples: diverse, repeatable, never over somebody's labels, and readable by head training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from raygseg.errors import ConfigError, DataError
from raygseg.methods.repurposegan.samples import read_samples
from raygseg.methods.stylegan2.generator import StyleGAN2Generator
from raygseg.pipelines.sample import diverse_subset, sample_for_labelling


@pytest.fixture(scope="module")
def generator() -> StyleGAN2Generator:
    torch.manual_seed(0)
    return StyleGAN2Generator(8, z_dim=8, w_dim=8, mapping_layers=2, channel_base=64, channel_max=8).eval()


def test_every_cluster_is_visited_before_any_twice() -> None:
    rng = np.random.default_rng(0)
    centres = 10 * rng.standard_normal((4, 6))
    points = np.repeat(centres, 25, axis=0) + 0.1 * rng.standard_normal((100, 6))
    chosen = diverse_subset(points.astype(np.float32), 4)
    assert sorted(i // 25 for i in chosen) == [0, 1, 2, 3]


def test_the_oddest_are_left_out() -> None:
    points = np.random.default_rng(0).standard_normal((100, 3)).astype(np.float32)
    points[17] = 50.0
    assert 17 not in diverse_subset(points, 10)
    assert len(set(diverse_subset(points, 10))) == 10


def test_files_are_written_and_written_again_alike(generator: StyleGAN2Generator, tmp_path: Path) -> None:
    first = sample_for_labelling(generator, 3, tmp_path / "a", seed=2, truncation_psi=0.7, candidates=20)
    second = sample_for_labelling(generator, 3, tmp_path / "b", seed=2, truncation_psi=0.7, candidates=20)
    assert first.seeds == second.seeds
    assert all(200_000 <= s < 200_020 for s in first.seeds)
    for seed in first.seeds:
        pixels = (tmp_path / f"a/images/{seed}.png").read_bytes()
        assert pixels == (tmp_path / f"b/images/{seed}.png").read_bytes()
        ws = generator.latents([seed], 0.7)
        with torch.no_grad():
            image = generator.render(ws, [seed]).images[0].clamp(-1, 1)
        shown = torch.from_numpy(np.asarray(Image.open(tmp_path / f"a/images/{seed}.png")).copy()).permute(2, 0, 1)
        assert float((shown.float() - (image + 1) * 127.5).abs().max()) <= 0.51
    assert Path(first.contact_sheet).is_file()
    assert "masks/SEED.png" in (tmp_path / "a/README.txt").read_text()


def test_labels_painted_on_them_are_read_back(generator: StyleGAN2Generator, tmp_path: Path) -> None:
    exported = sample_for_labelling(generator, 2, tmp_path, truncation_psi=0.5, candidates=8)
    (tmp_path / "labels.json").write_text(json.dumps({"classes": ["background", "mine"]}))
    for seed in exported.seeds:
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / f"masks/{seed}.png")
    again = sample_for_labelling(generator, 2, tmp_path, truncation_psi=0.5, candidates=8)
    samples = read_samples(str(tmp_path))
    assert samples.labels.names == ("background", "mine")
    assert sorted(again.seeds) == list(samples.seeds)
    assert samples.truncation_psi == 0.5


def test_other_samples_are_not_overwritten(generator: StyleGAN2Generator, tmp_path: Path) -> None:
    sample_for_labelling(generator, 2, tmp_path, candidates=8)
    with pytest.raises(DataError, match="already holds other samples"):
        sample_for_labelling(generator, 2, tmp_path, seed=1, candidates=8)


def test_too_few_candidates_are_refused(generator: StyleGAN2Generator, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="10 pictures cannot be chosen from 10 candidates"):
        sample_for_labelling(generator, 10, tmp_path, candidates=10)
