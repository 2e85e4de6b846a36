"""Embedding: nearer to the picture, the same in a batch as alone, within its cap, and a `Segmenter` all told."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from raygseg.bundle import read_bundle, write_bundle
from raygseg.errors import CheckpointError, ConfigError
from raygseg.interfaces import Segmenter
from raygseg.labels import LabelSpace
from raygseg.methods.semanticgan.embedding import EmbeddingPlan, Target, compared, embed
from raygseg.methods.semanticgan.label_codec import LabelCodec
from raygseg.methods.semanticgan.segmenter import EmbeddingSegmenter
from raygseg.nn.projection import LatentSpread, latent_spread
from raygseg.pipelines.feature_nets import rebuilt
from raygseg.pipelines.kinds import build_generator
from tests.unit.methods.semanticgan.tiny_joint import (
    FEATURES,
    THREE,
    TWO,
    as_pictures,
    drawn,
    generator_build,
    joint_generator,
    tiny_distance,
    tiny_encoder,
    tiny_segmenter,
)


def in_double(segmenter: EmbeddingSegmenter) -> EmbeddingSegmenter:
    """Roundings that a batch could change become too small to see."""
    segmenter.generator.double()  # type: ignore[attr-defined]
    segmenter.encoder.double()
    segmenter.distance.network.double()  # type: ignore[attr-defined]
    mean, std = latent_spread(joint_generator(segmenter.codec))
    segmenter._spread = LatentSpread(mean.double(), std.double())
    return segmenter


def test_it_comes_nearer_to_the_picture_than_the_encoder() -> None:
    segmenter = tiny_segmenter(steps=25)
    found = segmenter.answer(drawn(joint_generator(segmenter.codec), 4))
    assert (found.distances < found.start_distances).all()
    assert found.distances.mean() < 0.8 * found.start_distances.mean()
    assert found.ws.shape == (4, 8, 8) and found.label_logits.shape == (4, 3, 32, 32)
    assert found.steps.tolist() == [25] * 4 and (found.drift > 0).all()
    assert {m.shape[0] for m in found.noise.values()} == {4}


def test_no_steps_is_the_encoder_alone() -> None:
    segmenter = tiny_segmenter(steps=0)
    images = drawn(joint_generator(segmenter.codec), 2)
    found = segmenter.answer(images)
    ws = segmenter.encoder(images)
    torch.testing.assert_close(found.ws, ws, rtol=0, atol=0)
    expected = segmenter.generator.render(ws).label_logits
    assert expected is not None
    torch.testing.assert_close(found.label_logits, expected, rtol=0, atol=0)
    assert not found.noise and not found.drift.any()
    torch.testing.assert_close(found.distances, found.start_distances)


@pytest.mark.parametrize("labels", [THREE, TWO], ids=["three classes", "two classes"])
def test_sixteen_at_once_are_sixteen_alone(labels: LabelSpace) -> None:
    """In double precision: Adam makes much of gradients that are nearly nothing."""
    segmenter = in_double(
        tiny_segmenter(labels, steps=6, patience=3, drift_cap=0.3, perceptual=1.0, consistency_every=1)
    )
    images = drawn(joint_generator(segmenter.codec), 16).double()
    together = segmenter.answer(images)
    for row in (0, 7, 15):
        alone = segmenter.answer(images[row : row + 1])
        torch.testing.assert_close(alone.ws[0], together.ws[row], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(alone.label_logits[0], together.label_logits[row], rtol=1e-5, atol=1e-5)
        assert int(alone.steps) == int(together.steps[row])


def test_label_maps_of_a_batch_are_those_of_its_pictures() -> None:
    segmenter = tiny_segmenter(steps=6)
    pictures = as_pictures(drawn(joint_generator(segmenter.codec), 16))
    together = segmenter.predict(pictures)
    for picture, answer in list(zip(pictures, together, strict=True))[::5]:
        alone = segmenter.predict([picture])[0]
        assert (alone.label_map == answer.label_map).mean() > 0.995


def test_the_same_picture_has_the_same_answer_every_time() -> None:
    """B11-12: the released loop draws noise anew."""
    segmenter = tiny_segmenter()
    images = drawn(joint_generator(segmenter.codec), 2)
    torch.testing.assert_close(segmenter.answer(images).ws, segmenter.answer(images).ws, rtol=0, atol=0)


def test_labels_may_be_the_mean_over_noise_draws() -> None:
    """B11-12: by name and by seed, and the same for every picture of a batch."""
    segmenter = tiny_segmenter(steps=0, noise_draws=3)
    images = drawn(joint_generator(segmenter.codec), 2)
    ws = segmenter.encoder(images)
    expected = torch.zeros(2, 3, 32, 32)
    for seed in range(3):
        logits = segmenter.generator.render(ws, [seed, seed]).label_logits
        assert logits is not None
        expected += segmenter.codec.probabilities(logits) / 3
    torch.testing.assert_close(segmenter.probabilities(images), expected)


def test_drift_stays_within_its_cap_and_the_plan_may_be_exchanged() -> None:
    segmenter = tiny_segmenter(steps=12)
    images = drawn(joint_generator(segmenter.codec), 3)
    free = segmenter.answer(images).drift
    segmenter.plan = replace(segmenter.plan, drift_cap=0.05)
    assert (free > 0.06).all()
    assert (segmenter.answer(images).drift <= 0.05 + 1e-6).all()


def test_a_picture_without_progress_is_left_as_it_is() -> None:
    """One picture is the start itself: nothing to gain there; the other goes on."""
    segmenter = tiny_segmenter(steps=20, patience=4)
    start = segmenter.encoder(torch.zeros(1, 3, 32, 32))
    at_home = segmenter.generator.render(start).images
    segmenter.encoder.forward = lambda images: start.expand(len(images), -1, -1)  # type: ignore[method-assign]
    found = segmenter.answer(torch.cat([at_home, drawn(joint_generator(segmenter.codec), 1, first=5)]))
    assert found.steps.tolist()[0] < found.steps.tolist()[1]
    torch.testing.assert_close(found.ws[:1], start, atol=0.3, rtol=0)


class Counted:
    """Counts how often features and codes are asked for."""

    def __init__(self) -> None:
        self.codec = LabelCodec(THREE)
        self.generator = joint_generator(self.codec)
        self.inner, self.net = tiny_encoder(self.generator), tiny_distance()
        self.encoded, self.graphs = 0, 0

    def encode(self, images: Tensor) -> Tensor:
        self.encoded += 1
        self.graphs += torch.is_grad_enabled()
        return self.inner(images)


@pytest.mark.parametrize(
    "changes", [{"start": "mean"}, {"whiten": False}, {"noise": False}, {"anchor": 10.0}, {"perceptual": 0.0}]
)
def test_every_option_of_the_plan_changes_what_is_found(changes: dict[str, object]) -> None:
    segmenter = tiny_segmenter(steps=4)
    images = drawn(joint_generator(segmenter.codec), 2)
    usual = segmenter.answer(images)
    segmenter.plan = replace(segmenter.plan, **changes)  # type: ignore[arg-type]
    found = segmenter.answer(images)
    assert not torch.allclose(found.ws, usual.ws)
    assert bool(found.noise) != ("noise" in changes)
    if "anchor" in changes:
        assert (found.drift < usual.drift).all()


def test_the_mean_is_where_no_steps_from_the_mean_end() -> None:
    segmenter = tiny_segmenter(steps=0)
    segmenter.plan = replace(segmenter.plan, start="mean")
    found = segmenter.answer(drawn(joint_generator(segmenter.codec), 2))
    mean = latent_spread(joint_generator(segmenter.codec)).mean
    torch.testing.assert_close(found.ws, mean.expand_as(found.ws))


def test_targets_are_described_once_and_the_encoder_keeps_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """B11-11."""
    counted = Counted()
    described: list[bool] = []
    network = counted.net.network
    monkeypatch.setattr(
        counted.net, "network", lambda images: described.append(images.requires_grad) or network(images)
    )
    images = drawn(counted.generator, 2)
    plan = EmbeddingPlan(steps=4, consistency_every=2)
    embed(counted.generator, counted.encode, counted.net, images, plan, latent_spread(counted.generator))
    assert described.count(True) == 4  # one a step
    assert described.count(False) == 3  # the target, the start and the end
    assert (counted.encoded, counted.graphs) == (1 + 2, 0)


def test_the_first_step_moves_and_the_last_quarter_slows_down() -> None:
    plan = EmbeddingPlan(steps=100)
    rates = [plan.rate(i) for i in range(100)]
    assert rates[0] == pytest.approx(0.2) and rates[4] == rates[75] == pytest.approx(1.0)
    assert rates[-1] < 0.01 and all(a >= b for a, b in itertools.pairwise(rates[75:]))


def test_large_pictures_are_compared_at_256_px_both() -> None:
    """B11-11: the released loop shrinks one side only."""
    assert compared(torch.zeros(1, 3, 512, 512)).shape[-1] == 256
    assert compared(torch.zeros(1, 3, 64, 64)).shape[-1] == 64
    network = lambda images: {"maps": images}  # noqa: E731
    distance = tiny_distance()
    distance.network = network  # type: ignore[assignment]
    apart, error = Target(distance, torch.ones(1, 3, 512, 512)).compare(torch.ones(1, 3, 512, 512))
    assert float(apart) == pytest.approx(0, abs=1e-6) and float(error) == 0


def test_it_is_a_segmenter_and_answers_at_the_pictures_size() -> None:
    for labels in (THREE, TWO):
        segmenter = tiny_segmenter(labels, steps=1)
        assert isinstance(segmenter, Segmenter)
        tall = np.zeros((31, 17, 3), np.uint8)
        answers = segmenter.predict([tall, tall[:20]])
        assert [a.label_map.shape for a in answers] == [(31, 17), (20, 17)]
        probabilities = segmenter.probabilities(torch.zeros(1, 3, 32, 32))
        torch.testing.assert_close(probabilities.sum(1), torch.ones(1, 32, 32))
        assert probabilities.shape[1] == labels.num_classes


def test_a_grey_generator_sees_pictures_in_grey() -> None:
    segmenter = tiny_segmenter(TWO, image_channels=1, steps=2)
    red = torch.full((1, 3, 32, 32), -1.0)
    red[:, 0] = 1
    grey = torch.full((1, 3, 32, 32), 0.299 - 0.701)
    torch.testing.assert_close(segmenter.probabilities(red), segmenter.probabilities(grey), rtol=1e-3, atol=1e-3)


def test_a_bundle_brings_it_back(tmp_path: Path) -> None:
    made = tiny_segmenter(steps=3, drift_cap=0.5)
    bundle = made.to_bundle(generator_build(made.codec), FEATURES, steps=3)
    read = read_bundle(write_bundle(tmp_path / "segmenter", bundle))
    again = EmbeddingSegmenter.from_bundle(read, build_generator, rebuilt)
    assert (again.plan, again.labels.names, again.distance.name) == (made.plan, made.labels.names, "discriminator")
    pictures = as_pictures(drawn(joint_generator(made.codec), 2))
    for one, other in zip(made.predict(pictures), again.predict(pictures), strict=True):
        assert (one.label_map == other.label_map).all()


def test_what_does_not_fit_is_refused() -> None:
    generator = joint_generator(LabelCodec(TWO))
    with pytest.raises(ConfigError, match="1 channels, the classes need 3"):
        EmbeddingSegmenter(generator, tiny_encoder(generator), LabelCodec(THREE), tiny_distance(), EmbeddingPlan())
    made = tiny_segmenter()
    bundle = made.to_bundle(generator_build(made.codec), FEATURES)
    with pytest.raises(CheckpointError, match="not a segmenter by embedding"):
        EmbeddingSegmenter.from_bundle(replace(bundle, kind="sampler"), build_generator, rebuilt)
    short = {name: t for name, t in bundle.tensors.items() if not name.startswith("encoder.linear")}
    with pytest.raises(CheckpointError, match="do not fit the encoder"):
        EmbeddingSegmenter.from_bundle(replace(bundle, tensors=short), build_generator, rebuilt)
