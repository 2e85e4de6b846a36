"""From the tensors of another implementation to ours: widths, names, shapes, each checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from raygseg.errors import CheckpointError
from raygseg.methods.stylegan2.discriminator import Discriminator
from raygseg.methods.stylegan2.generator import StyleGAN2Generator
from raygseg.nn.resampling import fir_kernel

SHOWN = 4  # names in a message


@dataclass(frozen=True)
class Weights:
    """One network, ready for our class.

    Attributes:
        build: keyword arguments of `StyleGAN2Generator` or `Discriminator`.
        tensors: its state, fp32.
        notes: what the file says that our network does not do, and the like; JSON values.
    """

    build: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    notes: Mapping[str, Any] = field(default_factory=dict)


def widths_rule(widths: Mapping[int, int], origin: str) -> tuple[int, int]:
    """(channel_base, channel_max) with widths[r] = min(base // r, max) (spec A1).

    CheckpointError where no such pair exists.
    """
    most = widths[min(widths)]
    narrow = [r for r in widths if widths[r] < most]
    base = widths[min(narrow)] * min(narrow) if narrow else most * max(widths)
    if any(width != min(base // resolution, most) for resolution, width in widths.items()):
        listed = ", ".join(f"{width} at {resolution} px" for resolution, width in sorted(widths.items()))
        raise CheckpointError(
            f"{origin}: the channels ({listed}) do not follow min(base / r, {most})",
            "only networks of the published width rule can be imported",
        )
    return base, most


def empty_generator(build: Mapping[str, Any]) -> dict[str, Tensor]:
    """Names and shapes of our generator's state, without memory."""
    with torch.device("meta"):
        return StyleGAN2Generator(**build).state_dict()


def empty_discriminator(build: Mapping[str, Any]) -> dict[str, Tensor]:
    """Names and shapes of our discriminator's state, without memory."""
    with torch.device("meta"):
        return Discriminator(**build).state_dict()


def translate(
    theirs: Mapping[str, Tensor], wanted: Mapping[str, Tensor], their_name: Callable[[str], str], origin: str
) -> dict[str, Tensor]:
    """Their tensors under our names, fp32.

    Args:
        theirs: everything the file holds for this network, resampling filters left out.
        wanted: our names with tensors of the right shapes.
        their_name: from our name to theirs.

    Raises:
        CheckpointError: a tensor is missing, left over or of another shape; names it.
    """
    names = {ours: their_name(ours) for ours in wanted}
    _all_there("misses", (name for name in names.values() if name not in theirs), origin)
    _all_there("has the unknown", set(theirs) - set(names.values()), origin)
    translated: dict[str, Tensor] = {}
    for ours, name in names.items():
        tensor, shape = theirs[name], wanted[ours].shape
        # Leading and trailing ones ([1, O, I, k, k], [1, C, 1, 1], a scalar as [1]) are a matter of writing.
        if [n for n in tensor.shape if n != 1] != [n for n in shape if n != 1]:
            raise CheckpointError(
                f"{origin}: {name} has the shape {list(tensor.shape)}, {list(shape)} was expected",
                "only StyleGAN2 networks of the published layout can be imported",
            )
        value = tensor.detach().to(torch.float32).reshape(shape).clone()
        if not bool(value.isfinite().all()):
            raise CheckpointError(f"{origin}: {name} holds numbers that are not finite", "take an earlier snapshot")
        translated[ours] = value
    return translated


def tensor_named(tensors: Mapping[str, Tensor], name: str, dimensions: int, origin: str) -> Tensor:
    """One tensor of `dimensions` axes; CheckpointError where it is missing or otherwise shaped."""
    if name not in tensors:
        _all_there("misses", [name], origin)
    if tensors[name].ndim != dimensions:
        raise CheckpointError(
            f"{origin}: {name} has {tensors[name].ndim} axes, {dimensions} were expected",
            "only StyleGAN2 networks of the published layout can be imported",
        )
    return tensors[name]


def without_filters(tensors: Mapping[str, Tensor], ending: str, origin: str) -> dict[str, Tensor]:
    """The tensors but for the resampling filters, each of which must be [1, 3, 3, 1] (spec A2) up to its gain."""
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.rsplit(".", 1)[-1] != ending:
            kept[name] = tensor
        elif tensor.shape != (4, 4) or not _is_fir(tensor):
            raise CheckpointError(
                f"{origin}: {name} is not the filter [1, 3, 3, 1]", "networks with other filters cannot be imported"
            )
    return kept


def _is_fir(kernel: Tensor) -> bool:
    return torch.allclose(kernel.double() / kernel.double().sum(), fir_kernel(torch.float64))


def _all_there(what: str, names: Iterable[str], origin: str) -> None:
    odd = sorted(names)
    if odd:
        rest = f" and {len(odd) - SHOWN} more" if len(odd) > SHOWN else ""
        raise CheckpointError(
            f"{origin}: the file {what} {', '.join(odd[:SHOWN])}{rest}",
            "only StyleGAN2 networks of the published layout can be imported",
        )
