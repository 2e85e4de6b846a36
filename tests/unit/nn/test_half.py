"""fp16 stays in range where it would overflow, and says what fp32 says where it would not."""

from __future__ import annotations

import pytest
import torch

from raygseg.methods.stylegan2.discriminator import Discriminator
from raygseg.methods.stylegan2.generator import StyleGAN2Generator
from raygseg.nn.half import dtype_at
from raygseg.nn.modulation import StyledConv, demodulation

HALF, FULL = torch.float16, torch.float32


@pytest.mark.parametrize(
    ("largest", "lowest"),
    [(256, 32), (1024, 128), (64, 8), (32, 8)],  # spec A8: r >= max(2^(log2 R + 1 - 4), 8)
)
def test_the_four_largest_resolutions_work_in_half(largest: int, lowest: int) -> None:
    resolutions = [2**i for i in range(2, 11) if 2**i <= largest]
    assert [r for r in resolutions if dtype_at(r, largest, HALF) == HALF] == [r for r in resolutions if r >= lowest]
    assert {dtype_at(r, largest, torch.bfloat16) for r in resolutions} == {torch.bfloat16}


def test_scaling_before_changes_nothing_that_demodulation_sees() -> None:
    from raygseg.nn import half

    torch.manual_seed(0)
    weight, styles = torch.randn(5, 7, 3, 3), torch.randn(2, 7) * 300
    lesser, calm = half.small(weight, styles)
    assert torch.allclose(
        lesser[None] * calm[:, None, :, None, None] * demodulation(lesser, calm)[:, :, None, None, None],
        weight[None] * styles[:, None, :, None, None] * demodulation(weight, styles)[:, :, None, None, None],
        rtol=1e-4,
        atol=1e-6,
    )
    assert float(calm.abs().max()) == 1.0


def test_large_styles_do_not_overflow() -> None:
    torch.manual_seed(0)
    layer = StyledConv(64, 8, 16, 8)
    x, w = torch.randn(2, 64, 8, 8) * 100, torch.randn(2, 16) * 400
    expected = layer(x, w, None).clamp(-256, 256)
    unscaled = torch.nn.functional.conv2d((x * layer.affine(w)[:, :, None, None]).to(HALF), layer.weight.to(HALF))
    assert not unscaled.isfinite().all()
    assert (layer(x.to(HALF), w, None).float() - expected).abs().max() < 1.0


def test_networks_in_half_are_near_those_in_full() -> None:
    torch.manual_seed(0)
    generator, judge = StyleGAN2Generator(64, 32, 32, 2, 1024, 32), Discriminator(64, 1024, 32)
    ws = generator.latents([0, 1, 2, 3])
    full = generator.synthesis(ws, layers=["b4.conv1", "b64.conv1"])
    part = generator.synthesis(ws, layers=["b4.conv1", "b64.conv1"], dtype=HALF)
    assert part.features["b4.conv1"].dtype == FULL and part.features["b64.conv1"].dtype == HALF
    assert part.images.dtype == FULL
    assert (part.images - full.images).norm() / full.images.norm() < 5e-3
    logits = judge(full.images), judge(full.images, HALF)
    assert logits[1].dtype == FULL
    assert (logits[1] - logits[0]).abs().max() < 0.02 * logits[0].abs().max().clamp_min(1)


def test_what_leaves_the_range_is_clamped_and_has_gradients() -> None:
    torch.manual_seed(0)
    judge = Discriminator(64, 1024, 32)
    with torch.no_grad():
        judge.from_image.weight.mul_(3e4)
    logits = judge(torch.rand(4, 3, 64, 64), HALF)
    assert logits.isfinite().all()
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in judge.parameters())
