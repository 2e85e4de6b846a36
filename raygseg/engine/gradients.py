"""Averaging gradients over micro-batches and workers, in an order that does not depend on who computes what.

A step's micro-batches form the leaves of a binary tree: `tree_sum` adds the halves of any range to
one another. A worker holds a contiguous block of leaves, so with two workers the all-reduce is the
topmost addition of the same tree, and because floating-point addition is commutative two workers
give bit for bit what one gives that accumulates the same micro-batches. The collective of more than
two workers adds in its own (fixed) order: such runs repeat themselves exactly, but agree with fewer
workers only up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from raygseg.errors import ConfigError

INFINITE_GRADIENT = 1e5  # spec A8: NaN -> 0, +-inf -> +-1e5 before the optimiser


class Group(Protocol):
    """The workers that train together."""

    rank: int
    size: int

    def sum(self, flat: Tensor) -> None:
        """Replace `flat` by its sum over all workers."""
        ...

    def broadcast(self, flat: Tensor) -> None:
        """Replace `flat` by that of worker 0."""
        ...


class Alone:
    """One worker."""

    rank = 0
    size = 1

    def sum(self, flat: Tensor) -> None:
        return None

    def broadcast(self, flat: Tensor) -> None:
        return None


class ProcessGroup:
    """The workers of the initialised default `torch.distributed` group (gloo or nccl)."""

    def __init__(self) -> None:
        self.rank = torch.distributed.get_rank()
        self.size = torch.distributed.get_world_size()

    def sum(self, flat: Tensor) -> None:
        if self.size > 1:
            torch.distributed.all_reduce(flat)

    def broadcast(self, flat: Tensor) -> None:
        if self.size > 1:
            torch.distributed.broadcast(flat, src=0)


def own_micro_batches(count: int, group: Group) -> range:
    """Global indices of this worker's micro-batches: a contiguous block of the step's `count`.

    Shares differ by one where the workers do not divide `count`. Raises ConfigError for more workers than that.
    """
    if count < group.size:
        raise ConfigError(
            f"{count} micro-batches a step cannot be shared out over {group.size} workers",
            "set schedule.micro_batch so that batch_size / micro_batch is a multiple of runtime.workers",
        )
    return range(group.rank * count // group.size, (group.rank + 1) * count // group.size)


def tree_sum(indices: Sequence[int], term: Callable[[int], Tensor]) -> Tensor:
    """Sum of `term(i)`: the first half plus the second half, each summed likewise.

    Terms are computed in order; at most log2(n) + 1 of them live at once.
    """
    if len(indices) == 1:
        return term(indices[0])
    half = len(indices) // 2
    total = tree_sum(indices[:half], term)
    return total.add_(tree_sum(indices[half:], term))


def flatten(parameters: Sequence[nn.Parameter], statistics: Mapping[str, Tensor]) -> Tensor:
    """One float32 vector: the gradients in parameter order, then the statistics in name order.

    A parameter that the loss does not reach counts as zero gradient.
    """
    pieces = [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters]
    device = parameters[0].device
    pieces += [statistics[name].detach().to(device, torch.float32).flatten() for name in sorted(statistics)]
    return torch.cat([piece.to(torch.float32) for piece in pieces])


def scatter(flat: Tensor, parameters: Sequence[nn.Parameter]) -> None:
    """Make the leading part of `flat` the parameters' gradients, finite (spec A8); they share its memory."""
    total = sum(parameter.numel() for parameter in parameters)
    torch.nan_to_num(flat[:total], 0.0, INFINITE_GRADIENT, -INFINITE_GRADIENT, out=flat[:total])
    cursor = 0
    for parameter in parameters:
        piece = flat[cursor : cursor + parameter.numel()].view_as(parameter)
        parameter.grad = piece.to(parameter.dtype)
        cursor += parameter.numel()


def split_statistics(tail: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `flatten` for the statistics, which `like` gives names and shapes."""
    names = sorted(like)
    pieces = torch.split(tail, [like[name].numel() for name in names])
    return {name: piece.view(like[name].shape) for name, piece in zip(names, pieces, strict=True)}


def broadcast_modules(modules: Mapping[str, nn.Module], group: Group) -> None:
    """Give every worker the parameters and buffers of worker 0."""
    for name in sorted(modules):
        for tensor in [*modules[name].parameters(), *modules[name].buffers()]:
            group.broadcast(tensor.data)
