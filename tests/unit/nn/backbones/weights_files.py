"""Weights files of random numbers in the layouts of the public ones."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from raygseg.nn.backbones.efficientnet_lite0 import EfficientNetLite0Features
from raygseg.nn.backbones.vgg16 import VGG16Features


def write_efficientnet_lite0(path: Path, depth: int = 5, seed: int = 0) -> Path:
    """Convolutions in half precision, batch norms in full, and the classifier, which nobody reads."""
    torch.manual_seed(seed)
    network = EfficientNetLite0Features(depth)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    classifier = {"_fc.weight": torch.zeros(1000, 1280, dtype=torch.half), "_conv_head.weight": torch.zeros(8)}
    save_file(_halved(network) | classifier, path)
    return path


def write_vgg16(path: Path, depth: int = 2, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    save_file(_halved(VGG16Features(depth)), path)
    return path


def _halved(network: nn.Module) -> dict[str, Tensor]:
    return {k: v.half() if v.ndim == 4 else v for k, v in network.state_dict().items()}
