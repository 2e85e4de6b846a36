"""EfficientNet-Lite0 features (Tan and Le 2019; Lite: no squeeze-and-excite, ReLU6) at strides 2 to 32.

The weights are one safetensors file with the names of efficientnet-lite-pytorch (`_conv_stem.weight`,
`_blocks.N._expand_conv.weight`, ...), converted there from TensorFlow: convolutions are padded as
TensorFlow pads, more on the right and below where the padding is odd, and the batch norms' epsilon is
1e-3. Pictures are normalised with the ImageNet mean and deviation.

At 224 px all five strides take 0.36 G multiplications a picture, VGG-16's five blocks 15.3 G.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from raygseg.errors import CheckpointError, ConfigError, MissingEnvironmentError
from raygseg.interfaces import FeatureLayer

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BN_EPS = 1e-3
STEM = 32
# (repeats, kernel, stride of the first, expansion, channels)
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
TAPS = (0, 2, 4, 10, 15)  # the last block at each stride
CHANNELS = (16, 24, 40, 112, 320)


def pad_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """[N, C, H, W] padded with zeros so that a convolution gives ceil(H / stride), the odd one right and below."""
    bottom, right = (max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[-2:])
    if not (bottom or right):
        return x
    return F.pad(x, (right // 2, right - right // 2, bottom // 2, bottom - bottom // 2))


class SameConv2d(nn.Conv2d):
    """A convolution without bias that pads as TensorFlow's SAME does for the size it is given."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        # Where the padding is even, which at stride 1 it is, the convolution pads by itself.
        super().__init__(inputs, outputs, kernel, stride, kernel // 2 * (stride == 1), groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        padded = pad_same(input, self.kernel_size[0], self.stride[0]) if self.stride[0] > 1 else input
        return F.conv2d(padded, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class InvertedResidual(nn.Module):
    """Widen 1x1, depthwise, narrow 1x1; the input is added where the shape stays."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = inputs * expansion
        if expansion > 1:
            self._expand_conv, self._bn0 = SameConv2d(inputs, middle, 1), nn.BatchNorm2d(middle, BN_EPS)
        self.widens, self.adds = expansion > 1, stride == 1 and inputs == outputs
        self._depthwise_conv = SameConv2d(middle, middle, kernel, stride, groups=middle)
        self._bn1 = nn.BatchNorm2d(middle, BN_EPS)
        self._project_conv, self._bn2 = SameConv2d(middle, outputs, 1), nn.BatchNorm2d(outputs, BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        wide = F.relu6(self._bn0(self._expand_conv(x))) if self.widens else x
        wide = F.relu6(self._bn1(self._depthwise_conv(wide)))
        narrow: Tensor = self._bn2(self._project_conv(wide))
        return narrow + x if self.adds else narrow


class EfficientNetLite0Features(nn.Module):
    """Maps `stride2` .. `stride32` (16, 24, 40, 112, 320 channels) of a picture in [-1, 1].

    The batch norms always use their stored statistics, also while the network is fine-tuned: a
    picture's maps do not depend on the batch. Maps are those before the next block's expansion, so
    they have no activation and both signs.

    Args:
        depth: the number of strides kept, 1 to 5.
        resolution: picture size that `feature_layers` states the map sizes for.
        precision: bf16 runs the convolutions in bfloat16.
    """

    title = "EfficientNet-Lite0"

    def __init__(self, depth: int = 5, resolution: int = 224, precision: Literal["fp32", "bf16"] = "fp32") -> None:
        super().__init__()
        if not 1 <= depth <= len(TAPS):
            raise ConfigError(f"EfficientNet-Lite0 has 5 strides, not {depth}", "give a depth from 1 to 5")
        self.precision = precision
        self._conv_stem, self._bn0 = SameConv2d(3, STEM, 3, 2), nn.BatchNorm2d(STEM, BN_EPS)
        self._blocks = nn.ModuleList()
        inputs = STEM
        for repeats, kernel, stride, expansion, channels in STAGES:
            for i in range(repeats):
                if len(self._blocks) <= TAPS[depth - 1]:
                    self._blocks.append(InvertedResidual(inputs, channels, kernel, 1 if i else stride, expansion))
                inputs = channels
        self.feature_layers = tuple(
            FeatureLayer(f"stride{2 << i}", CHANNELS[i], -(-resolution // (2 << i))) for i in range(depth)
        )
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)
        self.eval()

    def train(self, mode: bool = True) -> EfficientNetLite0Features:
        """As of any module, but the batch norms stay with their stored statistics."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.training = False
        return self

    def forward(self, images: Tensor, layers: Sequence[str] = ()) -> dict[str, Tensor]:
        """[N, 3, H, W] in [-1, 1] -> maps [N, C, ceil(H / s), ceil(W / s)] of `stride s`; all by default."""
        wanted = tuple(layers) or tuple(layer.name for layer in self.feature_layers)
        maps: dict[str, Tensor] = {}
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            x = (((images + 1) / 2 - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
            x = F.relu6(self._bn0(self._conv_stem(x)))
            for i, block in enumerate(self._blocks):
                x = block(x)
                if i in TAPS:
                    maps[f"stride{2 << TAPS.index(i)}"] = x
        return {name: maps[name] for name in wanted}

    @torch.no_grad()
    def fuse(self) -> None:
        """Fold every batch norm into the convolution before it: the same maps up to rounding, in fewer passes."""
        for module in list(self.modules()):
            for conv, norm in (
                ("_conv_stem", "_bn0"),
                ("_expand_conv", "_bn0"),
                ("_depthwise_conv", "_bn1"),
                ("_project_conv", "_bn2"),
            ):
                if isinstance(getattr(module, norm, None), nn.BatchNorm2d) and hasattr(module, conv):
                    setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
                    setattr(module, norm, nn.Identity())


def load_efficientnet_lite0(
    path: str | Path,
    depth: int = 5,
    resolution: int = 224,
    precision: Literal["fp32", "bf16"] = "fp32",
    fused: bool = True,
) -> EfficientNetLite0Features:
    """Read the weights file into a frozen network.

    Args:
        fused: fold the batch norms into the convolutions; False keeps the file's layout, for fine-tuning.

    Raises:
        MissingEnvironmentError, CheckpointError: naming the file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not Path(path).is_file():
        raise MissingEnvironmentError(
            f"{path}: the EfficientNet-Lite0 weights are not there", "set RAYGSEG_DATA to the folder of the data sets"
        )
    network = EfficientNetLite0Features(depth, resolution, precision)
    names = set(network.state_dict())
    try:
        tensors = {k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items() if k in names}
        network.load_state_dict(tensors)
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: not EfficientNet-Lite0 weights ({str(error).splitlines()[0]})",
            "the file must hold the names of efficientnet-lite-pytorch as safetensors; fetch it again",
        ) from error
    if fused:
        network.fuse()
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
