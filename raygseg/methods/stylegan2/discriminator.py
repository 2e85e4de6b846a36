"""StyleGAN2 residual discriminator (spec A6)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from raygseg.methods.stylegan2.generator import channels_at, check_resolution
from raygseg.nn.half import dtype_at
from raygseg.nn.layers import EqualConv, EqualLinear, recomputed

SQRT_HALF = math.sqrt(0.5)


def minibatch_stddev(x: Tensor, group_size: int) -> Tensor:
    """Append one channel: the mean standard deviation over groups of samples j, j + N/G, ... (spec A6).

    N must be a multiple of min(group_size, N).
    """
    n, _, h, w = x.shape
    group = min(group_size, n)
    assert n % group == 0, f"batch {n} is not a multiple of the stddev group {group}"
    y = x.reshape(group, n // group, -1)
    y = y - y.mean(dim=0)
    deviation = (y.square().mean(dim=0) + 1e-8).sqrt().mean(dim=1)
    channel = deviation.repeat(group).reshape(n, 1, 1, 1).expand(n, 1, h, w)
    return torch.cat([x, channel], dim=1)


class ResidualBlock(nn.Module):
    """3x3, 3x3 down; 1x1 down skip; both branches times sqrt(0.5)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv0 = EqualConv(in_channels, in_channels, 3)
        self.conv1 = EqualConv(in_channels, out_channels, 3, down=True)
        self.skip = EqualConv(in_channels, out_channels, 1, down=True, bias=False, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        skip: Tensor = self.skip(x, gain=SQRT_HALF)
        main: Tensor = self.conv1(self.conv0(x), gain=SQRT_HALF)
        return main + skip


class Discriminator(nn.Module):
    """Pictures [N, C, R, R] in [-1, 1] -> logits [N, 1]; the 4 x 4 epilogue is always fp32.

    Attributes:
        recompute_from: as in `generator.Synthesis`.
    """

    def __init__(
        self,
        resolution: int,
        channel_base: int = 32768,
        channel_max: int = 512,
        mbstd_group: int = 4,
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        log2 = check_resolution(resolution)
        widths = {2**i: channels_at(2**i, channel_base, channel_max) for i in range(log2, 1, -1)}
        self.from_image = EqualConv(image_channels, widths[resolution], 1)
        self.blocks = nn.ModuleList(ResidualBlock(widths[r], widths[r // 2]) for r in list(widths)[:-1])
        self.mbstd_group, self.recompute_from = mbstd_group, 0
        self.conv = EqualConv(widths[4] + 1, widths[4], 3)
        self.dense = EqualLinear(widths[4] * 16, widths[4], activate=True)
        self.out = EqualLinear(widths[4], 1)

    def forward(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        largest = images.shape[2]
        x = self.from_image(images.to(dtype_at(largest, largest, dtype)).contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            x = x.to(dtype_at(x.shape[2], largest, dtype))
            x = recomputed(block, x) if 0 < self.recompute_from <= x.shape[2] else block(x)
        x = self.conv(minibatch_stddev(x.float().contiguous(), self.mbstd_group))
        logits: Tensor = self.out(self.dense(x.flatten(1)))
        return logits
