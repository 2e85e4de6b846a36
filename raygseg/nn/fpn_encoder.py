"""A feature-pyramid encoder from a picture to W+ codes (SemanticGAN spec B6).

A ResNet-50-shaped trunk, trained from scratch, gives maps c2 .. c5; a top-down pyramid of three levels p4, p3, p2
follows, and one head a code reads the coarse codes (w0 - w2) from p4, the middle ones (w3 - w6) from p3 and the
rest from p2. Every head halves its level's map until one pixel is left, so the sizes follow from the picture's:
the released form flattens a fixed count and is silently wrong off 256 px (B11-10). Norms are group norms, which
have no running statistics that could be left behind in the wrong mode (B11-1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raygseg.errors import ConfigError
from raygseg.nn.layers import EqualLinear

Norm = Literal["group", "batch"]
Heads = Literal["separate", "shared"]
EXPANSION = 4  # channels of a bottleneck's output over those inside
COARSE, MIDDLE = 3, 4  # codes read from p4 and from p3; the others come from p2
GROUPS = 32
FIRST_SPREAD = 0.1  # of the heads before training: codes begin near the mean


def normalisation(kind: Norm, channels: int) -> nn.Module:
    """Group norm of at most 32 groups, or batch norm.

    A group has 8 channels or more, so that something is left of a map of one pixel.
    """
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    groups = next(g for g in range(min(GROUPS, max(channels // 8, 1)), 0, -1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 convolutions beside a shortcut; the middle one has the stride."""

    def __init__(self, in_channels: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        out = width * EXPANSION
        self.inside = nn.Sequential(
            nn.Conv2d(in_channels, width, 1, bias=False), normalisation(norm, width), nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride, 1, bias=False), normalisation(norm, width), nn.ReLU(inplace=True),
            nn.Conv2d(width, out, 1, bias=False), normalisation(norm, out),
        )  # fmt: skip
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(in_channels, out, 1, stride, bias=False), normalisation(norm, out))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.inside(x) + self.shortcut(x))


class Trunk(nn.Module):
    """Pictures to [c2, c3, c4, c5], each half as large as the one before; c2 is `stem_stride` times smaller.

    Stride 4 is the published stem (7 x 7 of stride 2, then max-pooling), 2 leaves the pooling away and 1 is a
    3 x 3 convolution at full size, for pictures of 32 or 64 px.
    """

    def __init__(self, in_channels: int, width: int, blocks: Sequence[int], stem_stride: int, norm: Norm) -> None:
        super().__init__()
        kernel, stride = (3, 1) if stem_stride == 1 else (7, 2)
        stem: list[nn.Module] = [
            nn.Conv2d(in_channels, width, kernel, stride, kernel // 2, bias=False),
            normalisation(norm, width),
            nn.ReLU(inplace=True),
        ]
        if stem_stride == 4:
            stem.append(nn.MaxPool2d(3, 2, 1))
        self.stem = nn.Sequential(*stem)
        stages, channels = [], width
        for level, count in enumerate(blocks):
            inner = width << level
            first = Bottleneck(channels, inner, 2 if level else 1, norm)
            rest = [Bottleneck(inner * EXPANSION, inner, 1, norm) for _ in range(count - 1)]
            stages.append(nn.Sequential(first, *rest))
            channels = inner * EXPANSION
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Tensor) -> list[Tensor]:
        x, maps = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class Pyramid(nn.Module):
    """Top-down sums of laterals, smoothed: [c2, c3, c4, c5] -> [p4, p3, p2], all of one width."""

    def __init__(self, in_channels: Sequence[int], channels: int) -> None:
        super().__init__()
        *below, top = in_channels
        self.top = nn.Conv2d(top, channels, 1)
        self.laterals = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in reversed(below))
        self.smooth = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in below)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        *below, top = maps
        x, levels = self.top(top), []
        for lateral, smooth, map_ in zip(self.laterals, self.smooth, reversed(below), strict=True):
            x = F.interpolate(x, size=map_.shape[-2:], mode="bilinear", align_corners=False) + lateral(map_)
            levels.append(smooth(x))
        return levels


def halvings(channels: int, side: int) -> nn.Sequential:
    """Convolutions of stride 2 until one pixel is left of a map of `side` px; [N, C, s, s] -> [N, C]."""
    layers: list[nn.Module] = []
    while side > 1:
        layers += [nn.Conv2d(channels, channels, 3, 2, 1), nn.LeakyReLU(inplace=True)]
        side = (side + 1) // 2
    return nn.Sequential(*layers, nn.Flatten())


