"""VGG-16 features (Simonyan and Zisserman 2015) for perceptual distances and hypercolumns.

The weights are one safetensors file with torchvision's names (`features.N.weight`), the input the Caffe
convention: RGB in 0..255 minus a mean. The maps are taken after the ReLU at the end of each block,
so the distance made from them is LPIPS-like and not the published LPIPS.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raygseg.errors import CheckpointError, ConfigError, MissingEnvironmentError
from raygseg.interfaces import FeatureLayer

MEAN = (123.68, 116.779, 103.939)
BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16Features(nn.Module):
    """Maps `block1` .. `block5` of a picture in [-1, 1].

    Args:
        depth: the number of blocks kept, 1 to 5.
        resolution: picture size that `feature_layers` states the map sizes for.
        precision: bf16 runs the convolutions in bfloat16.
    """

    title = "VGG-16"

    def __init__(self, depth: int = 5, resolution: int = 256, precision: Literal["fp32", "bf16"] = "fp32") -> None:
        super().__init__()
        if not 1 <= depth <= len(BLOCKS):
            raise ConfigError(f"VGG-16 has 5 blocks, not {depth}", "give a depth from 1 to 5")
        self.precision = precision
        self.features = nn.ModuleDict()
        self.plan: list[list[str]] = []
        inputs, place = 3, 0
        for widths in BLOCKS[:depth]:
            names = []
            for width in widths:
                self.features[str(place)] = nn.Conv2d(inputs, width, 3, padding=1)
                names.append(str(place))
                inputs, place = width, place + 2
            self.plan.append(names)
            place += 1
        self.feature_layers = tuple(
            FeatureLayer(f"block{i + 1}", widths[-1], resolution >> i) for i, widths in enumerate(BLOCKS[:depth])
        )
        self.mean: Tensor
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor, layers: Sequence[str] = ()) -> dict[str, Tensor]:
        """[N, 3, H, W] in [-1, 1] -> maps [N, C, H / 2^(i-1), W / 2^(i-1)] of `block i`; all blocks by default."""
        wanted = tuple(layers) or tuple(layer.name for layer in self.feature_layers)
        maps: dict[str, Tensor] = {}
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            x = (images + 1) * 127.5 - self.mean
            for i, names in enumerate(self.plan):
                x = F.max_pool2d(x, 2) if i else x.contiguous(memory_format=torch.channels_last)
                for name in names:
                    x = F.relu(self.features[name](x), inplace=True)
                maps[f"block{i + 1}"] = x
        return {name: maps[name] for name in wanted}


def load_vgg16(
    path: str | Path, depth: int = 5, resolution: int = 256, precision: Literal["fp32", "bf16"] = "fp32"
) -> VGG16Features:
    """Read the weights file into a frozen network; raises MissingEnvironmentError or CheckpointError naming it."""
    network = VGG16Features(depth, resolution, precision)
    read_weights(network, path)
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def read_weights(network: nn.Module, path: str | Path) -> None:
    """Fill a network that has VGG-16's names from its file; the tensors that it does not have are left out.

    Raises MissingEnvironmentError where there is no file, CheckpointError for one of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not Path(path).is_file():
        raise MissingEnvironmentError(
            f"{path}: the VGG-16 weights are not there", "set RAYGSEG_DATA to the folder of the data sets"
        )
    names = set(network.state_dict())
    try:
        network.load_state_dict({k: v.float() for k, v in load_file(path).items() if k in names})
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: not VGG-16 features ({str(error).splitlines()[0]})", "fetch the file again"
        ) from error
