"""Half precision (fp16) without overflow: which resolutions, what bounds, what is scaled before (spec A4, A8).

Ten exponents fewer than fp32: sums over channels and taps would leave the range. bf16 needs none of this.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

RESOLUTIONS = 4  # the largest ones; the others stay in fp32
BOUND = 256.0


def dtype_at(resolution: int, largest: int, asked: torch.dtype) -> torch.dtype:
    """The working precision of a resolution: fp16 only in the four largest ones, from 8 px on."""
    if asked == torch.float16 and resolution < max(largest >> (RESOLUTIONS - 1), 8):
        return torch.float32
    return asked


def bounded(x: Tensor, worked_in: torch.dtype, gain: float = 1.0) -> Tensor:
    """What a layer that worked in fp16 returns, clamped to +- 256 * gain; of others as it is."""
    return x.clamp(-BOUND * gain, BOUND * gain) if worked_in == torch.float16 else x


def small(weight: Tensor, styles: Tensor) -> tuple[Tensor, Tensor]:
    """Kernels [O, I, k, k] and styles [N, I] scaled so that no sum over inputs and taps leaves the range of fp16.

    Each output channel's and each sample's largest magnitude becomes 1 / sqrt(I k^2) and 1: demodulation
    takes such factors out again, so the layer's output stays what it was.
    """
    taps = weight[0].numel()
    weight = weight / (weight.abs().amax(dim=(1, 2, 3), keepdim=True) * math.sqrt(taps))
    return weight, styles / styles.abs().amax(dim=1, keepdim=True)


def compact(tensor: Tensor) -> Tensor:
    """In half precision where that loses nothing, as of published backbones, which are stored so; else as it is."""
    if tensor.dtype != torch.float32:
        return tensor
    smaller = tensor.half()
    return smaller if torch.equal(smaller.float(), tensor) else tensor
