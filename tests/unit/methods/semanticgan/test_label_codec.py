"""Label maps through the codec and back, K classes and two, with void pixels (spec B2, C4-12)."""

from __future__ import annotations

import pytest
import torch

from raygseg.labels import LabelSpace
from raygseg.methods.semanticgan.label_codec import LabelCodec

FOUR = LabelSpace(("background", "a", "b", "c"), void=255)
TWO = LabelSpace(("background", "cell"), void=255)
UPSIDE_DOWN = LabelSpace(("cell", "rest"), background=1)


def maps(labels: LabelSpace) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(labels.num_classes, (3, 5, 7), generator=rng).to(torch.uint8)


@pytest.mark.parametrize("labels", [FOUR, TWO, UPSIDE_DOWN])
def test_round_trip(labels: LabelSpace) -> None:
    codec, truth = LabelCodec(labels), maps(labels)
    signed = codec.encode(truth)
    assert signed.shape == (3, codec.channels, 5, 7) and set(signed.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(codec.decode(signed), truth)
    probabilities = codec.probabilities(signed)
    assert torch.equal(probabilities.argmax(1).to(torch.uint8), truth)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(3, 5, 7))
    assert torch.equal(codec.decode(codec.signed(5 * signed)), truth)


def test_one_hot_of_hand() -> None:
    signed = LabelCodec(FOUR).encode(torch.tensor([[[2, 0]]], dtype=torch.uint8))
    assert signed[0, :, 0, 0].tolist() == [-1, -1, 1, -1] and signed[0, :, 0, 1].tolist() == [1, -1, -1, -1]
    assert LabelCodec(TWO).encode(torch.tensor([[[1, 0]]], dtype=torch.uint8)).flatten().tolist() == [1, -1]


@pytest.mark.parametrize("labels", [FOUR, TWO])
def test_void_is_neither(labels: LabelSpace) -> None:
    codec, truth = LabelCodec(labels), maps(labels)
    truth[0, 0, 0] = 255
    assert codec.known(truth)[0, 0, 0, 0] == 0 and codec.known(truth).sum() == truth.numel() - 1
    assert not codec.encode(truth)[0, :, 0, 0].any()


def test_temperatures() -> None:
    logits = torch.tensor([0.2, -0.1, 0.0, 0.0]).reshape(1, 4, 1, 1)
    torch.testing.assert_close(LabelCodec(FOUR).probabilities(logits), (logits / 0.1).softmax(1))
    torch.testing.assert_close(LabelCodec(FOUR, 1.0).signed(logits), 2 * logits.softmax(1) - 1)
    one = torch.tensor([0.3]).reshape(1, 1, 1, 1)
    torch.testing.assert_close(LabelCodec(TWO).probabilities(one)[0, 1], torch.tensor([[0.7310586]]))
    torch.testing.assert_close(LabelCodec(TWO).signed(one), (one / 0.6).tanh())
    binary = LabelCodec(UPSIDE_DOWN).probabilities(one)
    assert binary[0, 0] > binary[0, 1]  # the one channel stands for the class that is not the background


def test_outside_is_background() -> None:
    assert LabelCodec(FOUR).outside().flatten().tolist() == [1, -1, -1, -1]
    assert LabelCodec(TWO).outside().flatten().tolist() == [-1]
    assert LabelCodec(UPSIDE_DOWN).outside().flatten().tolist() == [-1]
    assert LabelCodec(LabelSpace(("sky", "road", "car"), background=None)).outside().flatten().tolist() == [0, 0, 0]
