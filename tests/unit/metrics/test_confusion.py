"""Overlap scores against scikit-learn and torchmetrics, merging, absent classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, jaccard_score
from torchmetrics.classification import MulticlassJaccardIndex

from raygseg.errors import DataError
from raygseg.labels import LabelSpace
from raygseg.metrics.confusion import Confusion, class_iou, overlap_scores

VOID = 255
LABELS = LabelSpace(("background", "body", "wheel", "light"), void=VOID)


def label_maps(seed: int, shape: tuple[int, ...] = (3, 17, 13), void: bool = True) -> NDArray[np.uint8]:
    values = np.random.default_rng(seed).choice([0, 1, 2, 3, VOID], size=shape, p=[0.5, 0.2, 0.15, 0.1, 0.05])
    return np.where((values == VOID) & (not void), 0, values).astype(np.uint8)


@pytest.fixture
def flattened() -> tuple[NDArray[np.uint8], NDArray[np.uint8], Confusion]:
    truth, prediction = label_maps(0), label_maps(1, void=False)
    confusion = Confusion(LABELS)
    for one_truth, one_prediction in zip(truth, prediction, strict=True):
        confusion.update(one_truth, one_prediction)
    valid = truth != VOID
    return truth[valid], prediction[valid], confusion


def test_counts_are_those_of_scikit_learn(flattened: tuple[NDArray[np.uint8], NDArray[np.uint8], Confusion]) -> None:
    truth, prediction, confusion = flattened
    np.testing.assert_array_equal(confusion.counts, confusion_matrix(truth, prediction, labels=range(4)))
    assert confusion.counts.dtype == np.int64


def test_scores_are_those_of_the_oracles(flattened: tuple[NDArray[np.uint8], NDArray[np.uint8], Confusion]) -> None:
    truth, prediction, confusion = flattened
    ours = confusion.scores()
    np.testing.assert_allclose(confusion.iou, jaccard_score(truth, prediction, average=None), rtol=1e-12)
    np.testing.assert_allclose(confusion.dice, f1_score(truth, prediction, average=None), rtol=1e-12)
    expected = {
        "miou": jaccard_score(truth, prediction, average="macro"),
        "miou_foreground": jaccard_score(truth, prediction, average="macro", labels=[1, 2, 3]),
        "weighted_iou": jaccard_score(truth, prediction, average="weighted"),
        "weighted_iou_foreground": jaccard_score(truth, prediction, average="weighted", labels=[1, 2, 3]),
        "dice": f1_score(truth, prediction, average="macro"),
        "dice_foreground": f1_score(truth, prediction, average="macro", labels=[1, 2, 3]),
        "pixel_accuracy": accuracy_score(truth, prediction),
    }
    assert ours == pytest.approx(expected, rel=1e-12)


def test_iou_is_that_of_torchmetrics_with_void() -> None:
    truth, prediction = label_maps(5), label_maps(6, void=False)
    confusion = Confusion(LABELS)
    confusion.update(truth, prediction)
    oracle = MulticlassJaccardIndex(4, average="none", ignore_index=VOID)
    expected = oracle(torch.from_numpy(prediction).long(), torch.from_numpy(truth).long())
    np.testing.assert_allclose(confusion.iou, expected.numpy(), rtol=1e-6)


def test_scores_are_of_the_data_set_not_means_over_pictures() -> None:
    labels = LabelSpace(("background", "part"))
    confusion = Confusion(labels)
    confusion.update(np.ones((1, 1), np.uint8), np.ones((1, 1), np.uint8))
    confusion.update(np.ones((10, 10), np.uint8), np.zeros((10, 10), np.uint8))
    assert confusion.iou[1] == pytest.approx(1 / 101)


@settings(max_examples=40, deadline=None)
@given(seeds=st.lists(st.integers(0, 10_000), min_size=3, max_size=6), cut=st.integers(1, 5))
def test_any_way_of_merging_gives_the_same_counts(seeds: list[int], cut: int) -> None:
    parts = []
    whole = Confusion(LABELS)
    for seed in seeds:
        part = Confusion(LABELS)
        truth, prediction = label_maps(seed), label_maps(seed + 1, void=False)
        part.update(truth, prediction)
        whole.update(truth, prediction)
        parts.append(part)
    first, second, *rest = parts
    tail = sum(rest[1:], rest[0])
    for merged in ((first + second) + tail, first + (second + tail), (tail + first) + second):
        np.testing.assert_array_equal(merged.counts, whole.counts)
    cut = min(cut, len(parts) - 1)
    halves = sum(parts[1:cut], parts[0]) + sum(parts[cut + 1 :], parts[cut])
    assert halves.scores() == pytest.approx(whole.scores(), nan_ok=True)


def test_adding_leaves_the_summands_alone() -> None:
    first, second = Confusion(LABELS), Confusion(LABELS)
    first.update(label_maps(0), label_maps(1, void=False))
    before = first.counts.copy()
    merged = first + second
    merged.update(label_maps(2), label_maps(3, void=False))
    np.testing.assert_array_equal(first.counts, before)
    assert second.counts.sum() == 0


def test_absent_never_predicted_and_not_in_truth_are_told_apart() -> None:
    labels = LabelSpace(("background", "door", "wheel", "light", "plate"))
    truth = np.array([[0, 0, 1, 1]], np.uint8)
    prediction = np.array([[0, 0, 0, 2]], np.uint8)
    confusion = Confusion(labels)
    confusion.update(truth, prediction)
    assert confusion.absent == ["light", "plate"]
    assert confusion.never_predicted == ["door"]
    assert confusion.not_in_truth == ["wheel"]
    np.testing.assert_allclose(confusion.iou, [2 / 3, 0, 0, np.nan, np.nan])
    assert confusion.scores()["miou"] == pytest.approx(2 / 9)
    assert confusion.scores()["miou_foreground"] == 0
    assert confusion.scores()["weighted_iou"] == pytest.approx(1 / 3)
    assert confusion.scores()["weighted_iou_foreground"] == 0


def test_nothing_counted_gives_nan_without_warnings(recwarn: pytest.WarningsRecorder) -> None:
    confusion = Confusion(LABELS)
    confusion.update(np.full((2, 2), VOID, np.uint8), np.zeros((2, 2), np.uint8))
    assert all(np.isnan(v) for v in confusion.scores().values())
    assert confusion.absent == list(LABELS.names)
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


def test_without_a_background_every_class_is_foreground() -> None:
    labels = LabelSpace(("sky", "road"), background=None)
    confusion = Confusion(labels)
    confusion.update(np.array([[0, 1, 1]], np.uint8), np.array([[0, 1, 0]], np.uint8))
    scores = confusion.scores()
    assert scores["miou"] == scores["miou_foreground"] == pytest.approx(0.5)


def test_batched_counts_score_as_single_ones() -> None:
    stack = np.stack([Confusion(LABELS).update(label_maps(i), label_maps(i + 9, void=False)) for i in range(4)])
    batched = overlap_scores(stack, LABELS)
    for i, counts in enumerate(stack):
        assert {k: float(v[i]) for k, v in batched.items()} == pytest.approx(
            Confusion(LABELS, counts).scores(), nan_ok=True
        )
    assert class_iou(stack).shape == (4, 4)


@pytest.mark.parametrize(("truth", "prediction", "words"), [
    (np.array([[9]], np.uint8), np.array([[0]], np.uint8), "truth: class index 9 is out of range"),
    (np.array([[0]], np.uint8), np.array([[255]], np.uint8), "prediction: class index 255 is out of range"),
    (np.array([[0]], np.int64), np.array([[-1]], np.int64), "prediction: class index -1 is out of range"),
    (np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), r"truth is \(2, 3\)"),
])  # fmt: skip
def test_bad_maps_are_refused(truth: NDArray[np.uint8], prediction: NDArray[np.uint8], words: str) -> None:
    with pytest.raises(DataError, match=words):
        Confusion(LABELS).update(truth, prediction)


def test_other_classes_do_not_merge() -> None:
    with pytest.raises(DataError, match="different classes"):
        Confusion(LABELS) + Confusion(LabelSpace(("background", "body", "wheel", "lamp"), void=VOID))