class FPNEncoder(nn.Module):
    """Pictures [N, C, R, R] in [-1, 1] -> codes [N, num_ws, w_dim].

    Args:
        resolution: R, a power of two of at least 8 * stem_stride.
        num_ws, w_dim: of the generator; at least 8 codes.
        image_channels: 3 or 1.
        width: channels of the first stage; 64 is ResNet-50's.
        blocks: bottlenecks in each of the four stages.
        channels: of the pyramid and the heads.
        stem_stride: 4, 2 or 1, see `Trunk`.
        heads: a head of its own for every code (published), or one stem a level with a linear layer a code.
        norm: group, or batch (published).

    Attributes:
        mean, std: [w_dim] buffers; codes are mean + std * heads. 0 and 1 make the heads' output the code itself
            (published); `start_from` sets the generator's, and the heads then learn the whitened residual.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        resolution: int,
        num_ws: int,
        w_dim: int = 512,
        image_channels: int = 3,
        width: int = 64,
        blocks: Sequence[int] = (3, 4, 6, 3),
        channels: int = 512,
        stem_stride: int = 4,
        heads: Heads = "separate",
        norm: Norm = "group",
    ) -> None:
        super().__init__()
        _check(resolution, num_ws, len(blocks), stem_stride)
        self.build: dict[str, Any] = {
            "resolution": resolution, "num_ws": num_ws, "w_dim": w_dim, "image_channels": image_channels,
            "width": width, "blocks": list(blocks), "channels": channels, "stem_stride": stem_stride,
            "heads": heads, "norm": norm,
        }  # fmt: skip
        self.resolution, self.num_ws, self.w_dim, self.image_channels = resolution, num_ws, w_dim, image_channels
        self.trunk = Trunk(image_channels, width, blocks, stem_stride, norm)
        self.pyramid = Pyramid([(width << i) * EXPANSION for i in range(4)], channels)
        self.counts = (COARSE, MIDDLE, num_ws - COARSE - MIDDLE)
        sides = [resolution // (stem_stride << i) for i in (2, 1, 0)]
        stems = [s for s, n in zip(sides, self.counts, strict=True) for _ in range(n if heads == "separate" else 1)]
        self.stems = nn.ModuleList(halvings(channels, side) for side in stems)
        self.linear = nn.ModuleList(EqualLinear(channels, w_dim) for _ in range(num_ws))
        self._initialise()
        self.register_buffer("mean", torch.zeros(w_dim))
        self.register_buffer("std", torch.ones(w_dim))

    @torch.no_grad()
    def _initialise(self) -> None:
        """Convolutions without a norm after them keep the size of what they are given (He's initialisation).

        torch's own makes each of them shrink it to a half or less; after a pyramid and three to five halvings codes
        differ by 0.4 % of their spread between pictures, and it takes some thousand steps until the heads see any.
        """
        for module in [*self.pyramid.modules(), *self.stems.modules()]:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, 0.01 if module.stride[0] > 1 else 1.0)  # slope after it; 1: none
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        for parameter in self.linear.parameters():
            parameter.mul_(FIRST_SPREAD)

    def start_from(self, mean: Tensor, std: Tensor) -> None:
        """Let the heads learn what differs from the mean w, in units of its spread; both [w_dim]."""
        self.mean.copy_(mean)
        self.std.copy_(std)

    def forward(self, images: Tensor) -> Tensor:
        expected = (self.image_channels, self.resolution, self.resolution)
        assert images.shape[1:] == expected, f"pictures {tuple(images.shape)}, the encoder was built for {expected}"
        levels = self.pyramid(self.trunk(images))
        ends: list[Tensor] = []
        stems = iter(self.stems)
        for level, count in zip(levels, self.counts, strict=True):
            own = len(self.stems) == self.num_ws
            ends += [next(stems)(level) for _ in range(count)] if own else [next(stems)(level)] * count
        codes = torch.stack([linear(end) for linear, end in zip(self.linear, ends, strict=True)], dim=1)
        return self.mean + self.std * codes


def _check(resolution: int, num_ws: int, stages: int, stem_stride: int) -> None:
    if stem_stride not in (1, 2, 4):
        raise ConfigError(f"stem_stride: {stem_stride} is not one of 1, 2, 4", "use 4; 1 or 2 for small pictures")
    if stages != 4:
        raise ConfigError(f"blocks: {stages} stages, the pyramid needs 4", "give four numbers, e.g. [3, 4, 6, 3]")
    if resolution & (resolution - 1) or resolution < 8 * stem_stride:
        raise ConfigError(
            f"the encoder cannot see {resolution} px with stem_stride {stem_stride}",
            f"use a power of two of at least {8 * stem_stride}, or a smaller stem_stride",
        )
    if num_ws <= COARSE + MIDDLE:
        raise ConfigError(f"the encoder gives at least 8 codes, the generator takes {num_ws}", "use 32 px or more")
