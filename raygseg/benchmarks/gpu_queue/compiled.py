"""torch.compile around the networks of a StyleGAN2 recipe, in the main phases only.

The regularisers differentiate gradients, which compiled functions cannot do; they keep the plain forms.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from raygseg.interfaces import MicroBatch, PhaseLoss
from raygseg.methods.stylegan2.training import StyleGAN2Recipe

Function = Callable[..., Any]


class MainPhasesCompiled:
    """Changes the recipe: its main phases run compiled forms of the synthesis and the discriminator."""

    def __init__(self, recipe: StyleGAN2Recipe, compiler: Callable[[Function], Function] | None = None) -> None:
        self._compile = compiler or (lambda function: torch.compile(function, dynamic=False))
        self._active = False
        for network in (recipe.generator.synthesis, recipe.discriminator):
            self._wrap(network)
        recipe.phases = [
            dataclasses.replace(phase, loss=self._around(phase.loss)) if phase.name.endswith("main") else phase
            for phase in recipe.phases
        ]

    def _wrap(self, network: nn.Module) -> None:
        plain = network.forward
        fast = self._compile(plain)

        def forward(*arguments: Any, **keywords: Any) -> Any:
            return (fast if self._active else plain)(*arguments, **keywords)

        vars(network)["forward"] = forward  # on this one object; names in its state stay as they are

    def _around(self, loss: Callable[[MicroBatch], PhaseLoss]) -> Callable[[MicroBatch], PhaseLoss]:
        def compiled(batch: MicroBatch) -> PhaseLoss:
            self._active = True
            try:
                return loss(batch)
            finally:
                self._active = False

        return compiled
