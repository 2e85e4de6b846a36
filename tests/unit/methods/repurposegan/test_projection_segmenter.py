"""Pictures to label maps by projection: alone or in a batch, refused or not, and back from a bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from raygseg.bundle import read_bundle, write_bundle
from raygseg.errors import CheckpointError, ConfigError, DataError
from raygseg.interfaces import Segmenter
from raygseg.labels import LabelSpace
from raygseg.methods.repurposegan.heads import LabelHead
from raygseg.methods.repurposegan.projection_segmenter import ProjectionSegmenter, central_square
from raygseg.nn.framing import Square
from raygseg.nn.projection import ProjectionPlan
from raygseg.nn.projection_gate import Gate
from raygseg.nn.template_alignment import Template, template_of
from raygseg.pipelines.feature_nets import rebuilt
from raygseg.pipelines.kinds import build_generator, segmenter_from
from tests.unit.tiny_networks import BUILD, JUDGE, tiny_distance, tiny_generator

PLAN = ProjectionPlan(6)
GATE = Gate("squared error", 0.5, "discriminator", PLAN)
LABELS = LabelSpace(("background", "part"))


def segmenter(gate: Gate | None = None, fit: str = "squash") -> ProjectionSegmenter:
    generator = tiny_generator()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        head = LabelHead("linear", generator.feature_layers, 2, 16)
    return ProjectionSegmenter(generator, head, LABELS, tiny_distance(), PLAN, gate, fit, batch_size=2)  # type: ignore[arg-type]


def pictures(count: int = 3, height: int = 20, width: int = 20) -> list[np.ndarray]:
    generator = tiny_generator()
    images = generator.render(generator.latents(range(count))).images.clamp(-1, 1)
    shown = torch.nn.functional.interpolate(images, (height, width))
    return list(((shown + 1) * 127.5).byte().permute(0, 2, 3, 1).numpy())


def test_it_is_a_segmenter_and_answers_at_the_pictures_size() -> None:
    made = segmenter()
    assert isinstance(made, Segmenter)
    answers = made.predict([*pictures(2), *pictures(1, 31, 17)])
    assert [a.label_map.shape for a in answers] == [(20, 20), (20, 20), (31, 17)]
    assert not any(a.refused for a in answers) and made.coverage == 1
    probabilities = made.probabilities(torch.zeros(3, 3, 16, 16))
    torch.testing.assert_close(probabilities.sum(1), torch.ones(3, 16, 16))
    with pytest.raises(DataError, match="picture 0 has dtype float32"):
        made.predict([np.zeros((4, 4, 3), np.float32)])


def test_what_a_picture_gets_does_not_depend_on_its_batch() -> None:
    made, shown = segmenter(GATE), pictures(3)
    together = made.predict(shown)
    for picture, answer in zip(shown, together, strict=True):
        alone = made.predict([picture])[0]
        assert alone.refused == answer.refused
        assert np.abs(alone.confidence.astype(int) - answer.confidence).max() <= 2
        assert (alone.label_map == answer.label_map).mean() > 0.98


def test_past_the_gate_all_is_background_and_counted() -> None:
    made = segmenter(replace(GATE, threshold=-1.0))
    answer = made.predict(pictures(1))[0]
    assert answer.refused and not answer.label_map.any() and not answer.confidence.any()
    assert made.coverage == 0 and (made.seen, made.refused) == (1, 1)
    assert made.probabilities(torch.zeros(1, 3, 16, 16))[0, 0].min() == 1


def test_outside_the_central_square_is_background() -> None:
    made = segmenter(fit="centre")
    answer = made.predict(pictures(1, 20, 30))[0]
    rows, columns = central_square(20, 30)
    assert (rows, columns) == (slice(0, 20), slice(5, 25))
    assert not answer.confidence[:, :5].any() and not answer.label_map[:, 25:].any()
    assert answer.confidence[:, 5:25].min() > 0 and not answer.refused


def test_a_bundle_brings_it_back(tmp_path: Path) -> None:
    made = segmenter(GATE)
    build = {"architecture": "stylegan2", **BUILD}
    bundle = made.to_bundle(build, {"network": "discriminator", "discriminator": JUDGE}, steps=PLAN.steps)
    again = segmenter_from(read_bundle(write_bundle(tmp_path / "segmenter", bundle)))
    assert isinstance(again, ProjectionSegmenter)
    assert (again.plan, again.gate, again.distance.name, again.fit) == (PLAN, GATE, "discriminator", "squash")
    for one, other in zip(made.predict(pictures(2)), again.predict(pictures(2)), strict=True):
        assert np.array_equal(one.label_map, other.label_map)
    with pytest.raises(CheckpointError, match="not a segmenter by projection"):
        ProjectionSegmenter.from_bundle(replace(bundle, kind="sampler"), build_generator, rebuilt)


def test_a_gate_of_another_plan_or_network_is_refused() -> None:
    with pytest.raises(ConfigError, match="another plan or feature network"):
        segmenter(replace(GATE, plan=ProjectionPlan(7)))
    with pytest.raises(ConfigError, match="another plan or feature network"):
        segmenter(replace(GATE, features="VGG16"))


def colours(images: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"fine": images, "cells": torch.nn.functional.avg_pool2d(images, 4)}


def test_a_template_lays_the_answer_onto_the_object_and_goes_into_the_bundle(tmp_path: Path) -> None:
    """A photo that shows the generator's picture in its middle gets the labels there that the picture has alone."""
    made = segmenter()
    template = template_of(made.generator, colours)
    square = Square((30.0, 30.0), (20.0, 0.0))
    made.template = Located(template.maps, template.mean, template.resolution, square)
    inner = pictures(1, 40, 40)[0]
    photo = np.full((60, 60, 3), 128, np.uint8)
    photo[10:50, 10:50] = inner
    answer = made.predict([photo])[0]
    assert answer.label_map.shape == (60, 60)
    assert (answer.label_map[:2] == made.background).all(), "farther off than the view's edge reaches"
    assert (answer.confidence[:2] == 0).all() and answer.confidence[12:48, 12:48].min() > 0
    alone = segmenter().predict([inner])[0].label_map
    assert (answer.label_map[12:48, 12:48] == alone[2:-2, 2:-2]).mean() > 0.9
    bundle = made.to_bundle(
        {"architecture": "stylegan2", **BUILD}, {"network": "discriminator", "discriminator": JUDGE}
    )
    write_bundle(tmp_path / "b", bundle)
    again = segmenter_from(read_bundle(tmp_path / "b"))
    assert isinstance(again, ProjectionSegmenter) and again.template is not None
    assert torch.equal(again.template.maps, template.maps) and again.template.resolution == template.resolution


class Located(Template):
    """A template that knows where the object lies."""

    def __init__(self, maps: torch.Tensor, mean: torch.Tensor, resolution: int, square: Square) -> None:
        super().__init__(maps, mean, resolution)
        object.__setattr__(self, "square", square)

    def locate(self, network: object, photo: torch.Tensor) -> tuple[Square, float]:
        found: Square = self.square  # type: ignore[attr-defined]
        return found, 1.0
