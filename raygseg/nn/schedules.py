"""Learning rates as functions of the pictures seen."""

from __future__ import annotations

import math

import torch


def cosine_decay(nimg: int, total_images: int, final_fraction: float) -> float:
    """Factor on the learning rate: 1 at the start, `final_fraction` at the end, half a cosine between."""
    progress = min(nimg / max(total_images, 1), 1.0)
    return final_fraction + (1.0 - final_fraction) * 0.5 * (1.0 + math.cos(math.pi * progress))


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all parameter groups, in a group with `lr_scale` that share of it."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
