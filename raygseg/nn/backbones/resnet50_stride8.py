"""ResNet-50 without its fourth stage, as few-shot baselines read it (MiningFSS, SSP; PANet spec 2.2).

A stem of three 3x3 convolutions, the third stage dilated in place of its stride (its first block keeps the
dilation of what it reads), no ReLU after the last block, and batch norms whose statistics and factors never
change. Weights are a safetensors file with torchvision's names (`layer3.5.conv2.weight`; the stem is
`conv1.0`, `conv1.1`, `conv1.3`, `conv1.4`, `conv1.6`, `bn1`), input 0..1 normalised with the ImageNet mean
and deviation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raygseg.errors import CheckpointError, MissingEnvironmentError
from raygseg.nn.backbones.parted import PartedEncoder

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 1))  # (width, blocks, stride)
EXPANSION = 4
BN_EPS = 1e-5


class FrozenBatchNorm(nn.Module):
    """A batch norm that is only its stored factors: nothing to train, the same in training and evaluation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight: Tensor
        self.bias: Tensor
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + BN_EPS).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.to(x.dtype)[:, None, None] + shift.to(x.dtype)[:, None, None]


class Bottleneck(nn.Module):
    """Narrow 1x1, 3x3, widen 1x1, each with its norm; the input is added before the last ReLU, if there is one."""

    def __init__(self, inputs: int, width: int, stride: int, dilation: int, last_relu: bool) -> None:
        super().__init__()
        outputs = width * EXPANSION
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), FrozenBatchNorm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, bias=False)
        self.bn2 = FrozenBatchNorm(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), FrozenBatchNorm(outputs)
        self.last_relu = last_relu
        self.downsample: nn.Module | None = None
        if inputs != outputs or stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), FrozenBatchNorm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x))
        return F.relu(y) if self.last_relu else y


class ResNet50Stride8(PartedEncoder):
    """[N, 3, H, W] in [-1, 1] -> [N, 1024, ceil(H / 8), ceil(W / 8)], signed. 8,636,096 parameters.

    Args:
        precision: bf16 runs the convolutions in bfloat16; the map comes back in the pictures' precision.
    """

    title = "ResNet-50 without its fourth stage, stride 8"
    channels, stride = 1024, 8

    def __init__(self, precision: Literal["fp32", "bf16"] = "fp32") -> None:
        super().__init__()
        self.precision = precision
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, 64, 3, 2, 1, bias=False), FrozenBatchNorm(64), nn.ReLU(inplace=True),
            nn.Conv2d(64, 64, 3, 1, 1, bias=False), FrozenBatchNorm(64), nn.ReLU(inplace=True),
            nn.Conv2d(64, 128, 3, 1, 1, bias=False),
        )  # fmt: skip
        self.bn1 = FrozenBatchNorm(128)
        inputs, stages = 128, []
        for place, (width, count, stride) in enumerate(STAGES):
            last = place == len(STAGES) - 1
            stage = nn.Sequential()
            for i in range(count):
                dilation = 2 if last and i else 1
                relu = not (last and i == count - 1)
                stage.append(Bottleneck(inputs, width, 1 if i else stride, dilation, relu))
                inputs = width * EXPANSION
            stages.append(stage)
        self.layer1, self.layer2, self.layer3 = stages
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    @property
    def parts(self) -> list[nn.Module]:
        """Stem and stages."""
        return [self.conv1, self.layer1, self.layer2, self.layer3]

    def seen(self, images: Tensor) -> Tensor:
        return ((images + 1) / 2 - self.mean) / self.std

    def part(self, x: Tensor, place: int) -> Tensor:
        x = self.parts[place](x)
        return x if place else F.max_pool2d(F.relu(self.bn1(x)), 3, 2, 1)


def load_resnet50_stride8(path: str | Path, precision: Literal["fp32", "bf16"] = "fp32") -> ResNet50Stride8:
    """Read the weights file; a fourth stage and a classifier in it are left out.

    Raises MissingEnvironmentError where there is no file, CheckpointError for one of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not Path(path).is_file():
        raise MissingEnvironmentError(
            f"{path}: the ResNet-50 weights are not there", "name a safetensors file as network.weights"
        )
    network = ResNet50Stride8(precision)
    names = set(network.state_dict())
    try:
        network.load_state_dict({k: v.float() for k, v in load_file(path).items() if k in names})
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: not a ResNet-50 with a stem of three convolutions ({str(error).splitlines()[0]})",
            "convert the weights to torchvision's names",
        ) from error
    return network
