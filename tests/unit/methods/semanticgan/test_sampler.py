"""The joint generator as a source of pairs, through a bundle and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raygseg.bundle import read_bundle, write_bundle
from raygseg.errors import CheckpointError, ConfigError
from raygseg.interfaces import PairSampler
from raygseg.labels import LabelSpace
from raygseg.methods.semanticgan.sampler import JointSampler
from raygseg.methods.stylegan2.generator import StyleGAN2Generator
from raygseg.pipelines.kinds import build_generator, load_generator, load_sampler
from raygseg.tracking.cards import model_card

THREE, TWO = LabelSpace(("background", "a", "b")), LabelSpace(("background", "cell"))


def sampler(labels: LabelSpace, image_channels: int = 3) -> JointSampler:
    torch.manual_seed(0)
    channels = 1 if labels.num_classes == 2 else labels.num_classes
    generator = StyleGAN2Generator(8, 8, 8, 2, 64, 8, image_channels, channels)
    return JointSampler(generator, labels, temperature=1.0)


@pytest.mark.parametrize(("labels", "image_channels"), [(THREE, 3), (TWO, 1)])
def test_bundle_gives_the_same_pairs(labels: LabelSpace, image_channels: int, tmp_path: Path) -> None:
    made = sampler(labels, image_channels)
    assert isinstance(made, PairSampler)
    bundle = made.to_bundle()
    write_bundle(tmp_path / "bundle", bundle)
    again = load_sampler(tmp_path / "bundle")
    assert isinstance(again, JointSampler) and again.codec.temperature == 1.0 and again.labels == labels
    first, second = made.sample([3, 4]), again.sample([3, 4])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert first.images.dtype == torch.uint8 and first.images.shape == (2, 3, 8, 8)
    assert first.probabilities.shape == (2, labels.num_classes, 8, 8)
    torch.testing.assert_close(first.probabilities.sum(1), torch.ones(2, 8, 8))
    torch.testing.assert_close(made.sample([4]).probabilities[0], first.probabilities[1])
    generator = load_generator(tmp_path / "bundle")
    torch.testing.assert_close(generator.latents([3]), made.generator.latents([3]))
    assert "| 1 | " + labels.names[1] in model_card("joint", read_bundle(tmp_path / "bundle"))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="3 label channels, the classes take 1"):
        JointSampler(sampler(THREE).generator, TWO)
    bundle = sampler(THREE).to_bundle()
    del bundle.tensors["generator.mapping.w_avg"]  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match="do not fit the generator"):
        JointSampler.from_bundle(bundle, build_generator)
