"""The two losses: against the plain form of the spec, and what must pass no gradient and what must cost nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from raygseg.methods.panet.losses import alignment_loss, segmentation_loss, support_targets
from raygseg.nn.masked_prototypes import class_prototypes, cosine_scores, enlarge_scores, masked_average

SCALE = 20.0


def episode(ways: int = 2, shots: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Support maps [1, W, K, C, 5, 5], fore and back [1, W, K, 20, 20], query maps [1, 2, C, 5, 5]."""
    rng = torch.Generator().manual_seed(seed)
    maps = torch.randn(1, ways, shots, 6, 5, 5, generator=rng)
    fore = torch.rand(1, ways, shots, 20, 20, generator=rng) > 0.6
    back = ~fore & (torch.rand(1, ways, shots, 20, 20, generator=rng) > 0.3)
    return maps, fore, back, torch.randn(1, 2, 6, 5, 5, generator=rng)


def scores_of(maps: Tensor, fore: Tensor, back: Tensor, query: Tensor) -> Tensor:
    prototypes = class_prototypes(masked_average(maps, fore), masked_average(maps, back))
    return cosine_scores(query, prototypes, SCALE)


def plain_alignment(query: Tensor, scores: Tensor, maps: Tensor, fore: Tensor, back: Tensor) -> Tensor:
    """Spec 1.5 step by step, with loops, of one episode without the leading size."""
    ways, shots = maps.shape[:2]
    guess = scores.argmax(1)
    own = [(query * (guess == j)[:, None]).sum((0, 2, 3)) / ((guess == j).sum() + 1e-5) for j in range(ways + 1)]
    total = torch.zeros(())
    for c in range(ways):
        if not (guess == c + 1).any():
            continue
        for k in range(shots):
            pair = [SCALE * functional.cosine_similarity(maps[c, k], own[j][:, None, None], dim=0) for j in (0, c + 1)]
            wide = functional.interpolate(torch.stack(pair)[None], size=(20, 20), mode="bilinear")
            target = torch.full((20, 20), 255)
            target[fore[c, k]] = 1
            target[back[c, k]] = 0
            total = total + functional.cross_entropy(wide, target[None], ignore_index=255)
    return total / (ways * shots)


@pytest.mark.parametrize(("ways", "shots"), [(1, 1), (1, 5), (3, 2)])
def test_alignment_is_the_spec_step_by_step(ways: int, shots: int) -> None:
    cases = [episode(ways, shots, seed) for seed in (0, 1)]
    plain = []
    for maps, fore, back, query in cases:
        scores = scores_of(maps, fore, back, query)
        plain.append(plain_alignment(query[0], scores[0], maps[0], fore[0], back[0]))
    maps, fore, back, query = (torch.cat(parts) for parts in zip(*cases, strict=True))
    both = alignment_loss(query, scores_of(maps, fore, back, query), maps, fore, back, SCALE)
    assert both.item() == pytest.approx(float(sum(plain)) / 2, rel=1e-4)


def test_no_gradient_through_the_prediction() -> None:
    """With the hard mask cut off, the loss must not know which scores made it."""
    maps, fore, back, query = episode()
    query.requires_grad_(True)
    scores = scores_of(maps, fore, back, query.detach()).requires_grad_(True)
    loss = alignment_loss(query, scores, maps, fore, back, SCALE)
    gradient, through = torch.autograd.grad(loss, (query, scores), allow_unused=True)
    assert through is None
    assert gradient.abs().sum() > 0


def test_a_way_that_is_predicted_nowhere_adds_nothing() -> None:
    maps, fore, back, query = episode(ways=2)
    maps.requires_grad_(True)
    scores = torch.zeros(1, 2, 3, 5, 5)
    scores[:, :, 0] = 1.0
    scores[:, :, 1, :2] = 2.0  # way 1 here and there, way 2 nowhere
    loss = alignment_loss(query, scores, maps, fore, back, SCALE)
    gradient = torch.autograd.grad(loss, maps)[0]
    assert gradient[:, 0].abs().sum() > 0
    assert gradient[:, 1].abs().sum() == 0
    scores[:, :, 1] = -1.0
    assert alignment_loss(query, scores, maps, fore, back, SCALE).item() == 0.0


def test_a_query_that_is_the_support_is_found_and_aligned() -> None:
    """Two directions, a background and an object: IoU 1, and both losses near the floor of a cosine of 20."""
    labels = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    labels[..., 4:12, 4:12] = 1
    maps = torch.stack([labels[0, 0] == 0, labels[0, 0] == 1]).float()[None, None, None]  # stride 1
    fore, back = labels[:, None] == 1, labels[:, None] == 0
    query = maps[:, 0]
    scores = scores_of(maps, fore, back, query)
    logits = enlarge_scores(scores, (16, 16))
    assert torch.equal(logits.argmax(2).to(torch.uint8), labels)
    first = segmentation_loss(logits, labels)
    second = alignment_loss(query, scores, maps, fore, back, SCALE)
    assert first.item() == pytest.approx(math.log(1 + math.exp(-20)), abs=1e-6)
    assert second.item() == pytest.approx(first.item(), abs=1e-6)


def test_void_costs_nothing_and_episodes_weigh_alike() -> None:
    logits = torch.randn(2, 1, 2, 8, 8)
    labels = torch.randint(0, 2, (2, 1, 8, 8)).to(torch.uint8)
    whole = segmentation_loss(logits, labels)
    padded = functional.pad(logits, (0, 3, 2, 0), value=5.0)
    around = functional.pad(labels, (0, 3, 2, 0), value=255)
    torch.testing.assert_close(segmentation_loss(padded, around), whole)
    torch.testing.assert_close(segmentation_loss(logits.flip(-1), labels.flip(-1)), whole)
    labels[1, :, :7] = 255  # few pixels, but an episode like the other
    each = [segmentation_loss(logits[i : i + 1], labels[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(segmentation_loss(logits, labels), (each[0] + each[1]) / 2)
    assert segmentation_loss(logits, torch.full_like(labels, 255)).item() == 0.0


def test_targets_of_the_support() -> None:
    fore, back = torch.tensor([1, 0, 0, 1]), torch.tensor([0, 1, 0, 1])
    assert support_targets(fore, back).tolist() == [1, 0, 255, 0]
