"""The affine augmentation: one matrix for picture and labels, exact valid masks, swapped sides (spec 1.7, 5.2)."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from raygseg.data.augment import (
    FILL,
    AffineAugmentation,
    Augmented,
    Placement,
    inverse_matrix,
    jitter_colour,
    warp,
)

N, K, R = 6, 3, 24


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def placement(
    angle: float = 0.0,
    zoom: float = 1.0,
    shift: tuple[float, float] = (0.0, 0.0),
    mirror: float = 1.0,
    reflect: bool = False,
) -> Placement:
    matrix = inverse_matrix(
        torch.tensor([angle]), torch.tensor([zoom]), torch.tensor([[shift[0]], [shift[1]]]), torch.tensor([mirror])
    )
    return Placement(matrix, torch.tensor([reflect]))


def smooth_batch(count: int = N) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures whose three channels are their own soft labels, so that both must stay equal."""
    coarse = torch.randn(count, K, 5, 5, generator=seeded(3))
    soft = torch.nn.functional.interpolate(coarse, size=R, mode="bilinear", align_corners=True).mul(2).softmax(1)
    return soft.clone(), soft, torch.ones(count, R, R)


def test_picture_and_labels_move_together() -> None:
    images, targets, valid = smooth_batch()
    out = AffineAugmentation(reflect=0.5)(images, targets, valid, seeded())
    keep = out.valid[:, None].expand_as(out.images) > 0
    assert 0.2 < float(keep.float().mean()) < 1.0
    assert torch.allclose(out.images[keep], out.targets[keep], atol=1e-5)


def test_soft_targets_sum_to_one_on_valid_pixels_and_to_zero_elsewhere() -> None:
    out = AffineAugmentation()(*smooth_batch(32), seeded(1))
    assert torch.allclose(out.targets.sum(1), out.valid, atol=1e-5)


def test_valid_is_zero_exactly_where_fill_occurred() -> None:
    images = torch.ones(32, 3, R, R)  # nowhere grey
    targets = torch.ones(32, K, R, R) / K
    out = AffineAugmentation(reflect=0.0)(images, targets, torch.ones(32, R, R), seeded(2))
    filled = (out.images == FILL).all(1)
    assert torch.equal(filled, out.valid == 0)
    assert bool((out.images[~filled.unsqueeze(1).expand_as(out.images)] > 1 - 1e-5).all())


def test_reflection_leaves_no_fill() -> None:
    images = torch.ones(8, 3, R, R)
    everywhere = AffineAugmentation(reflect=1.0)(images, images / 3, torch.ones(8, R, R), seeded())
    assert float(everywhere.valid.min()) == 1.0
    assert torch.allclose(everywhere.images, images, atol=1e-5)


