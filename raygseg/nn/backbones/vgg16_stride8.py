"""VGG-16 with a dense last map, as PANet reads it (Wang et al. 2019; PANet spec 1.2).

The same weights as `vgg16.py`. Pools are 3x3 with a border of 1, the fourth one without a stride, the
fifth block is dilated by 2: stride 8. The last convolution has no ReLU, so that features have both signs, which a
cosine needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raygseg.nn.backbones.parted import PartedEncoder
from raygseg.nn.backbones.vgg16 import MEAN, VGG16Features, read_weights

POOL_STRIDES = (2, 2, 2, 1)


class VGG16Stride8(PartedEncoder):
    """[N, 3, H, W] in [-1, 1] -> [N, 512, ceil(H / 8), ceil(W / 8)], signed. 14,714,688 parameters.

    Args:
        precision: bf16 runs the convolutions in bfloat16; the map comes back in the pictures' precision.
    """

    title = "VGG-16, stride 8"
    channels, stride = 512, 8

    def __init__(self, precision: Literal["fp32", "bf16"] = "fp32") -> None:
        super().__init__()
        plain = VGG16Features()
        self.features, self.plan, self.precision = plain.features, plain.plan, precision
        for name in self.plan[-1]:
            convolution = self.features[name]
            assert isinstance(convolution, nn.Conv2d)
            convolution.dilation = convolution.padding = (2, 2)
        for convolution in self.features.values():
            assert isinstance(convolution, nn.Conv2d)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        self.mean: Tensor
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)

    @property
    def parts(self) -> list[nn.Module]:
        """The blocks."""
        return [nn.ModuleList(self.features[name] for name in names) for names in self.plan]

    def seen(self, images: Tensor) -> Tensor:
        return (images + 1) * 127.5 - self.mean

    def part(self, x: Tensor, place: int) -> Tensor:
        names = self.plan[place]
        x = F.max_pool2d(x, 3, POOL_STRIDES[place - 1], 1) if place else x
        for name in names:
            x = self.features[name](x)
            last = place == len(self.plan) - 1 and name == names[-1]
            x = x if last else F.relu(x, inplace=True)
        return x


def load_vgg16_stride8(path: str | Path, precision: Literal["fp32", "bf16"] = "fp32") -> VGG16Stride8:
    """Read the weights file; nothing is frozen. MissingEnvironmentError or CheckpointError name the file."""
    network = VGG16Stride8(precision)
    read_weights(network, path)
    return network
