"""Exponential moving average of a network, with a half-life in pictures (spec A9)."""

from __future__ import annotations

import torch
from torch import nn


def ema_beta(batch_size: int, nimg: int, half_life_kimg: float, ramp: float = 0.0) -> float:
    """beta = 0.5^(batch / half-life), the half-life ramped up as `ramp` times the pictures seen."""
    half_life = half_life_kimg * 1000.0
    if ramp > 0:
        half_life = min(half_life, nimg * ramp)
    beta: float = 0.5 ** (batch_size / max(half_life, 1e-8))
    return beta


@torch.no_grad()
def update_ema(average: nn.Module, network: nn.Module, beta: float) -> None:
    """Parameters are interpolated towards the network's; buffers are copied."""
    targets = [p.data for p in average.parameters()]
    sources = [p.data for p in network.parameters()]
    torch._foreach_lerp_(targets, sources, 1.0 - beta)
    for target, source in zip(average.buffers(), network.buffers(), strict=True):
        target.copy_(source)
