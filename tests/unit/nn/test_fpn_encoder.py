"""The feature-pyramid encoder: published sizes, codes at every resolution, and nothing that depends on a mode."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raygseg.errors import ConfigError
from raygseg.nn.fpn_encoder import FPNEncoder

SMALL: dict[str, Any] = {"w_dim": 8, "width": 4, "blocks": (1, 1, 1, 1), "channels": 8}


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def small(resolution: int = 32, num_ws: int = 8, **changes: Any) -> FPNEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FPNEncoder(resolution, num_ws, **(SMALL | changes))


def test_published_parameter_counts() -> None:
    """Spec B6 and C4.1: trunk with pyramid 32,555,584, heads 178,302,976; group norm has as many as batch norm."""
    for norm in ("group", "batch"):
        with torch.device("meta"):
            encoder = FPNEncoder(256, 14, norm=norm)  # type: ignore[arg-type]
        assert parameters(encoder.trunk) + parameters(encoder.pyramid) == 32_555_584
        assert parameters(encoder.stems) + parameters(encoder.linear) == 178_302_976
        assert parameters(encoder) == 210_858_560


def test_published_map_sizes() -> None:
    """Spec B6: at 256 px c2 .. c5 are 64, 32, 16, 8 px of 256 .. 2048 channels; p4, p3, p2 are 16, 32, 64 px."""
    with torch.device("meta"):
        encoder = FPNEncoder(256, 14)
        maps = encoder.trunk(torch.empty(1, 3, 256, 256))
        levels = encoder.pyramid(maps)
    assert [tuple(m.shape[1:]) for m in maps] == [(256, 64, 64), (512, 32, 32), (1024, 16, 16), (2048, 8, 8)]
    assert [tuple(m.shape[1:]) for m in levels] == [(512, 16, 16), (512, 32, 32), (512, 64, 64)]


@pytest.mark.parametrize("heads", ["separate", "shared"])
@pytest.mark.parametrize(("resolution", "num_ws"), [(128, 12), (256, 14), (512, 16)])
def test_codes_at_every_resolution(resolution: int, num_ws: int, heads: str) -> None:
    """Spec C4.10; the released heads give [4 N, 14, 512] at 512 px (B11-10)."""
    with torch.device("meta"):
        encoder = FPNEncoder(resolution, num_ws, heads=heads)  # type: ignore[arg-type]
        assert encoder(torch.empty(2, 3, resolution, resolution)).shape == (2, num_ws, 512)
    real = small(resolution, num_ws, heads=heads)
    assert real(torch.zeros(1, 3, resolution, resolution)).shape == (1, num_ws, 8)


def test_a_picture_of_another_size_is_refused() -> None:
    with pytest.raises(AssertionError, match="built for"):
        small()(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize("stem_stride", [1, 2, 4])
def test_small_pictures_through_a_finer_stem(stem_stride: int) -> None:
    encoder = small(stem_stride=stem_stride, image_channels=1)
    assert encoder.trunk(torch.zeros(1, 1, 32, 32))[0].shape[-1] == 32 // stem_stride
    assert encoder(torch.zeros(2, 1, 32, 32)).shape == (2, 8, 8)


def test_codes_that_are_wrong_are_refused_with_a_fix() -> None:
    for changes, words in (
        ({"stem_stride": 3}, "not one of 1, 2, 4"),
        ({"blocks": (1, 1)}, "pyramid needs 4"),
        ({"num_ws": 6}, "at least 8 codes"),
        ({"resolution": 16}, "cannot see 16 px"),
    ):
        with pytest.raises(ConfigError, match=words):
            small(**changes)  # type: ignore[arg-type]


def test_answer_does_not_depend_on_mode_or_neighbours() -> None:
    """B11-1: with batch norm it depends on both."""
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))

    def answers(encoder: FPNEncoder) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            return encoder.train()(images), encoder.eval()(images), encoder(images[:1])

    training, evaluation, alone = answers(small())
    torch.testing.assert_close(training, evaluation, rtol=0, atol=0)
    torch.testing.assert_close(evaluation[:1], alone)
    training, evaluation, _ = answers(small(norm="batch", stem_stride=1))
    assert (training - evaluation).abs().max() > 1e-4


def test_codes_start_from_the_generators_mean() -> None:
    encoder, images = small(), torch.zeros(1, 3, 32, 32)
    plain = encoder(images)
    mean, std = torch.arange(8.0), torch.full([8], 2.0)
    encoder.start_from(mean, std)
    torch.testing.assert_close(encoder(images), mean + 2 * plain)
    assert {"mean", "std"} <= encoder.state_dict().keys()


@pytest.mark.parametrize(("resolution", "stem_stride"), [(32, 1), (64, 2), (256, 4)])
def test_an_untrained_encoder_tells_pictures_apart(resolution: int, stem_stride: int) -> None:
    """Codes of different pictures differ by a few hundredths of their spread, not by thousandths."""
    encoder = small(resolution, width=16, channels=32, stem_stride=stem_stride, heads="shared", w_dim=64)
    pictures = torch.rand(16, 3, 4, 4, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        codes = encoder(nn.functional.interpolate(pictures, (resolution, resolution), mode="bilinear"))
    apart = codes.std(0).mean(1)  # by code: a level of the pyramid each
    assert float(apart.min()) > 0.01 and float(apart.max()) < 0.3
