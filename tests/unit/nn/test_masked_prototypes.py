"""Masked means, prototypes and cosines against the plain forms and values worked out by hand (PANet spec 1.15)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from raygseg.nn.masked_prototypes import (
    cell_weights,
    class_prototypes,
    cosine_scores,
    enlarge_scores,
    hard_masks,
    masked_average,
    pooled_by,
)


def plain_average(features: Tensor, mask: Tensor, corners: bool) -> Tensor:
    """As published: the maps are enlarged to the mask."""
    wide = functional.interpolate(features[None], size=mask.shape, mode="bilinear", align_corners=corners)[0]
    return (wide * mask).sum(dim=(1, 2)) / (mask.sum() + 1e-5)


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("size", [(17, 33), (8, 5), (3, 4)], ids=str)
def test_the_mean_is_that_of_enlarged_maps(size: tuple[int, int], corners: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 6, 3, 5, generator=rng)
    masks = torch.rand(2, 3, *size, generator=rng) > 0.6
    found = masked_average(features, masks, corners)
    for i in range(2):
        for k in range(3):
            torch.testing.assert_close(found[i, k], plain_average(features[i, k], masks[i, k], corners))


def test_gradients_are_those_of_enlarged_maps() -> None:
    features = torch.randn(4, 3, 3, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(11, 7) > 0.5
    ours = torch.autograd.grad(masked_average(features, mask).square().sum(), features)[0]
    theirs = torch.autograd.grad(plain_average(features, mask.double(), False).square().sum(), features)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_by_hand() -> None:
    """One row of two cells, 1 and 5, over four pixels: enlarged 1, 2, 4, 5."""
    features = torch.tensor([1.0, 5.0]).view(1, 1, 2)
    assert masked_average(features, torch.tensor([[0, 1, 1, 0]])).item() == pytest.approx(3.0, abs=1e-4)
    assert masked_average(features, torch.tensor([[1, 1, 0, 0]])).item() == pytest.approx(1.5, abs=1e-4)
    weights = cell_weights(torch.tensor([[0, 1, 0, 0]]), (1, 2))
    torch.testing.assert_close(weights, torch.tensor([[0.75, 0.25]]))


def test_a_constant_map_gives_the_constant_and_an_empty_mask_zeros() -> None:
    features = torch.tensor([2.0, -3.0]).view(2, 1, 1).expand(2, 4, 4)
    mask = torch.zeros(9, 9)
    assert masked_average(features, mask).tolist() == [0.0, 0.0]
    mask[8, 0] = 1
    torch.testing.assert_close(masked_average(features, mask), torch.tensor([2.0, -3.0]), rtol=1e-4, atol=0)
    zero = torch.zeros(1, 2, 2)
    assert cosine_scores(torch.randn(1, 1, 2, 3, 3), zero, 20.0).abs().max() == 0  # no division by zero


def test_half_precision_maps_of_a_large_picture() -> None:
    """The area, 90,000 pixels, is more than half precision can hold."""
    features = torch.full((1, 3, 2, 2), 0.5, dtype=torch.float16)
    found = masked_average(features, torch.ones(1, 300, 300, dtype=torch.bool))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.full((1, 3), 0.5))


def test_prototypes_are_means_of_means() -> None:
    fore = torch.tensor([[[[1.0, 0.0], [3.0, 2.0]], [[0.0, 4.0], [0.0, 6.0]]]])  # one episode, two ways, two shots
    back = torch.tensor([[[[1.0, 1.0], [3.0, 1.0]], [[5.0, 1.0], [7.0, 1.0]]]])
    expected = torch.tensor([[[4.0, 1.0], [2.0, 1.0], [0.0, 5.0]]])
    torch.testing.assert_close(class_prototypes(fore, back), expected)
    torch.testing.assert_close(class_prototypes(fore.flip(2), back.flip(2)), expected)  # the order of shots
    once, again = (
        class_prototypes(fore[:, :, :1].repeat(1, 1, k, 1), back[:, :, :1].repeat(1, 1, k, 1)) for k in (1, 5)
    )
    torch.testing.assert_close(once, again)


def test_scores_are_bounded_and_know_no_length() -> None:
    features, prototypes = torch.randn(2, 3, 5, 4, 4), torch.randn(2, 3, 5)
    scores = cosine_scores(features, prototypes, 20.0)
    assert scores.shape == (2, 3, 3, 4, 4) and scores.abs().max() <= 20.0001
    torch.testing.assert_close(cosine_scores(features * 7, prototypes * 0.01, 20.0), scores, rtol=1e-4, atol=1e-4)
    plain = 20 * functional.cosine_similarity(features[1], prototypes[1, 2][None, :, None, None], dim=1)
    torch.testing.assert_close(scores[1, :, 2], plain, rtol=1e-4, atol=1e-4)
    by_hand = cosine_scores(torch.tensor([3.0, 4.0]).view(1, 1, 2, 1, 1), torch.tensor([[[1.0, 0.0]]]), 20.0)
    assert by_hand.item() == pytest.approx(12.0)


def test_hard_masks_pass_no_gradient_but_the_features_under_them_do() -> None:
    features = torch.randn(1, 1, 2, 2, 2, requires_grad=True)
    scores = cosine_scores(features, torch.randn(1, 2, 2), 20.0)
    masks = hard_masks(scores)
    assert not masks.requires_grad
    assert masks.sum(2).eq(1).all()
    own = pooled_by(features, masks)
    gradient = torch.autograd.grad(own.sum(), features)[0]
    area = masks.sum(dim=(1, 3, 4))[0]
    expected = (masks[:, :, :, None] / (area[:, None, None, None] + 1e-5)).sum(2).expand_as(features)
    torch.testing.assert_close(gradient, expected)


def test_enlargement_keeps_the_leading_sizes() -> None:
    scores = torch.randn(2, 3, 4, 5, 5)
    wide = enlarge_scores(scores, (10, 12))
    assert wide.shape == (2, 3, 4, 10, 12)
    torch.testing.assert_close(wide[1, 2], enlarge_scores(scores[1, 2][None], (10, 12))[0])
