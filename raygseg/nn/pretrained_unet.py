"""A U-Net whose way down is a pretrained backbone, frozen or fine-tuned; the way up is `nn.unet`'s.

Each level's map of the backbone is brought to the U-Net's width by a 1x1 convolution and GroupNorm, so
the decoder costs what the plain U-Net's does. Where the backbone has no map at the picture's own size
(EfficientNet-Lite0 begins at stride 2) the plain U-Net's first level stands in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raygseg.interfaces import FeatureLayer
from raygseg.nn.backbones.catalogue import (
    LAYERS,
    FrozenTrunk,
    Precision,
    backbone_facts,
    blank_backbone,
    open_trainable,
    recorded_weights,
    weights_place,
    weights_record,
)
from raygseg.nn.group_norm import GroupNorm
from raygseg.nn.unet import NORM_GROUPS, DoubleConv, UNet, UpBlock, level_widths, pad_border

FIRST_LEVEL = {"vgg16": 0, "efficientnet-lite0": 1}  # halvings before the first map


class PretrainedUNet(nn.Module):
    """Per-pixel class scores. [N, 3, H, W] in [-1, 1] -> logits [N, num_classes, H, W]; any H and W.

    Args:
        trunk: the backbone; a `FrozenTrunk` is read, a network is a part of this one and is trained with it.
        record: name, path and SHA-256 of the weights that the backbone began with.
        num_classes: K.
        width, depth: as of `UNet`.
    """

    def __init__(
        self, trunk: FrozenTrunk | nn.Module, record: Mapping[str, Any], num_classes: int, width: int, depth: int
    ) -> None:
        super().__init__()
        self.trunk, self.record, self.depth = trunk, dict(record), depth
        self.names = encoder_layers(str(record["name"]), depth)
        taps = self._taps()
        widths = level_widths(width, depth)
        first = depth + 1 - len(taps)
        self.stem = DoubleConv(3, widths[0]) if first else nn.Identity()
        self.lateral = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(tap.channels, channels, 1, bias=False),
                GroupNorm(math.gcd(NORM_GROUPS, channels), channels),
                nn.ReLU(inplace=True),
            )
            for tap, channels in zip(taps, widths[first:], strict=True)
        )
        self.up = nn.ModuleList(UpBlock(widths[i + 1], widths[i]) for i in reversed(range(depth)))
        self.classify = nn.Conv2d(widths[0], num_classes, 1)

    @property
    def frozen(self) -> bool:
        """Whether the backbone is read only; its weights are then in no state dict."""
        return isinstance(self.trunk, FrozenTrunk)

    @property
    def build(self) -> dict[str, Any]:
        """What `open_unet(**build)` rebuilds the network from; JSON values only."""
        encoder = {**self.record, "frozen": self.frozen}
        plain = {"num_classes": self.classify.out_channels, "width": self.classify.in_channels, "depth": self.depth}
        return {**plain, "encoder": encoder}

    @property
    def facts(self) -> dict[str, str]:
        """Lines for the card: the backbone, whose weights it has, whether they are inside."""
        return backbone_facts(self.record, str(self._network().title), stored=not self.frozen)

    def parameter_groups(self, lr_scale: float) -> list[dict[str, Any]]:
        """Optimiser groups: the decoder, and the backbone at `lr_scale` of its learning rate."""
        inside = set() if self.frozen else set(self._network().parameters())
        own = {"params": [p for p in self.parameters() if p not in inside]}
        return [own, {"params": list(self._network().parameters()), "lr_scale": lr_scale}] if inside else [own]

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        x = pad_border(images, 2**self.depth).contiguous(memory_format=torch.channels_last)
        maps = [self.stem(x)] if len(self.names) <= self.depth else []
        found: Mapping[str, Tensor] = self.trunk(x, self.names)
        if not torch.is_autocast_enabled(x.device.type):  # a bf16 backbone read by a decoder in full precision
            found = {name: found[name].to(x.dtype) for name in self.names}
        maps += [narrow(found[name]) for narrow, name in zip(self.lateral, self.names, strict=True)]
        x = maps.pop()
        for block in self.up:
            x = block(x, maps.pop())
        logits: Tensor = self.classify(x)
        return logits[..., :height, :width]

    def _network(self) -> Any:
        return self.trunk.network if isinstance(self.trunk, FrozenTrunk) else self.trunk

    def _taps(self) -> Sequence[FeatureLayer]:
        return [tap for tap in self._network().feature_layers if tap.name in self.names]


def encoder_layers(name: str, depth: int) -> tuple[str, ...]:
    """The backbone's maps from its first to `depth` halvings."""
    return LAYERS[name][: depth + 1 - FIRST_LEVEL[name]]


def new_unet(
    name: str, weights: str, frozen: bool, num_classes: int, width: int, depth: int, precision: Precision = "fp32"
) -> PretrainedUNet:
    """With a backbone from its weights file and a decoder from torch's present random state.

    Raises MissingEnvironmentError or CheckpointError naming the weights file.
    """
    network = open_trainable(name, weights_place(name, weights), encoder_layers(name, depth), precision, fused=frozen)
    trunk = FrozenTrunk(network) if frozen else network.requires_grad_(True)
    return PretrainedUNet(trunk, weights_record(name, weights), num_classes, width, depth)


def open_unet(
    num_classes: int, width: int, depth: int, encoder: Mapping[str, Any] | None = None
) -> UNet | PretrainedUNet:
    """The untrained network of a bundle's `build`; the weights of a frozen backbone are found again.

    Raises MissingEnvironmentError or CheckpointError where they are not there or not the same.
    """
    if encoder is None:
        return UNet(3, num_classes, width, depth)
    name = str(encoder["name"])
    layers = encoder_layers(name, depth)
    record = {key: encoder[key] for key in ("name", "weights", "sha256")}
    if encoder["frozen"]:
        trunk: FrozenTrunk | nn.Module = FrozenTrunk(open_trainable(name, recorded_weights(record), layers))
    else:
        trunk = blank_backbone(name, layers)
    return PretrainedUNet(trunk, record, num_classes, width, depth)
