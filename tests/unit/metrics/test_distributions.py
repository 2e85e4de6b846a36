"""FID, KID, precision and recall against closed forms, and that shares add up."""

import numpy as np
import pytest

from raygseg.errors import DataError
from raygseg.metrics.distributions import (
    FeatureStatistics,
    frechet_distance,
    kernel_distance,
    merged,
    precision_recall,
)
from raygseg.seeding import numpy_rng


def normal(count: int, dimensions: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return (numpy_rng(seed, "test").normal(size=(count, dimensions)) * scale + shift).astype(np.float32)


def whitened(features: np.ndarray) -> np.ndarray:
    """Mean 0 and unit covariance exactly."""
    x = features.astype(np.float64) - features.mean(0, dtype=np.float64)
    root = np.linalg.cholesky(np.linalg.inv(np.cov(x, rowvar=False)))
    return np.asarray(x @ root)


def test_frechet_distance_of_known_gaussians() -> None:
    # N(0, 1) against N(3, 4): |3|^2 * D + D * (1 - 2)^2
    x = whitened(normal(500, 6, 0))
    y = 2 * whitened(normal(400, 6, 1)) + 3
    distance = frechet_distance(FeatureStatistics.of(x), FeatureStatistics.of(y))  # type: ignore[arg-type]
    assert distance == pytest.approx(6 * 9 + 6, rel=1e-9)


def test_frechet_distance_with_correlated_features_agrees_with_the_general_root() -> None:
    mix = normal(8, 8, 2)
    x, y = normal(300, 8, 3) @ mix, normal(300, 8, 4, 0.5, 1.5) @ mix.T
    a, b = FeatureStatistics.of(x), FeatureStatistics.of(y)
    values = np.linalg.eigvals(a.covariance @ b.covariance)  # not symmetric, but similar to something that is
    trace = np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.sqrt(values.real).sum()
    expected = np.square(a.mean - b.mean).sum() + trace
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_a_set_is_at_no_distance_from_itself_even_without_full_rank() -> None:
    few = normal(5, 20, 5)
    assert frechet_distance(FeatureStatistics.of(few), FeatureStatistics.of(few)) == pytest.approx(0, abs=1e-6)


def test_shares_add_up_to_the_whole() -> None:
    x = normal(1000, 7, 6, 2.0)
    whole = FeatureStatistics.of(x, keep=300)
    parts = [FeatureStatistics.of(x[:256], 256), FeatureStatistics.of(x[256:700], 44), FeatureStatistics.of(x[700:], 0)]
    total = merged(parts)
    assert total.count == 1000
    assert np.array_equal(total.kept, whole.kept)
    np.testing.assert_allclose(total.mean, x.mean(0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(total.covariance, np.cov(x.astype(np.float64), rowvar=False), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(total.covariance, whole.covariance, rtol=1e-9, atol=1e-12)


def test_kernel_distance_is_unbiased_and_sees_a_shift() -> None:
    x, same, moved = normal(600, 4, 7), normal(600, 4, 8), normal(600, 4, 9, shift=1.0)
    null, shifted = kernel_distance(x, same, 50, 300), kernel_distance(x, moved, 50, 300)
    assert abs(null.value) < 0.05
    assert shifted.value > 1
    assert kernel_distance(x, moved, 50, 300) == shifted, "drawn from the seed"
    # Of whole sets: the formula written out.
    a, b = x[:40].astype(np.float64), moved[:40].astype(np.float64)
    k = lambda p, q: (p @ q / 4 + 1) ** 3  # noqa: E731
    off = lambda s: sum(k(s[i], s[j]) for i in range(40) for j in range(40) if i != j) / (40 * 39)  # noqa: E731
    cross = sum(k(p, q) for p in a for q in b) / 1600
    assert kernel_distance(x[:40], moved[:40], 1, 40).value == pytest.approx(off(a) + off(b) - 2 * cross, rel=1e-9)


def test_precision_and_recall_of_half_a_distribution() -> None:
    # The real set has two clusters; the fake one covers the first of them only, and spills over.
    real = np.concatenate([normal(300, 3, 10), normal(300, 3, 11, shift=100.0)])
    fake = np.concatenate([normal(200, 3, 12), normal(200, 3, 13, shift=-100.0)])
    result = precision_recall(real, fake)
    assert result.precision == pytest.approx(0.5, abs=0.05)
    assert result.recall == pytest.approx(0.5, abs=0.05)
    same = precision_recall(real, real)
    assert same == (1.0, 1.0)


def test_too_few_pictures_are_an_error() -> None:
    one = FeatureStatistics.of(normal(1, 4, 0))
    with pytest.raises(DataError, match="1 picture cannot be compared"):
        frechet_distance(one, one)
    with pytest.raises(DataError, match="fewer than 4"):
        precision_recall(normal(3, 2, 0), normal(9, 2, 1))
    with pytest.raises(DataError, match="no pictures"):
        merged([])
