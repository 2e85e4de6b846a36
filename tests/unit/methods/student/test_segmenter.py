"""The segmenter answers at the picture's own size, in little memory, and survives the bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from raygseg.bundle import Bundle, read_bundle, write_bundle
from raygseg.errors import CheckpointError, DataError
from raygseg.interfaces import Segmenter
from raygseg.labels import LabelSpace
from raygseg.methods.student import segmenter as module
from raygseg.methods.student.segmenter import UNetSegmenter, enlarge
from raygseg.nn.unet import UNet

LABELS = LabelSpace(("background", "a", "b"))


@pytest.fixture
def segmenter() -> UNetSegmenter:
    torch.manual_seed(0)
    return UNetSegmenter(UNet(num_classes=3, width=8, depth=2), LABELS, resolution=16, batch_size=2)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_sizes_and_order_are_kept(segmenter: UNetSegmenter) -> None:
    assert isinstance(segmenter, Segmenter)
    pictures = [picture(20, 33), picture(16, 16, 1), picture(5, 7, 2), picture(1, 40, 3), picture(64, 48, 4)]
    answers = segmenter.predict(pictures)
    assert [a.label_map.shape for a in answers] == [p.shape[:2] for p in pictures]
    assert all(a.label_map.dtype == a.confidence.dtype == np.uint8 for a in answers)
    alone = segmenter.predict([pictures[4]])[0]
    assert (alone.label_map == answers[4].label_map).mean() > 0.999
    assert segmenter.predict([]) == []


def test_at_its_own_size_the_answer_is_the_networks(segmenter: UNetSegmenter) -> None:
    image = picture(16, 16)
    signed = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
    best, index = segmenter.probabilities(signed)[0].max(0)
    answer = segmenter.predict([image])[0]
    assert np.array_equal(answer.label_map, index.numpy())
    assert np.array_equal(answer.confidence, (best * 255).round().byte().numpy())


@pytest.mark.parametrize("size", [(37, 50), (8, 5), (16, 200)])
def test_strips_equal_one_bilinear_resize(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    maps = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(1)).mul(3).softmax(0)
    whole = functional.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]
    monkeypatch.setattr(module, "STRIP_BYTES", 4 * 3 * size[1] * 5)  # five rows at a time
    answer = enlarge(maps, *size)
    best, index = whole.max(0)
    clear = (whole.topk(2, dim=0).values.diff(dim=0).abs()[0] > 1e-4).numpy()
    assert np.array_equal(answer.label_map[clear], index.numpy()[clear])
    assert np.abs(answer.confidence.astype(int) - (best * 255).round().numpy()).max() <= 1


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_what_is_no_picture_is_refused_by_place(segmenter: UNetSegmenter, bad: np.ndarray) -> None:
    with pytest.raises(DataError, match="picture 1 has dtype"):
        segmenter.predict([picture(4, 4), bad])


def test_bundle_round_trip(segmenter: UNetSegmenter, tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", segmenter.to_bundle({"kind": "segmenter"}, miou=0.5))
    bundle = read_bundle(tmp_path / "b")
    again = UNetSegmenter.from_bundle(bundle)
    assert bundle.facts == {"miou": 0.5}
    assert (again.resolution, again.labels) == (16, LABELS)
    ours, theirs = segmenter.predict([picture(30, 20)])[0], again.predict([picture(30, 20)])[0]
    assert np.array_equal(ours.label_map, theirs.label_map)
    assert np.array_equal(ours.confidence, theirs.confidence)


def test_other_bundles_are_refused(segmenter: UNetSegmenter) -> None:
    with pytest.raises(CheckpointError, match="is a sampler, not a U-Net segmenter"):
        UNetSegmenter.from_bundle(Bundle("sampler", {}, {}, LABELS))
    bundle = segmenter.to_bundle()
    build = dict(bundle.build) | {"network": {"num_classes": 3, "width": 16, "depth": 2}}
    with pytest.raises(CheckpointError, match="do not fit the U-Net"):
        UNetSegmenter.from_bundle(Bundle("segmenter", build, bundle.tensors, LABELS))
