"""StyleGAN2 losses and regularisers as plain functions of networks and tensors (spec A7)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating: mean softplus(-D(G(z)))."""
    return F.softplus(-fake_logits).mean()


def discriminator_loss(fake_logits: Tensor, real_logits: Tensor) -> Tensor:
    """Logistic: mean softplus(D(fake)) + mean softplus(-D(real))."""
    return F.softplus(fake_logits).mean() + F.softplus(-real_logits).mean()


def r1_penalty(real: Tensor, real_logits: Tensor, gamma: float) -> Tensor:
    """(gamma / 2) * mean_n ||d sum(logits) / d real_n||^2; `real` [N, C, H, W] requires a gradient."""
    (gradient,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
    return (gamma / 2) * gradient.square().sum(dim=(1, 2, 3)).mean()


class PathLength(NamedTuple):
    """penalty: scalar. lengths: [N], detached."""

    penalty: Tensor
    lengths: Tensor


def path_length_penalty(images: Tensor, ws: Tensor, noise: Tensor, mean: float | Tensor, decay: float) -> PathLength:
    """Deviation of path lengths from their running mean.

    Lengths are sqrt(mean over num_ws of the squared norm of d sum(images * noise / sqrt(HW)) / d ws).
    They are held against `mean` moved by `decay` towards this micro-batch's own mean; the running
    mean itself is moved by the caller, from the average over all micro-batches and workers.

    Args:
        images: [N, C, H, W] made from ws. ws: [N, num_ws, w_dim] requiring a gradient.
        noise: N(0, 1) of the images' shape.
    """
    scaled = noise / math.sqrt(images.shape[2] * images.shape[3])
    (gradient,) = torch.autograd.grad((images * scaled).sum(), ws, create_graph=True)
    lengths = gradient.square().sum(dim=2).mean(dim=1).sqrt()
    target = mean + decay * (lengths.mean() - mean)
    return PathLength((lengths - target).square().mean(), lengths.detach())
