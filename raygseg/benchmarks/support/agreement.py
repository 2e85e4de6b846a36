"""How far two implementations are apart, tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """max |ours - theirs| / max |theirs| over one tensor.

    0 where both are zero everywhere; infinite where only theirs is, where shapes differ or a number is not finite.
    """
    if ours.shape != theirs.shape or not (ours.isfinite().all() and theirs.isfinite().all()):
        return float("inf")
    if not ours.numel():
        return 0.0
    difference = float((ours.double() - theirs.double()).abs().max())
    scale = float(theirs.double().abs().max())
    if scale == 0.0:
        return 0.0 if difference == 0.0 else float("inf")
    return difference / scale


class Agreement:
    """The largest relative error of each quantity, and the tensor that had it.

    Attributes:
        errors: by quantity.
        worst: by quantity, the name of the tensor; "" for quantities of one tensor.
    """

    def __init__(self) -> None:
        self.errors: dict[str, float] = {}
        self.worst: dict[str, str] = {}

    def hold(self, quantity: str, ours: Tensor, theirs: Tensor, name: str = "") -> None:
        """Take in one more tensor of a quantity."""
        error = relative_error(ours.detach(), theirs.detach())
        if quantity not in self.errors or error > self.errors[quantity]:
            self.errors[quantity], self.worst[quantity] = error, name

    def hold_all(self, quantity: str, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
        """Take in tensors by name; a name on one side only counts as an infinite error."""
        for name in sorted(set(ours) | set(theirs)):
            empty = torch.empty(0)
            a, b = ours.get(name, empty), theirs.get(name, empty)
            self.hold(quantity, a, b if b.numel() or not a.numel() else torch.full_like(a, torch.nan), name)


def largest(cases: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The largest error of each quantity over the cases {case: {quantity: error}}, in order of first mention."""
    found: dict[str, float] = {}
    for errors in cases.values():
        for quantity, error in errors.items():
            found[quantity] = max(error, found.get(quantity, 0.0))
    return found
