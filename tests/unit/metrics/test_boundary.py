"""Boundary F on figures worked out by hand, and against a brute-force distance search."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from raygseg.labels import LabelSpace
from raygseg.metrics.boundary import (
    BoundaryAgreement,
    boundary_counts,
    boundary_mask,
    near,
    tolerance_radius,
)

LABELS = LabelSpace(("background", "square", "other"), void=255)


def square(top: int, left: int, side: int, size: int = 40) -> NDArray[np.uint8]:
    picture = np.zeros((size, size), np.uint8)
    picture[top : top + side, left : left + side] = 1
    return picture


def share(pixels: float, size: int = 40) -> float:
    """The tolerance, as a share of the diagonal, whose radius is `pixels`."""
    return pixels / np.hypot(size, size)


def test_boundary_of_a_square_is_its_ring_inside_and_outside() -> None:
    edges = boundary_mask(square(10, 10, 8))
    inside = square(10, 10, 8) == 1
    assert (edges & inside).sum() == 4 * 8 - 4
    assert (edges & ~inside).sum() == 4 * 8
    assert not boundary_mask(np.ones((5, 5), np.uint8)).any()


def test_the_same_map_scores_one() -> None:
    agreement = BoundaryAgreement(LABELS, 0.01)
    agreement.update(square(10, 10, 8), square(10, 10, 8))
    np.testing.assert_allclose(agreement.f, [1, 1, np.nan])
    assert agreement.scores() == {"boundary_f": 1.0, "boundary_f_foreground": 1.0}


def test_square_shifted_by_two_counted_by_hand() -> None:
    """An 8 x 8 square moved right by 2: the two rings of 28 share columns 12 to 17 of the top and of the
    bottom row, 12 pixels, and with a tolerance of 2 every pixel finds its twin."""
    truth, prediction = square(10, 10, 8), square(10, 12, 8)
    counts = boundary_counts(truth, prediction, LABELS, tolerance=0.0)
    assert counts[:, 1].tolist() == [28, 12, 28, 12]
    agreement = BoundaryAgreement(LABELS, 0.0, counts)
    assert agreement.f[1] == pytest.approx(12 / 28)
    for pixels in (2.0, 3.0):
        generous = boundary_counts(truth, prediction, LABELS, share(pixels))
        assert generous[:, 1].tolist() == [28, 28, 28, 28]


def test_one_pixel_of_tolerance_on_a_shift_by_two() -> None:
    """Top and bottom rows: the 6 shared columns and, one column away, columns 11 (truth) and 18
    (prediction) are found: 2 * 7. Right true column 17: its neighbours one row up or down of the shared
    rows (rows 11 and 16) lie 1 away from row 10 and 17: 2 more. Nothing else."""
    counts = boundary_counts(square(10, 10, 8), square(10, 12, 8), LABELS, share(1.0))
    assert counts[:, 1].tolist() == [28, 16, 28, 16]


def test_smaller_square_inside_precision_and_recall_differ() -> None:
    """A 4 x 4 square in the middle of an 8 x 8 one, tolerance 2: every predicted pixel has a true one
    within 2; a true pixel has a predicted one within 2 unless it is a corner region pixel."""
    truth, prediction = square(10, 10, 8), square(12, 12, 4)
    counts = boundary_counts(truth, prediction, LABELS, share(2.0))
    assert counts[2, 1] == counts[3, 1] == 12
    assert counts[0, 1] == 28
    assert counts[1, 1] == 4 * 4  # straight across only: the diagonal neighbour is sqrt(5) away


def test_missing_class_scores_zero_and_absent_class_is_nan() -> None:
    agreement = BoundaryAgreement(LABELS, 0.01)
    agreement.update(square(10, 10, 8), np.zeros((40, 40), np.uint8))
    np.testing.assert_allclose(agreement.f, [0, 0, np.nan])


def test_void_makes_no_boundary_and_hides_predictions_near_it() -> None:
    truth = square(10, 10, 8)
    truth[9, 8:20] = truth[18, 8:20] = 255
    truth[8:20, 9] = truth[8:20, 18] = 255
    counts = boundary_counts(truth, square(10, 10, 8), LABELS, share(1.0))
    assert counts.sum() == 0
    far_off = boundary_counts(truth, square(28, 28, 8), LABELS, share(1.0))
    assert far_off[:, 1].tolist() == [0, 0, 28, 0]


def test_counts_are_summed_before_they_are_divided() -> None:
    agreement = BoundaryAgreement(LABELS, 0.0)
    agreement.update(square(10, 10, 8), square(10, 10, 8))
    agreement.update(square(10, 10, 20), np.zeros((40, 40), np.uint8))
    recall = 28 / (28 + 76)
    assert agreement.f[1] == pytest.approx(2 * recall / (1 + recall))


def test_parts_merge() -> None:
    pairs = [(square(5 + i, 6, 9), square(6, 6 + i, 9)) for i in range(4)]
    whole, parts = BoundaryAgreement(LABELS, 0.02), [BoundaryAgreement(LABELS, 0.02) for _ in pairs]
    for (truth, prediction), part in zip(pairs, parts, strict=True):
        whole.update(truth, prediction)
        part.update(truth, prediction)
    np.testing.assert_array_equal((parts[0] + (parts[1] + (parts[2] + parts[3]))).counts, whole.counts)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), height=st.integers(1, 14), width=st.integers(1, 14), radius=st.integers(0, 6))
def test_near_is_an_exact_euclidean_search(seed: int, height: int, width: int, radius: int) -> None:
    rng = np.random.default_rng(seed)
    points, targets = rng.random((2, height, width)) < 0.15
    where = np.argwhere(targets)
    expected = [
        bool(where.size) and bool((((where - point) ** 2).sum(1) <= radius**2).any()) for point in np.argwhere(points)
    ]
    assert near(points, targets, radius).tolist() == expected


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (3000, 7)])
def test_odd_sizes(shape: tuple[int, int]) -> None:
    truth = np.zeros(shape, np.uint8)
    truth[: shape[0] // 2] = 1
    counts = boundary_counts(truth, truth, LABELS, 0.01)
    assert (counts[0] == counts[1]).all() and (counts[2] == counts[3]).all()
    assert counts[0, 1] == (7 if shape[0] > 1 else 0)


def test_radius_is_rounded_up_and_zero_only_for_zero() -> None:
    assert tolerance_radius((64, 64), 0.01) == 1
    assert tolerance_radius((256, 256), 0.01) == 4
    assert tolerance_radius((64, 64), 0.0) == 0
