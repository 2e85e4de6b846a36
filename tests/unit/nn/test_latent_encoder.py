"""The encoder guesses codes better than the mean does, is kept, and belongs to its generator."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raygseg.errors import CheckpointError
from raygseg.nn.latent_encoder import EncoderPlan, kept_encoder
from raygseg.nn.projection import ProjectionPlan, project
from tests.unit.tiny_networks import tiny_distance, tiny_generator

PLAN = EncoderPlan(pictures=512, epochs=6, batch=32, lr=5e-3, width=16)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    kept_encoder(place, tiny_generator(), "tiny", PLAN)
    return place


def test_its_guess_is_a_better_start_than_the_mean(file: Path) -> None:
    generator = tiny_generator()
    encoder = kept_encoder(file, generator, "tiny", PLAN)
    assert float(encoder.held_out_error) < 0.7  # the mean w has 1
    images = generator.render(generator.latents([3, 4, 5])).images
    assert encoder(images).shape == (3, generator.num_ws, generator.w_dim)
    short = ProjectionPlan(steps=5, lr=0.02)
    distance = tiny_distance()
    mean, guess = (project(generator, distance, images, plan=short, start=s) for s in (None, encoder(images)))
    assert guess.squared_errors.mean() < 0.8 * mean.squared_errors.mean()
    assert torch.equal(mean.start_distances, guess.start_distances)  # of the mean picture in both


def test_the_kept_one_is_of_this_generator_and_plan(file: Path) -> None:
    with pytest.raises(CheckpointError, match="another generator or plan"):
        kept_encoder(file, tiny_generator(), "someone else", PLAN)
    file.with_name("broken.safetensors").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match="not an encoder"):
        kept_encoder(file.with_name("broken.safetensors"), tiny_generator(), "tiny", PLAN)
