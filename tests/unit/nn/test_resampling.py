"""Resampling, modulation and equalised layers against their textbook forms (spec A2, A4)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raygseg.benchmarks.support import textbook
from raygseg.nn.layers import EqualConv, EqualLinear
from raygseg.nn.modulation import StyledConv, ToImage, conv_of_scaled, demodulation
from raygseg.nn.resampling import conv_down, conv_up, downsample, fir_kernel, upsample


def upfirdn(x: Tensor, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0), gain: float = 1.0) -> Tensor:
    """Zero-stuff, pad, convolve, decimate: the definition, one step at a time."""
    n, c, h, w = x.shape
    stuffed = x.new_zeros(n, c, h * up, w * up)
    stuffed[:, :, ::up, ::up] = x
    padded = F.pad(stuffed, (*pad, *pad))
    kernel = torch.outer(*[torch.tensor([1.0, 3.0, 3.0, 1.0])] * 2).to(x) / 64 * gain
    return F.conv2d(padded, kernel.expand(c, 1, 4, 4), groups=c)[:, :, ::down, ::down]


@pytest.fixture
def maps() -> Tensor:
    return torch.randn(2, 5, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_fir_kernel_is_the_outer_product_over_64() -> None:
    row = torch.tensor([1.0, 3.0, 3.0, 1.0])
    assert torch.equal(fir_kernel() * 64, torch.outer(row, row))


def test_upsample_equals_upfirdn(maps: Tensor) -> None:
    torch.testing.assert_close(upsample(maps), upfirdn(maps, up=2, pad=(2, 1), gain=4.0), rtol=0, atol=1e-12)


def test_downsample_equals_upfirdn(maps: Tensor) -> None:
    torch.testing.assert_close(downsample(maps), upfirdn(maps, down=2, pad=(1, 1)), rtol=0, atol=1e-12)


def test_constant_stays_constant_inside() -> None:
    ones = torch.ones(1, 1, 8, 8)
    assert torch.allclose(upsample(ones)[:, :, 1:-1, 1:-1], torch.ones(1))
    assert torch.allclose(downsample(ones)[:, :, 1:-1, 1:-1], torch.ones(1))


def test_up_and_down_convolutions_equal_their_definitions(maps: Tensor) -> None:
    weight = torch.randn(3, 5, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    stuffed = maps.new_zeros(2, 5, 15, 15)
    stuffed[:, :, ::2, ::2] = maps
    transposed = F.conv2d(stuffed, weight.flip(2, 3), padding=2)  # 2H + 1
    torch.testing.assert_close(conv_up(maps, weight), upfirdn(transposed, pad=(1, 1), gain=4.0), rtol=0, atol=1e-12)
    filtered = upfirdn(maps, pad=(2, 2))
    torch.testing.assert_close(conv_down(maps, weight), F.conv2d(filtered, weight, stride=2), rtol=0, atol=1e-12)


def fused_modulated_conv(x: Tensor, weight: Tensor, styles: Tensor, gain: float) -> Tensor:
    """Per-sample weights and one grouped convolution (spec A4, fused form)."""
    n, i, h, w = x.shape
    modulated = gain * weight[None] * styles[:, None, :, None, None]
    modulated = modulated * (modulated.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    y = F.conv2d(x.reshape(1, n * i, h, w), modulated.flatten(0, 1), padding=1, groups=n)
    return y.reshape(n, -1, h, w)


def modulated_conv(x: Tensor, weight: Tensor, styles: Tensor, up: bool = False) -> Tensor:
    return conv_of_scaled(x, weight, styles, up=up) * demodulation(weight, styles)[:, :, None, None]


@pytest.mark.parametrize("gain", [1.0, 1 / 45**0.5])
def test_modulation_without_per_sample_weights_equals_the_fused_form(gain: float) -> None:
    rng = torch.Generator().manual_seed(3)
    x = torch.randn(3, 5, 8, 8, generator=rng, requires_grad=True)
    weight = torch.randn(7, 5, 3, 3, generator=rng, requires_grad=True)
    styles = (torch.randn(3, 5, generator=rng) + 1).requires_grad_(True)
    ours, theirs = modulated_conv(x, weight, styles), fused_modulated_conv(x, weight, styles, gain)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)
    probe = torch.randn(ours.shape, generator=rng)
    for a, b in zip(
        torch.autograd.grad((ours * probe).sum(), [x, weight, styles]),
        torch.autograd.grad((theirs * probe).sum(), [x, weight, styles]),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("up", [False, True])
def test_layers_equal_their_textbook_form_up_to_second_derivatives(up: bool) -> None:
    """Folded gains, one pass for demodulation and noise, and overwriting change nothing but the rounding."""
    rng = torch.Generator().manual_seed(5)
    conv, colour = StyledConv(6, 4, 8, 16, up=up).double(), ToImage(4, 3, 8).double()
    for parameter in [*conv.parameters(), *colour.parameters()]:
        parameter.data += torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
    size = 8 if up else 16
    x = torch.randn(3, 6, size, size, generator=rng, dtype=torch.float64, requires_grad=True)
    w = torch.randn(3, 8, generator=rng, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(3, 1, 16, 16, generator=rng, dtype=torch.float64)

    def ours() -> tuple[Tensor, Tensor]:
        y = conv(x, w, noise)
        return y, colour(y, w).double()

    def theirs() -> tuple[Tensor, Tensor]:
        y = textbook.styled_conv(conv, x, w, noise)
        styles = colour.affine(w) * colour.weight_gain
        image = textbook.modulated_conv(y, colour.weight, styles, demodulate=False, up=False)
        return y, image.float().double() + colour.bias[:, None, None]

    inputs = [x, w, *conv.parameters(), *colour.parameters()]
    for a, b in zip(_two_orders(*ours(), inputs), _two_orders(*theirs(), inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def _two_orders(y: Tensor, image: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """Values, gradients of a quadratic, and gradients of the squared norm of those (as path length has)."""
    first = torch.autograd.grad(y.square().sum() + image.pow(3).mean(), inputs, create_graph=True)
    second = torch.autograd.grad(sum(g.square().mean() for g in first[:2]), inputs, allow_unused=True)  # type: ignore[arg-type]
    return [y, image, *first, *(g for g in second if g is not None)]


def test_demodulated_weights_have_unit_norm() -> None:
    weight, styles = torch.randn(4, 6, 3, 3), torch.randn(2, 6)
    modulated = weight[None] * styles[:, None, :, None, None] * demodulation(weight, styles)[:, :, None, None, None]
    torch.testing.assert_close(modulated.square().sum(dim=(2, 3, 4)), torch.ones(2, 4), rtol=1e-4, atol=1e-4)


def test_second_derivatives_are_right() -> None:
    rng = torch.Generator().manual_seed(4)
    x = torch.randn(1, 2, 4, 4, generator=rng, dtype=torch.float64, requires_grad=True)
    for function in (upsample, downsample):
        assert torch.autograd.gradgradcheck(lambda v, f=function: f(v).sin(), (x,))
    weight = torch.randn(2, 2, 3, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    styles = torch.rand(1, 2, generator=rng, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda *a: modulated_conv(*a, up=True), (x, weight, styles))


def test_equalised_layers_keep_the_variance_of_their_input() -> None:
    torch.manual_seed(0)
    x = torch.randn(4096, 64)
    assert EqualLinear(64, 256)(x).std().item() == pytest.approx(1.0, rel=0.05)
    assert EqualLinear(64, 256, lr_multiplier=0.01)(x).std().item() == pytest.approx(1.0, rel=0.05)
    maps = torch.randn(8, 16, 16, 16)
    assert EqualConv(16, 32, 3, activate=False)(maps)[:, :, 1:-1, 1:-1].std().item() == pytest.approx(1.0, rel=0.1)
