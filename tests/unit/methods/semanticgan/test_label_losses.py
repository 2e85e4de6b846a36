"""Losses of the label branch on cases that were computed by hand (spec C4.11)."""

from __future__ import annotations

import math

import pytest
import torch

from raygseg.labels import LabelSpace
from raygseg.methods.semanticgan.label_codec import LabelCodec
from raygseg.methods.semanticgan.label_losses import label_cross_entropy, label_dice

THREE = LabelCodec(LabelSpace(("background", "a", "b"), void=255, background=0))
TWO = LabelCodec(LabelSpace(("background", "a"), background=0))
MAPS = torch.tensor([[[0, 1], [2, 1]]], dtype=torch.uint8)
# Channel by channel, over the 2 x 2 pixels of MAPS: right by 0.2, right by 0.1, wrong by 0.1, undecided.
LOGITS = torch.tensor([[[[0.2, 0.0], [0.1, 0.0]], [[0.0, 0.1], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]])


def logistic(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_cross_entropy_with_tau_a_tenth() -> None:
    """Divided by 0.1 the margins are 2, 1, -1 (against two zeros each, resp. one) and 0."""
    e = math.e
    right_by_2 = -math.log(e**2 / (e**2 + 2))
    right_by_1 = -math.log(e / (e + 2))
    wrong_by_1 = -math.log(1 / (e + 2))
    undecided = math.log(3)
    expected = (right_by_2 + right_by_1 + wrong_by_1 + undecided) / 4
    assert float(label_cross_entropy(THREE, LOGITS, MAPS)) == pytest.approx(expected, rel=1e-6)


def test_cross_entropy_of_two_classes_with_tau_three_tenths() -> None:
    logits = torch.tensor([[[[0.3, 0.6], [-0.3, 0.0]]]])
    maps = torch.tensor([[[1, 0], [0, 1]]], dtype=torch.uint8)
    expected = -(math.log(logistic(1)) + math.log(1 - logistic(2)) + math.log(1 - logistic(-1)) + math.log(0.5)) / 4
    assert float(label_cross_entropy(TWO, logits, maps)) == pytest.approx(expected, rel=1e-6)


def test_void_pixels_cost_nothing() -> None:
    maps = MAPS.clone()
    maps[0, 1, 1] = 255
    some = LOGITS.clone()
    some[..., 1, 1] = 40.0
    kept = torch.tensor([[[0, 1, 2]]], dtype=torch.uint8)
    there = torch.stack([LOGITS[0, :, 0, 0], LOGITS[0, :, 0, 1], LOGITS[0, :, 1, 0]], dim=1)[None, :, None]
    for loss in (label_cross_entropy, label_dice):
        torch.testing.assert_close(loss(THREE, some, maps), loss(THREE, there, kept))


def test_dice_with_tau_three_tenths_leaves_the_background_out() -> None:
    """Class a: q = 1 on the right column, p = sigmoid(1/3) and 1/2 there; class b: q = 1 below left, p = 1/2."""
    a, half = logistic(1 / 3), 0.5
    class_a = 2 * (a + half) / (a**2 + 3 * half**2 + 2)
    class_b = 2 * half / (4 * half**2 + 1)
    expected = 1 - (class_a + class_b) / 2
    assert float(label_dice(THREE, LOGITS, MAPS)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("labels", [THREE.labels, TWO.labels])
def test_dice_reads_logits_as_the_generator_was_trained_to_give_them(labels: LabelSpace) -> None:
    """Where the discriminator saw a softmax, all channels may be above zero: only their differences say something."""
    softmaxed = LabelCodec(labels, temperature=1.0)
    maps = MAPS.clamp(max=labels.num_classes - 1)
    lifted = 10 * softmaxed.encode(maps) + (0 if softmaxed.binary else 15)
    assert float(label_dice(softmaxed, lifted, maps)) < 1e-3
    if not softmaxed.binary:
        assert float(label_dice(softmaxed, lifted, maps, temperature=0.3)) > 0.3, "each channel alone, at 15 +- 10"
    # of raw ones the default is the published sigmoid with 0.3
    raw = LabelCodec(labels)
    torch.testing.assert_close(label_dice(raw, lifted, maps), label_dice(raw, lifted, maps, temperature=0.3))


def test_dice_of_two_classes_is_the_foregrounds() -> None:
    logits = torch.tensor([[[[0.3, -0.3], [0.0, 0.6]]]])
    maps = torch.tensor([[[1, 0], [0, 1]]], dtype=torch.uint8)
    p = [logistic(1), logistic(-1), 0.5, logistic(2)]
    expected = 1 - 2 * (p[0] + p[3]) / (sum(x * x for x in p) + 2)
    assert float(label_dice(TWO, logits, maps)) == pytest.approx(expected, rel=1e-6)


def test_dice_of_a_batch_is_not_the_mean_over_pictures() -> None:
    logits = torch.tensor([[[[0.9, -0.9], [-0.9, -0.9]]], [[[0.9, 0.9], [-0.3, 0.9]]]])
    maps = torch.tensor([[[1, 0], [0, 0]], [[0, 0], [1, 1]]], dtype=torch.uint8)
    mean = (label_dice(TWO, logits[:1], maps[:1]) + label_dice(TWO, logits[1:], maps[1:])) / 2
    torch.testing.assert_close(label_dice(TWO, logits, maps, per_image=True), mean)
    assert abs(float(label_dice(TWO, logits, maps) - mean)) > 0.02


def test_gradients_move_logits_towards_the_map() -> None:
    for loss in (label_cross_entropy, label_dice):
        logits = torch.zeros(1, 3, 2, 2, requires_grad=True)
        loss(THREE, logits, MAPS).backward()
        assert logits.grad is not None
        assert logits.grad[0, 1, 0, 1] < 0 < logits.grad[0, 2, 0, 1]
