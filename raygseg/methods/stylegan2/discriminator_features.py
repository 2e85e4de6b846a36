"""The discriminator's own maps as a feature network, where no backbone's weights are at hand.

It has seen only pictures of the generator's kind and was trained to tell true from false, so its maps say
less about parts than a classifier's; the minibatch statistics at its end are left out, so that a picture's
maps do not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raygseg.errors import CheckpointError
from raygseg.interfaces import FeatureLayer
from raygseg.methods.stylegan2.discriminator import Discriminator, ResidualBlock


class DiscriminatorFeatures(nn.Module):
    """Maps `b{r}` of every resolution r below the picture's, down to 4 px.

    Args:
        build: keyword arguments of `Discriminator`.
    """

    def __init__(self, build: Mapping[str, Any]) -> None:
        super().__init__()
        self.build = dict(build)
        self.discriminator = Discriminator(**self.build)
        side = int(self.build["resolution"])
        blocks = [block for block in self.discriminator.blocks if isinstance(block, ResidualBlock)]
        self.feature_layers = tuple(
            FeatureLayer(f"b{side >> i + 1}", block.conv1.weight.shape[0], side >> i + 1)
            for i, block in enumerate(blocks)
        )

    def forward(self, images: Tensor, layers: Sequence[str] = ()) -> dict[str, Tensor]:
        """[N, 3, R, R] in [-1, 1] -> maps [N, C, r, r] by name; all by default."""
        wanted = set(layers) or {layer.name for layer in self.feature_layers}
        x = self.discriminator.from_image(images.contiguous(memory_format=torch.channels_last))
        maps: dict[str, Tensor] = {}
        for layer, block in zip(self.feature_layers, self.discriminator.blocks, strict=True):
            x = block(x)
            if layer.name in wanted:
                maps[layer.name] = x
        return maps

    @classmethod
    def loaded(cls, build: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str) -> DiscriminatorFeatures:
        """A frozen network from a discriminator's weights. CheckpointError naming `where` if they do not fit."""
        network = cls(build)
        try:
            network.discriminator.load_state_dict(dict(tensors))
        except RuntimeError as error:
            raise CheckpointError(
                f"{where}: not this discriminator's weights ({str(error).splitlines()[0]})", "name another"
            ) from error
        return network.eval().requires_grad_(False)
