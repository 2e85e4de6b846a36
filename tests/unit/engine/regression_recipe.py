"""A small recipe with all that is hard about resuming: two networks, lazy phases, running means, draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from raygseg.interfaces import MicroBatch, Phase, PhaseLoss
from raygseg.seeding import torch_rng


class RegressionRecipe:
    name = "regression"
    seed = 3

    def __init__(self, batch_size: int = 8, micro_batch: int = 2, total_images: int = 160) -> None:
        self.batch_size, self.micro_batch, self.total_images = batch_size, micro_batch, total_images
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 1))
            self.noise = nn.Linear(5, 5)
        self.optimisers = {
            "net": torch.optim.Adam(self.net.parameters(), 0.01, betas=(0.0, 0.99)),
            "noise": torch.optim.Adam(self.noise.parameters(), 0.01),
        }
        self.mean_loss = torch.zeros(())
        self.phases = [
            Phase("fit", [self.net], self.optimisers["net"], self.fit),
            Phase("penalty", [self.net], self.optimisers["net"], self.penalty, interval=3),
            Phase("attack", [self.noise], self.optimisers["noise"], self.attack, interval=2),
        ]

    def _error(self, batch: MicroBatch) -> Tensor:
        x = batch.data["x"]
        z = torch.randn(x.shape, generator=batch.draws.rng("z"))
        error: Tensor = (self.net(x + 0.1 * self.noise(z).tanh()) - batch.data["y"]).square().mean()
        return error

    def fit(self, batch: MicroBatch) -> PhaseLoss:
        loss = self._error(batch)
        return PhaseLoss(loss, {"fit": loss.detach(), "x_mean": batch.data["x"].mean(0)})

    def penalty(self, batch: MicroBatch) -> PhaseLoss:
        x = batch.data["x"].requires_grad_(True)
        (slope,) = torch.autograd.grad(self.net(x).sum(), x, create_graph=True)
        loss = slope.square().sum(1).mean() * 0.01 * self.mean_loss
        return PhaseLoss(loss, {"penalty": loss.detach()})

    def attack(self, batch: MicroBatch) -> PhaseLoss:
        loss = -0.1 * self._error(batch)
        return PhaseLoss(loss, {})

    def modules(self) -> Mapping[str, nn.Module]:
        return {"net": self.net, "noise": self.noise}

    def end_step(self, step: int, nimg: int, statistics: Mapping[str, Tensor]) -> None:
        if "fit" in statistics:
            self.mean_loss = self.mean_loss.lerp(statistics["fit"], 0.1)

    def state_dict(self) -> dict[str, Any]:
        return {
            "modules": {name: module.state_dict() for name, module in self.modules().items()},
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
            "mean_loss": self.mean_loss,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, module in self.modules().items():
            module.load_state_dict(state["modules"][name])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        self.mean_loss = state["mean_loss"]

    def progress(self) -> Mapping[str, float]:
        return {"mean_loss": float(self.mean_loss)}


class RegressionStream:
    """x ~ N(0, 1)^5, y = sum of x, a function of position."""

    def micro_batch(self, first: int, count: int) -> Mapping[str, Tensor]:
        x = torch.stack([torch.randn(5, generator=torch_rng(7, "x", i)) for i in range(first, first + count)])
        return {"x": x, "y": x.sum(1, keepdim=True)}
