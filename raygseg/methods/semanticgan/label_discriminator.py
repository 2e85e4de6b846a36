"""The discriminator of (picture, label map) pairs: PatchGANs at several scales (spec B4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_CHANNELS = 8  # times the width of the first layer
START_ITERATIONS = 15


class Judgement(NamedTuple):
    """One scale's opinion: logits [N, 1, h, w], one a patch; features: the four maps before them."""

    logits: Tensor
    features: list[Tensor]


class SpectralConv(nn.Module):
    """4 x 4 convolution without bias whose weight is divided by an estimate of its largest singular value.

    The estimate is u^T W v with W as [O, I * 16]. `advance` moves u and v by power iteration; a forward pass does
    not, so that how many passes a worker makes changes nothing.
    """

    u: Tensor
    v: Tensor

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.Conv2d(in_channels, out_channels, 4, bias=False).weight.detach().clone())
        self.stride = stride
        matrix = self.weight.detach().flatten(1)
        self.register_buffer("u", F.normalize(torch.randn(matrix.shape[0]), dim=0))
        self.register_buffer("v", F.normalize(torch.randn(matrix.shape[1]), dim=0))
        self.advance(START_ITERATIONS)

    @torch.no_grad()
    def advance(self, iterations: int = 1) -> None:
        matrix = self.weight.flatten(1)
        for _ in range(iterations):
            self.v.copy_(F.normalize(matrix.t() @ self.u, dim=0, eps=1e-12))
            self.u.copy_(F.normalize(matrix @ self.v, dim=0, eps=1e-12))

    def forward(self, x: Tensor) -> Tensor:
        sigma = self.u.clone() @ (self.weight.flatten(1) @ self.v.clone())
        return F.conv2d(x, self.weight / sigma, stride=self.stride, padding=2)


class PatchDiscriminator(nn.Module):
    """One scale: [N, C, H, W] -> `Judgement`; the middle three layers with spectral and instance normalisation."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        wider = [min(width * 2**i, width * MOST_CHANNELS) for i in range(4)]
        self.first = nn.Conv2d(in_channels, width, 4, stride=2, padding=2)
        self.middle = nn.ModuleList(
            SpectralConv(a, b, stride) for a, b, stride in zip(wider, wider[1:], (2, 2, 1), strict=False)
        )
        self.last = nn.Conv2d(wider[3], 1, 4, padding=2)

    def forward(self, x: Tensor) -> Judgement:
        features = [F.leaky_relu(self.first(x), 0.2)]
        for conv in self.middle:
            features.append(F.leaky_relu(F.instance_norm(conv(features[-1])), 0.2))
        return Judgement(self.last(features[-1]), features)


class LabelDiscriminator(nn.Module):
    """Pictures [N, C, R, R] with signed label maps [N, L, R, R] -> a `Judgement` a scale, finest first.

    Args:
        channels: C + L.
        width: channels of the first layer; the last has eight times as many.
        scales: each sees the pair at half the size of the one before, with weights of its own.
    """

    def __init__(self, channels: int, width: int = 64, scales: int = 3) -> None:
        super().__init__()
        self.scales = nn.ModuleList(PatchDiscriminator(channels, width) for _ in range(scales))

    def forward(self, images: Tensor, labels: Tensor) -> list[Judgement]:
        x = torch.cat([images, labels], dim=1)
        judgements: list[Judgement] = []
        for i, scale in enumerate(self.scales):
            x = x if i == 0 else F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
            judgements.append(scale(x))
        return judgements

    def advance(self) -> None:
        """One power iteration for every normalised layer: once a training step."""
        for module in self.modules():
            if isinstance(module, SpectralConv):
                module.advance()


def scores(judgements: Sequence[Judgement]) -> Tensor:
    """[N]: each pair's mean over the patches of a scale, averaged over the scales."""
    return torch.stack([j.logits.mean(dim=(1, 2, 3)) for j in judgements]).mean(dim=0)
