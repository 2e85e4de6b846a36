"""The toy set: same pictures always, exact labels, and hard enough to be worth solving."""

from __future__ import annotations

import numpy as np
import pytest

from raygseg.data.toy import STYLES, render_toy, render_toy_batch, toy_labels
from raygseg.errors import ConfigError

LABELS = toy_labels()
INDEX = {name: i for i, name in enumerate(LABELS.names)}
COUNT = 200


@pytest.fixture(scope="module")
def pairs() -> tuple[np.ndarray, np.ndarray]:
    return render_toy_batch(5, range(COUNT), 32)


def test_labels_have_left_right_pairs_and_a_colour_each() -> None:
    assert LABELS.num_classes == 9
    assert {tuple(LABELS.names[i] for i in pair) for pair in LABELS.swaps} == {
        ("left_arm", "right_arm"),
        ("left_leg", "right_leg"),
    }
    assert len(set(LABELS.palette)) == 9


@pytest.mark.parametrize("style", STYLES)
def test_shapes_types_and_determinism(style: str) -> None:
    picture, label_map = render_toy(1, 7, 48, style)
    assert picture.shape == (48, 48, 3) and picture.dtype == np.uint8
    assert label_map.shape == (48, 48) and label_map.dtype == np.uint8
    again = render_toy(1, 7, 48, style)
    assert np.array_equal(picture, again[0]) and np.array_equal(label_map, again[1])


def test_seed_and_index_change_the_picture() -> None:
    picture = render_toy(1, 7, 32)[0]
    assert not np.array_equal(picture, render_toy(1, 8, 32)[0])
    assert not np.array_equal(picture, render_toy(2, 7, 32)[0])


@pytest.mark.parametrize("style", STYLES)
def test_a_picture_does_not_depend_on_its_batch(style: str) -> None:
    pictures, label_maps = render_toy_batch(3, [9, 2, 9, 40], 32, style)
    for row, index in enumerate([9, 2, 9, 40]):
        picture, label_map = render_toy(3, index, 32, style)
        assert np.array_equal(pictures[row], picture) and np.array_equal(label_maps[row], label_map)


def test_global_randomness_is_left_alone() -> None:
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    render_toy(0, 0, 32, "ood")
    assert np.array_equal(before, np.random.get_state()[1])


def test_labels_are_equal_where_pixel_centres_coincide() -> None:
    for index in range(20):
        coarse, fine = render_toy(4, index, 32)[1], render_toy(4, index, 96)[1]
        assert np.array_equal(coarse, fine[1::3, 1::3])


@pytest.mark.parametrize("fine", [64, 128, 320])
def test_labels_agree_across_resolutions(fine: int) -> None:
    step = fine // 32
    agreement = [
        np.mean(render_toy(4, i, 32)[1] == render_toy(4, i, fine)[1][step // 2 :: step, step // 2 :: step])
        for i in range(12)
    ]
    assert np.mean(agreement) > 0.93


def test_pictures_agree_across_resolutions() -> None:
    coarse, fine = render_toy(4, 1, 32)[0].astype(float), render_toy(4, 1, 128)[0].astype(float)
    pooled = fine.reshape(32, 4, 32, 4, 3).mean((1, 3))
    assert np.abs(pooled - coarse).mean() < 3.0


def test_flip_with_swap_keeps_the_distribution(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    _, label_maps = pairs
    flipped = LABELS.flip_lut[label_maps[:, :, ::-1]]
    gaps = [np.abs((label_maps == k).mean(0) - (flipped == k).mean(0)).mean() for k in range(LABELS.num_classes)]
    assert max(gaps) < 0.035
    # Without the swap the maps do not match: sides can be told apart by place.
    for k in (i for pair in LABELS.swaps for i in pair):
        place = (label_maps == k).mean(0)
        assert np.abs(place - place[:, ::-1]).mean() > 4 * gaps[k]


def test_every_class_shows_and_is_large_enough(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    _, label_maps = pairs
    assert label_maps.max() < LABELS.num_classes
    shares = np.stack([(label_maps == k).mean((1, 2)) for k in range(LABELS.num_classes)], 1)
    assert ((shares > 0).mean(0) >= 0.95).all()
    assert shares.mean(0).min() >= 0.012
    assert 0.25 < 1 - shares[:, 0].mean() < 0.5


def test_arms_and_legs_share_their_colours_and_faces_do_not(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    pictures, label_maps = pairs

    def colours(*names: str) -> np.ndarray:
        wanted = np.isin(label_maps, [INDEX[n] for n in names])
        return np.array([p[w].mean(0) for p, w in zip(pictures, wanted, strict=True) if w.any()]) / 255.0

    def spread(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.linalg.norm(a[:, None] - b[None], axis=-1).mean())

    def energy(a: np.ndarray, b: np.ndarray) -> float:
        """Energy distance of two samples: 0 in the limit for equal distributions."""
        return 2 * spread(a, b) - spread(a, a) - spread(b, b)

    arms, legs = colours("left_arm", "right_arm"), colours("left_leg", "right_leg")
    assert energy(arms, legs) < 0.02
    assert energy(colours("face"), colours("torso")) > 5 * energy(arms, legs)
    assert energy(colours("face"), colours("torso")) > 0.05


def test_ood_has_the_same_labels_and_another_look(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    pictures, label_maps = pairs
    strange, strange_maps = render_toy_batch(5, range(COUNT), 32, "ood")
    assert np.array_equal(label_maps, strange_maps)
    assert np.abs(pictures.astype(int) - strange).mean() > 30
    # Grain and contours: neighbours differ far more than in the default style.
    roughness = [np.abs(np.diff(p.astype(int), axis=2)).mean() for p in (pictures, strange)]
    assert roughness[1] > 2 * roughness[0]


def test_colour_and_place_alone_do_not_solve_it(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    toy_hardness = pytest.importorskip("raygseg.benchmarks.toy_hardness")
    pytest.importorskip("sklearn")
    score = toy_hardness.pixel_miou(150, (pairs[0][:60], pairs[1][:60]), trees=6, pixels=30_000)
    assert 0.15 < score < 0.5


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match="sepia"):
        render_toy(0, 0, 32, "sepia")
    with pytest.raises(ConfigError, match="4"):
        render_toy(0, 0, 4)
