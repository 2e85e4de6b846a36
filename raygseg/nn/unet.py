"""A U-Net: the student that needs no generator at inference (RepurposeGAN spec 1.7).

It differs from the classic 64-128-256-512-1024 network in three ways, each for a reason:

* GroupNorm, not BatchNorm: a picture's output does not depend on its neighbours in the batch, so that
  two workers with a micro-batch each equal one that accumulates both, and so that micro-batches of
  one or two pictures train as well as large ones.
* Widths stop growing at 8 times the first level's: most pixels of a part are decided at the finer
  levels, and the wide end would only slow it down on a CPU.
* Maps are narrowed by a 1x1 convolution before they are enlarged; the two commute, and the multiply
  is then paid at the smaller grid.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from raygseg.nn.group_norm import GroupNorm

LARGEST_MULTIPLE = 8
NORM_GROUPS = 8


class DoubleConv(nn.Sequential):
    """Two 3x3 convolutions, each followed by GroupNorm and ReLU. [N, in, H, W] -> [N, out, H, W]."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        groups = math.gcd(NORM_GROUPS, out_channels)
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            GroupNorm(groups, out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            GroupNorm(groups, out_channels),
            nn.ReLU(inplace=True),
        )


class UpBlock(nn.Module):
    """Narrow, enlarge bilinearly to the skip's size, join with the skip, convolve."""

    def __init__(self, deep_channels: int, skip_channels: int) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(deep_channels, skip_channels, 1)
        self.convs = DoubleConv(2 * skip_channels, skip_channels)

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        enlarged = functional.interpolate(self.narrow(deep), size=skip.shape[-2:], mode="bilinear", align_corners=False)
        out: Tensor = self.convs(torch.cat([skip, enlarged], dim=1))
        return out


class UNet(nn.Module):
    """Per-pixel class scores. [N, in_channels, H, W] in [-1, 1] -> logits [N, num_classes, H, W].

    Any H and W are taken: sizes that 2^depth does not divide are padded by repeating the border, and
    the answer is cropped back.

    Args:
        in_channels: channels of the picture.
        num_classes: K.
        width: channels of the first level; level i has min(width * 2^i, 8 * width).
        depth: number of halvings.
    """

    def __init__(self, in_channels: int = 3, num_classes: int = 2, width: int = 32, depth: int = 4) -> None:
        super().__init__()
        self.depth = depth
        widths = level_widths(width, depth)
        self.stem = DoubleConv(in_channels, widths[0])
        self.down = nn.ModuleList(DoubleConv(widths[i], widths[i + 1]) for i in range(depth))
        self.up = nn.ModuleList(UpBlock(widths[i + 1], widths[i]) for i in reversed(range(depth)))
        self.classify = nn.Conv2d(widths[0], num_classes, 1)

    @property
    def build(self) -> dict[str, Any]:
        """What `UNet(**build)` rebuilds a network for colour pictures from; JSON values only."""
        return {
            "num_classes": self.classify.out_channels,
            "width": self.classify.in_channels,
            "depth": self.depth,
        }

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        x = pad_border(images, 2**self.depth).contiguous(memory_format=torch.channels_last)
        maps = [self.stem(x)]
        for block in self.down:
            maps.append(block(functional.max_pool2d(maps[-1], 2)))
        x = maps.pop()
        for block in self.up:
            x = block(x, maps.pop())
        logits: Tensor = self.classify(x)
        return logits[..., :height, :width]


def level_widths(width: int, depth: int) -> list[int]:
    """Channels of levels 0 to `depth`."""
    return [width * min(2**i, LARGEST_MULTIPLE) for i in range(depth + 1)]


def pad_border(images: Tensor, step: int) -> Tensor:
    """Repeat the lower and right border up to the next multiple of `step`."""
    bottom, right = -images.shape[-2] % step, -images.shape[-1] % step
    if not (bottom or right):
        return images
    return functional.pad(images, (0, right, 0, bottom), mode="replicate")
