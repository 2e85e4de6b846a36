"""A dense encoder in parts: what its first ones make of a picture can be kept while the others are trained."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn


class PartedEncoder(nn.Module):
    """[N, 3, H, W] in [-1, 1] -> the last part's map, in the pictures' precision.

    Attributes:
        precision: bf16 runs the parts in bfloat16.
    """

    precision: Literal["fp32", "bf16"]

    @property
    def parts(self) -> list[nn.Module]:
        """From the picture on: what can be frozen from the front."""
        raise NotImplementedError

    def seen(self, images: Tensor) -> Tensor:
        """Pictures as the first part wants them."""
        raise NotImplementedError

    def part(self, x: Tensor, place: int) -> Tensor:
        """Through part number `place`."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        return self.back(self.front(images, 0), 0).to(images.dtype)

    def front(self, images: Tensor, parts: int) -> Tensor:
        """The map after the first `parts` parts, as precise as it was made; 0: the picture as they see it."""
        x = self.seen(images).contiguous(memory_format=torch.channels_last)
        return self._through(x, 0, parts)

    def back(self, x: Tensor, parts: int) -> Tensor:
        """From what `front` gave after so many parts to the last map."""
        return self._through(x, parts, len(self.parts))

    def _through(self, x: Tensor, first: int, end: int) -> Tensor:
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            for place in range(first, end):
                x = self.part(x, place)
        return x
