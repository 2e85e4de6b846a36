"""rosinality's networks and losses with their CPU operators, for comparison.

Their widths below 64 px are fixed at 512 channels, so `channel_base` and `channel_max` of the case only choose
the multiplier: 16384 for 1, 32768 for 2.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raygseg.benchmarks.support import parity_networks as parity
from raygseg.benchmarks.support import peers
from raygseg.benchmarks.support.parity_networks import Case, Inputs
from raygseg.methods.stylegan2.importers import layout
from raygseg.methods.stylegan2.importers.rosinality import discriminator_name, generator_name

BASE = 16384  # of multiplier 1


class Rosinality:
    """stylegan2-pytorch. Implements `parity_networks.Peer`."""

    def __init__(self, case: Case) -> None:
        peers.enter(peers.ROSINALITY)
        model: Any = importlib.import_module("model")
        self.train: Any = importlib.import_module("train")
        self.case = case
        torch.manual_seed(0)
        multiplier = case.channel_base // BASE
        self.g: Any = model.Generator(case.resolution, case.w_dim, case.mapping_layers, channel_multiplier=multiplier)
        self.d: Any = model.Discriminator(case.resolution, channel_multiplier=multiplier)
        parity.randomise(self.g, self.d)
        self.latent_avg = torch.randn(1, case.w_dim)

    def save(self, path: Path) -> None:
        """As its train.py does, with the record of arguments, and latent_avg as its convert_weight.py does."""
        states = {"g": self.g.state_dict(), "g_ema": self.g.state_dict(), "d": self.d.state_dict()}
        record = {"args": argparse.Namespace(size=self.case.resolution), "ada_aug_p": 0.0}
        torch.save({**states, **record, "latent_avg": self.latent_avg}, path)

    def codes(self, z: Tensor) -> Tensor:
        w: Tensor = self.g.get_latent(z)
        return w[:, None].expand(-1, self.g.n_latent, -1)

    def render(self, ws: Tensor, noise: Sequence[Tensor] | None, fused: bool) -> tuple[Tensor, list[Tensor]]:
        for module in self.g.modules():
            if hasattr(module, "fused"):
                module.fused = fused
        maps: list[Tensor] = []
        layers = [self.g.conv1, *self.g.convs]
        hooks = [layer.register_forward_hook(lambda _, __, y: maps.append(y.detach())) for layer in layers]
        image, _ = self.g([ws], input_is_latent=True, noise=noise, randomize_noise=False)
        for hook in hooks:
            hook.remove()
        return image, maps

    def truncated(self, z: Tensor, psi: float) -> Tensor:
        image, _ = self.g([z], truncation=psi, truncation_latent=self.latent_avg, randomize_noise=False)
        return torch.as_tensor(image)

    def logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.d(images)
        return logits

    def generator_loss(self, inputs: Inputs) -> Tensor:
        image, _ = self.g([inputs.z], noise=inputs.noise)
        return self._backward(self.train.g_nonsaturating_loss(self.d(image)))

    def path_length(self, inputs: Inputs) -> Tensor:
        image, latents = self.g([inputs.z], noise=inputs.noise, return_latents=True)
        with peers.scripted(randn_like=[inputs.path_noise]):
            penalty, _, _ = self.train.g_path_regularize(image, latents, parity.PATH_MEAN, parity.PATH_DECAY)
        return self._backward(penalty)

    def discriminator_loss(self, inputs: Inputs) -> Tensor:
        with torch.no_grad():
            fake, _ = self.g([inputs.z], noise=inputs.noise)
        return self._backward(self.train.d_logistic_loss(self.d(inputs.real), self.d(fake)))

    def r1(self, inputs: Inputs) -> Tensor:
        real = inputs.real.clone().requires_grad_(True)
        return self._backward(self.train.d_r1_loss(self.d(real), real) * (parity.R1_GAMMA / 2))

    def _backward(self, loss: Tensor) -> Tensor:
        for network in (self.g, self.d):
            network.zero_grad(set_to_none=True)
        loss.backward()
        return loss.detach()

    def gradients(self, which: str) -> dict[str, Tensor]:
        """In our shapes: theirs carry leading and trailing ones."""
        case, module = self.case, self.g if which == "generator" else self.d
        found = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
        widths = {"resolution": case.resolution, "channel_base": case.channel_base, "channel_max": case.channel_max}
        if which == "generator":
            sizes = {"z_dim": case.w_dim, "w_dim": case.w_dim, "mapping_layers": case.mapping_layers}
            wanted, rename = layout.empty_generator({**widths, **sizes}), generator_name
        else:
            wanted, rename = layout.empty_discriminator(widths), discriminator_name
        return {ours: found[rename(ours)].reshape(t.shape) for ours, t in wanted.items() if rename(ours) in found}


if __name__ == "__main__":
    parity.main(sys.argv, lambda _, case: Rosinality(case), ".pt")
