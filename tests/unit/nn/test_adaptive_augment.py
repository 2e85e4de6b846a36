"""Adaptive augmentation: identities, known transforms, distributions (spec A12)."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raygseg.nn.adaptive_augment import (
    apply_colour,
    apply_geometry,
    augment,
    draw_colour,
    draw_geometry,
    draw_transforms,
)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def smooth() -> Tensor:
    coarse = torch.rand(4, 3, 5, 5, generator=rng())
    return F.interpolate(coarse, (32, 32), mode="bicubic", align_corners=True)


def matrices(rows: list[list[float]], count: int = 4) -> Tensor:
    return torch.tensor(rows).repeat(count, 1, 1)


def test_p_zero_and_identity_matrices_change_nothing(smooth: Tensor) -> None:
    assert augment(smooth, 0.0, rng()) is smooth
    transforms = draw_transforms(4, 32, 0.0, rng())
    assert torch.equal(transforms.inverse_geometry, torch.eye(3).repeat(4, 1, 1))
    torch.testing.assert_close(transforms.colour, torch.eye(4).repeat(4, 1, 1))
    torch.testing.assert_close(apply_geometry(smooth, transforms.inverse_geometry), smooth, rtol=0, atol=1e-4)


def test_flip_translation_and_quarter_turn_move_pixels_exactly(smooth: Tensor) -> None:
    flip = matrices([[-1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    # symlet 6 is only nearly symmetric, so mirrored pictures differ by its phase error
    torch.testing.assert_close(apply_geometry(smooth, flip), smooth.flip(3), rtol=0, atol=0.03)
    shift = matrices([[1.0, 0, -3], [0, 1, 0], [0, 0, 1]])
    moved = apply_geometry(smooth, shift)
    torch.testing.assert_close(moved[..., 3:], smooth[..., :-3], rtol=0, atol=1e-4)
    torch.testing.assert_close(moved[..., :3], smooth[..., 1:4].flip(3), rtol=0, atol=1e-4)  # reflected border
    turn = matrices([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    turned = apply_geometry(smooth, turn)
    candidates = [torch.rot90(smooth, k, (2, 3)) for k in (1, 3)]
    assert min(float((turned - c).abs().max()) for c in candidates) < 0.03


def test_geometry_takes_any_number_of_channels() -> None:
    maps = torch.randn(2, 9, 16, 16)
    assert apply_geometry(maps, draw_geometry(2, 16, 1.0, rng())).shape == maps.shape


def test_colour_matrices_do_what_they_are_called() -> None:
    grey = torch.full((1, 3, 4, 4), 0.5)
    saturated = draw_colour(2000, 1.0, rng(1))
    # hue and saturation leave the luma axis alone: grey stays grey
    out = apply_colour(grey.expand(2000, 3, 4, 4), saturated)
    assert float((out.amax(dim=1) - out.amin(dim=1)).max()) < 1e-4
    with pytest.raises(ValueError, match="1 or 3 channels"):
        apply_colour(torch.zeros(1, 2, 4, 4), torch.eye(4)[None])


@pytest.mark.parametrize("p", [0.2, 0.7])
def test_share_of_rotated_pictures_is_p(p: float) -> None:
    geometry = draw_geometry(20000, 32, p, rng(2))
    block = geometry[:, :2, :2]
    # scalings and flips keep the axes; only the free rotations mix them in unequal amounts
    mixed = (block.abs() > 1e-5).all(dim=(1, 2))
    assert float(mixed.float().mean()) == pytest.approx(p, abs=0.015)


def test_upright_pictures_keep_their_sides_and_all_else() -> None:
    free, upright = (draw_geometry(20000, 32, 0.5, rng(6), kept) for kept in (False, True))
    # Where a point on the right of the picture is read from: on the left, its side has been exchanged.
    right = torch.tensor([1.0, 0.0])
    exchanged = [float(((g[:, :2, :2] @ right)[:, 0] < 0).float().mean()) for g in (free, upright)]
    assert exchanged[0] == pytest.approx(0.45, abs=0.02) and exchanged[1] == 0
    turned = torch.atan2(upright[:, 1, 0], upright[:, 0, 0]).abs()
    stretch = 2 ** (0.2 * 2 * 5)  # five standard deviations of both axes
    assert 0 < float(turned.max()) < 2 * math.atan(stretch * math.tan(math.pi / 18))
    both = (g[:, :2, :2].det().abs() for g in (free, upright))
    assert torch.allclose(*both, rtol=1e-4)  # the same scales, from the same draws


def test_scale_and_brightness_follow_their_laws() -> None:
    colour = draw_colour(20000, 1.0, rng(3))
    contrast = colour[:, :3, :3].det().abs()
    # |det| = contrast^3 * saturation^2: log2 has variance 9 * 0.25 + 4 * 1
    assert float(contrast.log2().std()) == pytest.approx(math.sqrt(9 * 0.25 + 4), rel=0.03)
    area = draw_geometry(20000, 32, 1.0, rng(4))[:, :2, :2].det().abs().log2()
    assert float(area.std()) == pytest.approx(0.4, rel=0.03)  # two axes of 2^N(0, 0.2^2)


def test_augmentation_has_second_derivatives_and_follows_its_generator() -> None:
    images = torch.randn(2, 3, 8, 8, dtype=torch.float32, requires_grad=True)
    first, second = augment(images, 0.9, rng(5)), augment(images, 0.9, rng(5))
    assert torch.equal(first, second)
    (gradient,) = torch.autograd.grad(first.square().sum(), images, create_graph=True)
    (again,) = torch.autograd.grad(gradient.square().sum(), images)
    assert torch.isfinite(again).all() and float(again.abs().max()) > 0
