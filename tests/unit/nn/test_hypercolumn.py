"""The fused projection equals the explicit stack, forwards and backwards (spec 1.3, 5.2)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from raygseg.interfaces import FeatureLayer
from raygseg.nn.hypercolumn import FusedHypercolumn, channel_statistics


def config_f_layers(resolution: int, multiplier: int) -> list[FeatureLayer]:
    """The two convolutions at every resolution from 8, at StyleGAN2 config-f widths (spec 1.2)."""
    narrow = {64: 256 * multiplier, 128: 128 * multiplier, 256: 64 * multiplier}
    narrow |= {512: 32 * multiplier, 1024: 16 * multiplier}
    grids = [2**i for i in range(3, resolution.bit_length())]
    return [FeatureLayer(f"b{r}.conv{i}", narrow.get(r, 512), r) for r in grids for i in (0, 1)]


def explicit(fused: FusedHypercolumn, features: dict[str, Tensor]) -> Tensor:
    """Oracle: resize every map, stack all channels, standardise, convolve 1x1."""
    size = fused.resolution
    stack = []
    for layer in fused.layers:
        maps = features[layer.name].float()
        if layer.resolution > size:
            maps = functional.interpolate(maps, size=size, mode="area")
        elif layer.resolution < size:
            maps = functional.interpolate(maps, size=size, mode="bilinear", align_corners=fused.corners)
        stack.append(maps)
    column = torch.cat(stack, dim=1)
    column = (column - fused.mean[:, None, None]) * fused.inverse_std[:, None, None]
    return functional.conv2d(column, fused.weight[:, :, None, None], fused.bias)


def random_maps(layers: list[FeatureLayer], batch: int = 2) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(1)
    return {x.name: 0.3 + torch.randn(batch, x.channels, x.resolution, x.resolution, generator=rng) for x in layers}


LAYERS = [
    FeatureLayer("a", 24, 4),
    FeatureLayer("b", 24, 8),
    FeatureLayer("b.1", 12, 8),
    FeatureLayer("c", 8, 16),
    FeatureLayer("d", 6, 32),
]


@pytest.fixture
def fused() -> FusedHypercolumn:
    torch.manual_seed(0)
    module = FusedHypercolumn(LAYERS, width=16, resolution=16)
    torch.nn.init.normal_(module.bias)
    return module


def test_equals_the_explicit_stack_with_maps_above_at_and_below_its_grid(fused: FusedHypercolumn) -> None:
    features = random_maps(LAYERS)
    assert torch.allclose(fused(features), explicit(fused, features), atol=1e-4)


@pytest.mark.parametrize("resolution", [64, 24])
def test_equals_the_explicit_stack_where_no_layer_has_its_grid(resolution: int) -> None:
    torch.manual_seed(0)
    module = FusedHypercolumn(LAYERS, width=8, resolution=resolution)
    features = random_maps(LAYERS)
    assert torch.allclose(module(features), explicit(module, features), atol=1e-4)


def test_equals_the_explicit_stack_with_pixel_centres_in_place() -> None:
    torch.manual_seed(0)
    module = FusedHypercolumn(LAYERS, width=8, resolution=16, corners=False)
    features = {name: maps.requires_grad_(True) for name, maps in random_maps(LAYERS).items()}
    ours, theirs = module(features), explicit(module, features)
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert not torch.allclose(ours, FusedHypercolumn.forward(_with_corners(module), features), atol=1e-2)
    cotangent = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2))
    inputs = [*features.values(), module.weight]
    mine, other = (torch.autograd.grad(out, inputs, cotangent) for out in (ours, theirs))
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-3) for a, b in zip(mine, other, strict=True))


def _with_corners(module: FusedHypercolumn) -> FusedHypercolumn:
    other = FusedHypercolumn(module.layers, module.weight.shape[0], module.resolution)
    other.load_state_dict(module.state_dict())
    return other


def test_channels_last_maps_give_the_same(fused: FusedHypercolumn) -> None:
    features = random_maps(LAYERS)
    last = {name: maps.contiguous(memory_format=torch.channels_last) for name, maps in features.items()}
    assert torch.allclose(fused(last), explicit(fused, features), atol=1e-4)


def test_gradients_equal_those_of_the_explicit_stack(fused: FusedHypercolumn) -> None:
    features = {name: maps.requires_grad_() for name, maps in random_maps(LAYERS).items()}
    inputs = [fused.weight, fused.bias, *features.values()]
    rng = torch.Generator().manual_seed(2)
    cotangent = torch.randn(2, 16, 16, 16, generator=rng)
    ours = torch.autograd.grad(fused(features), inputs, cotangent)
    theirs = torch.autograd.grad(explicit(fused, features), inputs, cotangent)
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other, rtol=1e-4, atol=1e-3)


def test_channels_enlarged_in_chunks_are_all_there(fused: FusedHypercolumn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raygseg.nn.hypercolumn.CHUNK_BYTES", 3 * 2 * 16 * 16 * 4)  # 3 of 16 channels a time
    features = random_maps(LAYERS)
    assert torch.allclose(fused(features), explicit(fused, features), atol=1e-4)


def test_standardisation_is_folded_exactly(fused: FusedHypercolumn) -> None:
    features = random_maps(LAYERS)
    mean, std = channel_statistics([features], LAYERS)
    fused.standardise(mean, std)
    assert torch.allclose(fused(features), explicit(fused, features), atol=1e-4)
    assert mean.mean() == pytest.approx(0.3, abs=0.05)
    assert std.mean() == pytest.approx(1.0, abs=0.05)


def test_a_constant_channel_is_not_blown_up(fused: FusedHypercolumn) -> None:
    std = torch.ones(fused.in_channels)
    std[3] = 0.0
    fused.standardise(torch.zeros(fused.in_channels), std)
    assert torch.isfinite(fused.inverse_std).all()


def test_16_bit_maps_and_autocast_stay_within_two_percent(fused: FusedHypercolumn) -> None:
    features = random_maps(LAYERS)
    halves = {name: maps.bfloat16() for name, maps in features.items()}
    reference = explicit(fused, features)
    with torch.autocast("cpu", torch.bfloat16):
        out = fused(halves)
    assert out.dtype == torch.float32
    assert (out - reference).norm() / reference.norm() < 2e-2


@pytest.mark.parametrize(
    ("resolution", "multiplier", "channels"),
    [(256, 2, 4864), (512, 2, 4992), (1024, 2, 5056), (256, 1, 3968), (512, 1, 4032), (1024, 1, 4064)],
)
def test_channels_are_those_of_the_published_table(resolution: int, multiplier: int, channels: int) -> None:
    layers = config_f_layers(resolution, multiplier)
    assert FusedHypercolumn(layers, width=1, resolution=8).in_channels == channels
