from __future__ import annotations

import torch
import torch.nn.functional as F

from raygseg.nn.unit_distance import unit_square_distance

FLOOR = 1e-6


def textbook(maps: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (F.normalize(maps, dim=1, eps=FLOOR) - target).square().sum(1, keepdim=True)


def drawn() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Maps with a dead pixel each, as after a ReLU, unit targets, and weights of the pixels."""
    draw = torch.Generator().manual_seed(0)
    maps, other = (torch.randn(2, 5, 3, 4, dtype=torch.float64, generator=draw) for _ in range(2))
    maps[0, :, 1, 1] = 0
    maps[1, :, 0, 0] *= 1e-9
    other[1, :, 2, 2] = 0
    return maps, F.normalize(other, dim=1, eps=FLOOR), torch.rand(2, 1, 3, 4, dtype=torch.float64, generator=draw)


def test_values_and_gradients_are_those_of_the_normalised_difference() -> None:
    maps, target, weight = drawn()
    found = []
    for distance in (textbook, lambda a, b: unit_square_distance(a, b, FLOOR)):
        leaf = maps.clone().requires_grad_()
        values = distance(leaf, target)
        (values * weight).sum().backward()
        assert leaf.grad is not None
        found.append((values.detach(), leaf.grad))
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-12)


def test_equal_directions_are_no_distance_apart() -> None:
    _, target, _ = drawn()
    values = unit_square_distance(7 * target.float(), target.float(), FLOOR)
    assert values.min() >= 0 and values.max() < 1e-6
