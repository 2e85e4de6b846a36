"""How much memory a training step takes, found by running it without computing anything.

A recipe on torch's `meta` device goes through the very operations of a step, forward and backward,
with tensors that have shapes and no content. Counting the storages that live at once gives the peak
that the same step would reach on a real device, workspaces of the convolution library apart.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from raygseg.interfaces import Draws, MicroBatch, Phase, Recipe


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages made under it that are alive; `peak` is the largest count so far."""

    live: int
    peak: int

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), keywords: dict[str, Any] | None = None
    ) -> Any:
        result = function(*arguments, **(keywords or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor) and value.device.type == "meta":
                self._count(value)
        return result

    def _count(self, value: Tensor) -> None:
        storage = value.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def step_peak_bytes(recipe: Recipe, data: dict[str, Tensor]) -> dict[str, int]:
    """Bytes that each phase of `recipe` adds at its peak to weights, optimisers and average, by phase name.

    Args:
        recipe: on the meta device, not yet trained. Its state is of no use afterwards.
        data: one micro-batch, on the meta device.
    """
    trained = {parameter for phase in recipe.phases for parameter in phase.parameters}
    batch = MicroBatch(data, Draws(recipe.seed, 0, 0), 0)
    return {phase.name: _phase_peak(phase, batch, trained) for phase in recipe.phases}


def _phase_peak(phase: Phase, batch: MicroBatch, trained: set[torch.nn.Parameter]) -> int:
    for parameter in trained:
        parameter.requires_grad_(False)
    for parameter in phase.parameters:
        parameter.requires_grad_(True)
    with LiveBytes() as count:
        phase.loss(batch).loss.backward()
    for parameter in phase.parameters:
        parameter.grad = None
    peak: int = count.peak
    return peak
