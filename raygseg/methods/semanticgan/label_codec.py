"""Label maps as the label branch and its discriminator know them: one-hot in [-1, 1], or a sign (spec B2)."""

from __future__ import annotations

import torch
from torch import Tensor

from raygseg.labels import LabelSpace

# Of raw label outputs, which are trained to be about +-1 (spec B7). The last is that of each channel alone.
RAW_TEMPERATURE, RAW_TEMPERATURE_BINARY, RAW_TEMPERATURE_ALONE = 0.1, 0.3, 0.3


class LabelCodec:
    """Between label maps, signed maps and the logits of the label branch.

    Two classes take one channel: +1 for the class that is not the background. K > 2 classes take K channels: +1 for
    the class, -1 elsewhere. Pixels that are void are 0 in every channel.

    Args:
        labels: the classes.
        temperature: by which logits are divided before softmax (two classes: sigmoid); 0: that of raw outputs
            (spec B7).

    Attributes:
        channels: of signed maps and logits.
        raw: logits are trained to be about +-1, each channel alone; otherwise only what softmax makes of them counts.
    """

    def __init__(self, labels: LabelSpace, temperature: float = 0.0) -> None:
        self.labels, self.binary, self.raw = labels, labels.num_classes == 2, not temperature
        self.temperature = temperature or (RAW_TEMPERATURE_BINARY if self.binary else RAW_TEMPERATURE)
        self.channels = 1 if self.binary else labels.num_classes
        self._background = 0 if labels.background is None else labels.background

    def encode(self, maps: Tensor) -> Tensor:
        """Class indices uint8 [N, H, W] -> signed maps [N, C, H, W]."""
        if self.binary:
            signed = 1.0 - 2.0 * (maps == self._background).to(torch.float32)[:, None]
        else:
            classes = torch.arange(self.channels, device=maps.device, dtype=maps.dtype)
            signed = 2.0 * (maps[:, None] == classes[None, :, None, None]).to(torch.float32) - 1.0
        return signed * self.known(maps)

    def known(self, maps: Tensor) -> Tensor:
        """[N, 1, H, W]: 1 where a map has a class, 0 where it is void."""
        if self.labels.void is None:
            return torch.ones_like(maps, dtype=torch.float32)[:, None]
        return (maps != self.labels.void).to(torch.float32)[:, None]

    def decode(self, logits: Tensor) -> Tensor:
        """Logits or signed maps [N, C, H, W] -> class indices uint8 [N, H, W]."""
        if self.binary:
            foreground = logits[:, 0] > 0
            return torch.where(foreground, 1 - self._background, self._background).to(torch.uint8)
        return logits.argmax(dim=1).to(torch.uint8)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits [N, C, H, W] -> [N, K, H, W], sums to 1 over the classes."""
        if not self.binary:
            return (logits / self.temperature).softmax(dim=1)
        foreground = (logits / self.temperature).sigmoid()
        parts = (1 - foreground, foreground) if self._background == 0 else (foreground, 1 - foreground)
        return torch.cat(parts, dim=1)

    def memberships(self, logits: Tensor) -> Tensor:
        """Logits [N, C, H, W] -> how much a pixel is of each channel's class, in [0, 1], shaped as logits.

        Raw channels are read one by one, as published (spec B7). Others by softmax: they may all be above zero where
        one of them wins.
        """
        if self.raw:
            return (logits / RAW_TEMPERATURE_ALONE).sigmoid()
        return (logits / self.temperature).sigmoid() if self.binary else self.probabilities(logits)

    def signed(self, logits: Tensor) -> Tensor:
        """Logits [N, C, H, W] -> 2 p - 1, within the range of `encode`; for two classes tanh(y / (2 tau))."""
        if self.binary:
            return (logits / (2 * self.temperature)).tanh()
        return 2 * self.probabilities(logits) - 1

    def outside(self) -> Tensor:
        """[C, 1, 1]: what a map holds beyond the edge of the picture: background, or nothing known."""
        if self.labels.background is None:
            return torch.zeros(self.channels, 1, 1)
        return self.encode(torch.full((1, 1, 1), self._background, dtype=torch.uint8))[0]
