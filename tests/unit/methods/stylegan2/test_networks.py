"""Published sizes and shapes of the StyleGAN2 networks (spec A1, A5, A6)."""

from __future__ import annotations

import pytest
import torch

from raygseg.errors import ConfigError
from raygseg.interfaces import Generator
from raygseg.methods.stylegan2.discriminator import Discriminator, minibatch_stddev
from raygseg.methods.stylegan2.generator import StyleGAN2Generator


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("resolution", "base", "total", "synthesis", "discriminator"),
    [
        (128, 16384, 24_525_213, 22_423_965, 23_882_369),
        (256, 16384, 24_767_458, 22_666_210, 24_001_089),
        (256, 32768, 30_034_338, 27_933_090, 28_864_129),
        (512, 32768, 30_276_583, 28_175_335, 28_982_849),
        (1024, 32768, 30_370_060, 28_268_812, 29_012_513),
    ],
)
def test_published_parameter_counts(resolution: int, base: int, total: int, synthesis: int, discriminator: int) -> None:
    with torch.device("meta"):
        generator = StyleGAN2Generator(resolution, channel_base=base)
        assert count(generator) == total
        assert count(generator.mapping) == 2_101_248
        assert count(generator.synthesis) == synthesis
        assert count(Discriminator(resolution, base)) == discriminator
        assert generator.num_ws == 2 * (resolution.bit_length() - 1) - 2
        assert count(StyleGAN2Generator(resolution, mapping_layers=2, channel_base=base).mapping) == 525_312


@pytest.mark.parametrize(("resolution", "dims"), [(256, 4864), (512, 4992), (1024, 5056)])
def test_hypercolumn_dimensions_of_config_f(resolution: int, dims: int) -> None:
    with torch.device("meta"):
        layers = StyleGAN2Generator(resolution).feature_layers
    assert sum(layer.channels for layer in layers if layer.resolution > 4) == dims
    assert sum(layer.channels for layer in layers) == dims + 512


@pytest.fixture(scope="module")
def small() -> StyleGAN2Generator:
    torch.manual_seed(0)
    generator = StyleGAN2Generator(16, z_dim=16, w_dim=16, mapping_layers=2, channel_base=256, channel_max=16)
    for parameter in generator.parameters():
        if parameter.ndim == 0:
            torch.nn.init.constant_(parameter, 0.3)  # noise strengths, so that noise matters
    return generator.eval()


def test_implements_the_generator_interface(small: StyleGAN2Generator) -> None:
    assert isinstance(small, Generator)


@torch.no_grad()
def test_features_and_picture_come_from_the_same_pass(small: StyleGAN2Generator) -> None:
    names = [layer.name for layer in small.feature_layers]
    assert names == ["b4.conv1", "b8.conv0", "b8.conv1", "b16.conv0", "b16.conv1"]
    rendering = small.render(small.latents([3, 5]), [3, 5], names)
    assert rendering.images.shape == (2, 3, 16, 16)
    for layer in small.feature_layers:
        assert rendering.features[layer.name].shape == (2, layer.channels, layer.resolution, layer.resolution)


@torch.no_grad()
def test_rows_depend_on_their_seed_only(small: StyleGAN2Generator) -> None:
    together = small.render(small.latents([7, 8, 9]), [7, 8, 9]).images
    for i, seed in enumerate((7, 8, 9)):
        alone = small.render(small.latents([seed]), [seed]).images
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-5)
    assert torch.equal(small.latents([8])[0], small.latents([7, 8])[1])


@torch.no_grad()
def test_noise_and_truncation(small: StyleGAN2Generator) -> None:
    ws = small.latents([1])
    constant = small.render(ws).images
    assert torch.equal(constant, small.render(ws).images)
    assert not torch.equal(constant, small.render(ws, [1]).images)
    assert not torch.equal(small.render(ws, [2]).images, small.render(ws, [1]).images)
    centre = small.mapping.w_avg.expand(1, small.num_ws, -1)
    torch.testing.assert_close(small.latents([1], 0.0), centre)
    torch.testing.assert_close(small.latents([1], 0.5), (ws + centre) / 2)


def test_w_index_of_each_layer_follows_the_table(small: StyleGAN2Generator) -> None:
    """Changing w_j may change nothing before its first layer (spec A5: toRGB shares with the next conv0)."""
    taps = {"b4.conv1": 0, "b8.conv0": 1, "b8.conv1": 2, "b16.conv0": 3, "b16.conv1": 4}
    ws = small.latents([1]).contiguous()
    with torch.no_grad():
        reference = small.render(ws, layers=list(taps)).features
        for j in range(small.num_ws):
            changed = ws.clone()
            changed[:, j] += 1.0
            features = small.render(changed, layers=list(taps)).features
            for name, first in taps.items():
                assert torch.equal(features[name], reference[name]) == (first < j), (name, j)


def test_minibatch_stddev_on_strided_groups() -> None:
    x = torch.zeros(4, 1, 2, 2)
    x[0], x[2] = 1.0, 3.0  # group of samples 0 and 2: deviation 1; samples 1 and 3 are equal: about 0
    appended = minibatch_stddev(x, 2)[:, 1, 0, 0]
    torch.testing.assert_close(appended, torch.tensor([1.0, 1e-4, 1.0, 1e-4]), rtol=1e-3, atol=1e-6)


def test_resolution_must_be_a_power_of_two() -> None:
    with pytest.raises(ConfigError, match="power of two"):
        StyleGAN2Generator(48)