def test_unlabelled_pixels_stay_invalid_after_the_warp() -> None:
    images, targets, valid = smooth_batch(1)
    valid[:, :, R // 2 :] = 0
    out = warp(images, targets, valid, placement(shift=(2 * 4 / R, 0.0)), ())  # 4 pixels to the right
    assert torch.equal(out.valid[0, 0], torch.tensor([0.0] * 4 + [1.0] * (R // 2) + [0.0] * (R // 2 - 4)))


def test_identity_changes_nothing() -> None:
    images, targets, valid = smooth_batch(1)
    out = warp(images, targets, valid, placement(), (0, 2, 1))
    assert torch.allclose(out.images, images, atol=1e-5)
    assert torch.allclose(out.targets, targets, atol=1e-5)
    assert float(out.valid.min()) == 1.0


def test_flip_equals_tensor_flip_with_sides_swapped() -> None:
    images, targets, valid = smooth_batch(1)
    out = warp(images, targets, valid, placement(mirror=-1.0), (0, 2, 1))
    assert torch.allclose(out.images, images.flip(-1), atol=1e-5)
    assert torch.allclose(out.targets, targets.flip(-1)[:, [0, 2, 1]], atol=1e-5)


@pytest.mark.parametrize(("name", "expected"), [("quarter", (8, 4)), ("shift", (10, 7)), ("zoom", (16, 20))])
def test_a_dot_lands_where_the_matrix_says(name: str, expected: tuple[int, int]) -> None:
    """A dot at row 4, column 15 (of 24, centre 11.5)."""
    images = torch.zeros(1, 3, R, R)
    images[0, :, 4, 15] = 1.0
    if name == "zoom":  # twice as large about the centre: (14, 13) -> (16.5, 14.5), spread over its neighbours
        images = torch.zeros(1, 3, R, R)
        images[0, :, 14, 16] = 1.0
    where = {
        "quarter": placement(angle=-math.pi / 2),
        "shift": placement(shift=(2 * -8 / R, 2 * 6 / R)),
        "zoom": placement(zoom=2.0),
    }[name]
    out = warp(images, torch.ones(1, 1, R, R), torch.ones(1, R, R), where, ())
    row, column = divmod(int(out.images[0, 0].argmax()), R)
    assert (row, column) == expected


def test_reflected_regions_have_their_sides_swapped() -> None:
    """Shifted right by half: the left half shows the mirrored left half, with 'left' and 'right' traded."""
    targets = torch.zeros(1, 3, R, R)
    targets[:, 1] = 1.0  # all 'left'
    images, valid = torch.zeros(1, 3, R, R), torch.ones(1, R, R)
    out = warp(images, targets, valid, placement(shift=(1.0, 0.0), reflect=True), (0, 2, 1))
    assert torch.equal(out.targets[0, :, 0, : R // 2].argmax(0), torch.full((R // 2,), 2))
    assert torch.equal(out.targets[0, :, 0, R // 2 :].argmax(0), torch.full((R // 2,), 1))
    corner = warp(images, targets, valid, placement(shift=(1.0, 1.0), reflect=True), (0, 2, 1))
    assert int(corner.targets[0, :, 0, 0].argmax()) == 1  # reflected twice: a half turn, no mirror image


def test_draws_keep_to_their_ranges_and_follow_the_seed() -> None:
    augmentation = AffineAugmentation(rotation=10, scale=(0.5, 2.0), translation=0.5, reflect=0.5)
    drawn = augmentation.draw(4000, seeded())
    linear = drawn.matrix[:, :, :2].double()
    zoom = linear.det().abs().rsqrt()
    assert 0.5 <= float(zoom.min()) < 0.51
    assert 1.96 < float(zoom.max()) <= 2.0 + 1e-6
    assert float(zoom.log().mean()) == pytest.approx(0.0, abs=0.03)  # log-uniform about 1
    shift = -(torch.linalg.inv(linear) @ drawn.matrix[:, :, 2:].double())[..., 0]
    assert 0.98 < float(shift.abs().max()) <= 1.0 + 1e-6
    assert float((linear.det() < 0).double().mean()) == pytest.approx(0.5, abs=0.05)
    assert float(drawn.reflect.double().mean()) == pytest.approx(0.5, abs=0.05)
    turn = torch.atan2(-linear[:, 1, 0], linear[:, 1, 1])
    assert math.radians(9.9) < float(turn.abs().max()) <= math.radians(10.001)
    assert torch.equal(augmentation.draw(5, seeded(7)).matrix, augmentation.draw(5, seeded(7)).matrix)
    assert not torch.equal(augmentation.draw(5, seeded(7)).matrix, augmentation.draw(5, seeded(8)).matrix)


def test_colour_jitter_touches_the_picture_only() -> None:
    images, targets, valid = smooth_batch()
    plain = AffineAugmentation()(images, targets, valid, seeded())
    jittered = AffineAugmentation(colour=0.5)(images, targets, valid, seeded())
    assert isinstance(jittered, Augmented)
    assert torch.equal(plain.targets, jittered.targets)
    assert float((plain.images - jittered.images).abs().max()) > 0.05
    assert float(jittered.images.abs().max()) <= 1.0
    assert torch.allclose(jitter_colour(images, 0.0, seeded()), images, atol=1e-6)


def test_what_changes_nothing_says_so() -> None:
    still = AffineAugmentation(flip=False, rotation=0.0, scale=(1.0, 1.0), translation=0.0)
    assert still.changes_nothing
    for change in ({"flip": True}, {"rotation": 1.0}, {"scale": (1.0, 1.1)}, {"translation": 0.1}, {"colour": 0.1}):
        assert not replace(still, **change).changes_nothing  # type: ignore[arg-type]
