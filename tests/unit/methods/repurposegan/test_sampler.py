"""The sampler: rows depend on their seed only, labels lie where the picture shows them, bundles come back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raygseg.bundle import Bundle, read_bundle, write_bundle
from raygseg.errors import CheckpointError, ConfigError
from raygseg.interfaces import PairSampler
from raygseg.labels import LabelSpace
from raygseg.methods.repurposegan import sampler as module
from raygseg.methods.repurposegan.heads import LabelHead
from raygseg.methods.repurposegan.sampler import GeneratorHeadSampler


@pytest.fixture
def head(shapes: Any) -> LabelHead:
    torch.manual_seed(0)
    return LabelHead("mlp", shapes.feature_layers, 3, 32, members=2, projection_dim=8)


def test_is_a_pair_sampler_with_the_stated_shapes(shapes: Any, head: LabelHead, labels: LabelSpace) -> None:
    sampler = GeneratorHeadSampler(shapes, head, labels)
    assert isinstance(sampler, PairSampler)
    pairs = sampler.sample([1, 2, 3])
    assert (pairs.images.dtype, tuple(pairs.images.shape)) == (torch.uint8, (3, 3, 32, 32))
    assert tuple(pairs.probabilities.shape) == (3, 3, 32, 32)
    assert torch.allclose(pairs.probabilities.sum(1), torch.ones(3, 32, 32), atol=1e-5)
    assert bool((pairs.scores > 0).all())


def test_a_row_does_not_depend_on_its_batch(
    shapes: Any, head: LabelHead, labels: LabelSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = GeneratorHeadSampler(shapes, head, labels)
    together = sampler.sample([7, 8, 9, 10, 11])
    monkeypatch.setattr(module, "HEAD_BYTES", 2 * 4 * 16 * 32 * 32)  # two pictures a pass
    for other in (sampler.sample([7, 8, 9, 10, 11]), sampler.sample([3, 8, 9])):
        i, j = (1, 1), (2, 2)
        for a, b in (i, j):
            assert torch.equal(together.images[a], other.images[b])
            torch.testing.assert_close(together.probabilities[a], other.probabilities[b], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(together.scores[a], other.scores[b], rtol=1e-4, atol=1e-5)


def test_smaller_pairs_are_area_averages_of_the_full_ones(shapes: Any, head: LabelHead, labels: LabelSpace) -> None:
    full = GeneratorHeadSampler(shapes, head, labels).sample([1])
    small = GeneratorHeadSampler(shapes, head, labels, resolution=8).sample([1])
    means = full.probabilities.unflatten(3, (8, 4)).unflatten(2, (8, 4)).mean(dim=(3, 5))
    assert torch.allclose(small.probabilities, means, atol=1e-5)
    pictures = full.images.float().unflatten(3, (8, 4)).unflatten(2, (8, 4)).mean(dim=(3, 5))
    assert float((small.images.float() - pictures).abs().max()) <= 1.0


def test_a_crop_is_the_same_window_of_picture_and_labels(shapes: Any, labels: LabelSpace) -> None:
    torch.manual_seed(0)
    head = LabelHead("linear", shapes.feature_layers, 3, 16)  # a coarser stack than the picture
    full = GeneratorHeadSampler(shapes, head, labels, resolution=16).sample([4])
    window = GeneratorHeadSampler(shapes, head, labels, crop=(0.25, 0.5, 0.75, 1.0), resolution=8).sample([4])
    assert torch.allclose(window.probabilities, full.probabilities[..., 8:16, 4:12], atol=1e-6)
    assert torch.equal(window.images, full.images[..., 8:16, 4:12])


def test_one_member_has_no_score(shapes: Any, labels: LabelSpace) -> None:
    head = LabelHead("linear", shapes.feature_layers, 3, 32)
    assert GeneratorHeadSampler(shapes, head, labels).sample([1]).scores.tolist() == [0.0]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"resolution": 64}, "cannot be cut"),
        ({"crop": (0.0, 0.0, 0.33, 0.33)}, "whole pixels"),
        ({"crop": (0.0, 0.0, 0.5, 1.0)}, "square"),
        ({"crop": (0.5, 0.0, 0.25, 1.0)}, "left < right"),
        ({"labels": LabelSpace(("background", "thing"))}, "3 classes"),
    ],
)
def test_impossible_settings_are_refused(
    shapes: Any, head: LabelHead, labels: LabelSpace, arguments: dict[str, Any], match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        GeneratorHeadSampler(**{"generator": shapes, "head": head, "labels": labels} | arguments)


def test_bundle_round_trip(tmp_path: Path, shapes: Any, head: LabelHead, labels: LabelSpace) -> None:
    sampler = GeneratorHeadSampler(shapes, head, labels, truncation_psi=0.7, resolution=16)
    write_bundle(tmp_path / "b", sampler.to_bundle({"family": "shapes"}, score=0.5))
    built: list[Any] = []

    def build_generator(build: Any) -> Any:
        built.append(dict(build))
        fresh = type(shapes)()
        for buffer in fresh.buffers():
            buffer.zero_()  # what the bundle holds must come back
        return fresh

    again = GeneratorHeadSampler.from_bundle(read_bundle(tmp_path / "b"), build_generator)
    assert built == [{"family": "shapes"}]
    for a, b in zip(sampler.sample([1, 2]), again.sample([1, 2]), strict=True):
        assert torch.equal(a, b)


def test_other_bundles_are_refused(shapes: Any, head: LabelHead, labels: LabelSpace) -> None:
    with pytest.raises(CheckpointError, match="not a generator with a label head"):
        GeneratorHeadSampler.from_bundle(Bundle("segmenter", {}, {}, labels), lambda build: shapes)
    bundle = GeneratorHeadSampler(shapes, head, labels).to_bundle({})
    tensors = {k: v for k, v in bundle.tensors.items() if k != "head.project.bias"}
    with pytest.raises(CheckpointError, match="do not fit the head"):
        GeneratorHeadSampler.from_bundle(Bundle("sampler", bundle.build, tensors, labels), lambda build: shapes)
