"""MobileStyleGAN: wavelets, exact small pictures, windows, interfaces; and the published weights where they are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from raygseg.errors import CheckpointError, ConfigError, MissingEnvironmentError
from raygseg.interfaces import Generator, NoisyGenerator
from raygseg.methods.stylegan2.mobile import (
    Framing,
    MobileGenerator,
    inverse_haar,
    load_mobile_generator,
)

WINDOW = Framing(1.42, -0.03, 0.06)
CHANNELS = (16, 16, 12, 12, 8)
SMALL: dict[str, Any] = {"channels": CHANNELS, "w_dim": 16}  # the same network, 256 px
DATA = os.environ.get("RAYGSEG_DATA", "")
WEIGHTS = Path(DATA, "weights", "face_generator_mobile.safetensors")


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    """Weights of a random network in which noise and bias matter."""
    rng = torch.Generator().manual_seed(3)
    shapes = {name: tensor.shape for name, tensor in MobileGenerator(64, **SMALL).state_dict().items()}
    made = {}
    for name, shape in shapes.items():
        fan_in = max(1, int(torch.tensor(shape[1:]).prod()))
        scale = 0.3 if name.endswith(("noise", "bias")) or fan_in == 1 else fan_in**-0.5
        made[name] = torch.randn(shape, generator=rng) * scale
    return made


def network(tensors: dict[str, torch.Tensor], resolution: int, *arguments: Any) -> MobileGenerator:
    generator = MobileGenerator(resolution, *arguments, **SMALL)
    generator.load_state_dict(tensors)
    return generator.eval().requires_grad_(False)


def haar_by_formula(x: torch.Tensor) -> torch.Tensor:
    """The rows-then-columns form of the published graph."""
    k, q = 0.70710677, x.shape[1] // 4
    low, (a, d, e) = x[:, :q], x[:, q:].unflatten(1, (q, 3)).unbind(2)

    def interleave(first: torch.Tensor, second: torch.Tensor, dim: int) -> torch.Tensor:
        return torch.stack((first, second), dim + 1).flatten(dim, dim + 1)

    left = interleave(k * (low + a), k * (low - a), 2)
    right = interleave(k * (d + e), k * (d - e), 2)
    return interleave(k * (left + right), k * (left - right), 3)


def test_inverse_haar_follows_the_published_graph() -> None:
    x = torch.randn(2, 12, 3, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(inverse_haar(x), haar_by_formula(x))
    torch.testing.assert_close(F.avg_pool2d(inverse_haar(x), 2), x[:, :3] * 0.5)


def test_it_is_a_generator_with_the_published_maps(tensors: dict[str, torch.Tensor]) -> None:
    generator = network(tensors, 64)
    assert isinstance(generator, Generator)
    names = [layer.name for layer in generator.feature_layers]
    with torch.no_grad():
        rendering = generator.render(generator.latents([5]), [5], names)
    assert rendering.images.shape == (1, 3, 64, 64)
    for layer, channels in zip(generator.feature_layers, CHANNELS, strict=True):
        assert rendering.features[layer.name].shape == (1, channels, layer.resolution, layer.resolution)


def test_small_pictures_are_area_averages_of_the_full_one(tensors: dict[str, torch.Tensor]) -> None:
    ws = network(tensors, 128).latents([0])
    with torch.no_grad():
        full = network(tensors, 256).render(ws).images
        for resolution in (128, 32):
            small = network(tensors, resolution).render(ws).images
            torch.testing.assert_close(small, F.avg_pool2d(full, 256 // resolution), atol=1e-4, rtol=1e-4)


def test_a_window_shows_what_cropping_the_whole_shows(tensors: dict[str, torch.Tensor]) -> None:
    whole, framed = network(tensors, 128), network(tensors, 64, WINDOW)
    ws = whole.latents([1])
    names = ["layers.1", "layers.3", "layers.4"]
    with torch.no_grad():
        expected, found = whole.render(ws, [4], names), framed.render(ws, [4], names)
        torch.testing.assert_close(found.images, WINDOW.crop(expected.images, 64), atol=1e-4, rtol=1e-4)
        for name in names:
            size = expected.features[name].shape[-1]
            cropped = WINDOW.crop(expected.features[name], size)
            torch.testing.assert_close(found.features[name], cropped, atol=1e-3, rtol=1e-3)


def test_latents_depend_on_their_own_seed_and_truncation(tensors: dict[str, torch.Tensor]) -> None:
    generator = network(tensors, 64)
    both = generator.latents([7, 8])
    assert both.shape == (2, 17, 16)
    assert torch.equal(both[1:], generator.latents([8]))
    assert not torch.equal(both[0], both[1])
    mean = generator.w_mean.expand(2, 17, -1)
    torch.testing.assert_close(generator.latents([7, 8], 0.0), mean)
    torch.testing.assert_close(generator.latents([7, 8], 0.5), (both + mean) / 2)


def test_noise_follows_from_its_seed(tensors: dict[str, torch.Tensor]) -> None:
    generator = network(tensors, 64)
    ws = generator.latents([0])
    with torch.no_grad():
        first, again, other = (generator.render(ws, [seed]).images for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_noise_can_be_given_as_maps(tensors: dict[str, torch.Tensor]) -> None:
    generator = network(tensors, 64, WINDOW)
    assert isinstance(generator, NoisyGenerator)
    ws, fixed = generator.latents([0, 1]), generator.fixed_noise()
    assert [m.shape[-1] for m in fixed] == [4, *(size for r in (8, 16, 32, 64, 128) for size in (r, r))]
    plain = generator.render(ws).images
    given = {i: maps.expand(2, -1, -1, -1) for i, maps in enumerate(fixed)}
    torch.testing.assert_close(generator.render(ws, noise=given).images, plain, atol=1e-4, rtol=1e-4)
    maps = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    other = generator.render(ws, noise={8: maps}).images
    assert not torch.allclose(other, plain, atol=1e-4)
    other[0].sum().backward()
    assert maps.grad is not None and maps.grad[0].abs().max() > 0 and maps.grad[1].abs().max() == 0


def test_every_modulated_step_has_its_own_w(tensors: dict[str, torch.Tensor]) -> None:
    generator = network(tensors, 32)
    ws = generator.latents([0]).requires_grad_()
    generator.render(ws).images.square().sum().backward()
    assert ws.grad is not None
    assert (ws.grad.abs().amax((0, 2)) > 0).all()


def test_bfloat16_is_close(tensors: dict[str, torch.Tensor]) -> None:
    ws = network(tensors, 64).latents([0])
    with torch.no_grad():
        exact = network(tensors, 64).render(ws).images
        rounded = network(tensors, 64, Framing(), "bf16").render(ws).images
    assert (exact - rounded).square().mean() < 1e-3 * exact.var()


def test_build_arguments_rebuild_it(tensors: dict[str, torch.Tensor]) -> None:
    generator = network(tensors, 64, WINDOW)
    again = MobileGenerator.from_build(generator.to_bundle().build)
    again.load_state_dict(dict(generator.to_bundle().tensors))
    ws = generator.latents([2])
    with torch.no_grad():
        assert torch.equal(generator.render(ws).images, again.render(ws).images)


def test_faults_name_the_file_or_the_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="300 px"):
        MobileGenerator(300)
    with pytest.raises(MissingEnvironmentError, match=r"nothing\.safetensors"):
        load_mobile_generator(tmp_path / "nothing.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"not tensors")
    with pytest.raises(CheckpointError, match=r"broken\.safetensors"):
        load_mobile_generator(tmp_path / "broken.safetensors")


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="the published face generator is not there (RAYGSEG_DATA)")
def test_the_published_weights_draw_pictures_in_range_and_their_mean_w() -> None:
    generator = load_mobile_generator(WEIGHTS, 64)
    assert [layer.channels for layer in generator.feature_layers] == [512, 512, 512, 512, 256, 128, 64]
    assert sum(t.numel() for t in generator.state_dict().values()) == 10_107_164
    ws = generator.latents(range(64))[:, 0]
    spread = ws.std(0).mean()
    assert ((ws.mean(0) - generator.w_mean).abs().mean() / spread) < 0.25  # w_mean is these weights' own mean
    with torch.no_grad():
        images = generator.render(generator.latents(range(2), 0.7)).images
    assert images.abs().max() < 1.6
    mirrored = (images - images.flip(-1)).abs().mean()  # faces are upright and nearly symmetric: ...
    turned = (images - images.flip(-2)).abs().mean()  # ... left-right far more than up-down
    assert mirrored < 0.8 * turned
