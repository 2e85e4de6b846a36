"""Our GroupNorm gives the library's results and gradients, in both memory formats and precisions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from raygseg.nn.group_norm import GroupNorm


def both(shape: tuple[int, ...], groups: int, lasting: bool, dtype: torch.dtype) -> list[list[torch.Tensor]]:
    """Output and gradients (input, weight, bias) of the library's norm and of ours."""
    rng = torch.Generator().manual_seed(0)
    x, upstream = (3 * torch.randn(shape, generator=rng) + 1 for _ in range(2))
    weight, bias = torch.rand(shape[1], generator=rng) + 0.5, torch.randn(shape[1], generator=rng)
    found = []
    for kind in (nn.GroupNorm, GroupNorm):
        norm = kind(groups, shape[1])
        with torch.no_grad():
            norm.weight.copy_(weight)
            norm.bias.copy_(bias)
        memory = torch.channels_last if lasting else torch.contiguous_format
        given = x.to(dtype).contiguous(memory_format=memory).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = norm(given)
        out.backward(upstream.to(dtype).contiguous(memory_format=memory))
        assert out.is_contiguous(memory_format=memory) and out.dtype == dtype
        assert given.grad is not None and norm.weight.grad is not None and norm.bias.grad is not None
        found.append([out, given.grad, norm.weight.grad, norm.bias.grad])
    return found


@pytest.mark.parametrize("lasting", [True, False])
@pytest.mark.parametrize(("shape", "groups"), [((2, 16, 24, 20), 8), ((1, 6, 5, 7), 3), ((3, 128, 4, 4), 8)])
def test_it_equals_the_librarys(shape: tuple[int, ...], groups: int, lasting: bool) -> None:
    for theirs, ours in zip(*both(shape, groups, lasting, torch.float32), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_in_bf16_it_stays_within_a_hundredth_of_the_exact_gradient() -> None:
    exact = [found[0] for found in zip(*both((2, 16, 32, 32), 8, True, torch.float32), strict=True)]
    ours = both((2, 16, 32, 32), 8, True, torch.bfloat16)[1]
    for right, own in zip(exact, ours, strict=True):
        assert (own.float() - right).norm() < 0.01 * right.norm()


def test_state_is_the_librarys_and_inference_too() -> None:
    norm, theirs = GroupNorm(4, 8), nn.GroupNorm(4, 8)
    theirs.load_state_dict(norm.state_dict())
    with torch.no_grad():
        x = torch.randn(1, 8, 3, 3, generator=torch.Generator().manual_seed(1))
        assert torch.equal(norm(x), theirs(x))
