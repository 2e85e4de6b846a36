"""A training state as plain files: tensors in one safetensors document, everything else in JSON.

A state is a tree of dicts, lists and tuples; leaves are tensors or JSON scalars; dict keys are
strings or integers (optimisers number their parameters). Reading one executes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from raygseg.errors import CheckpointError

Scalar = str | int | float | bool | None
_TENSOR, _DICT, _TUPLE = "tensor", "dict", "tuple"


def snapshot(state: Any) -> Any:
    """A copy of the tree on the CPU that later training steps cannot change."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True).contiguous()
    if isinstance(state, Mapping):
        return {key: snapshot(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(snapshot(value) for value in state)
    return state


def split(state: Any) -> tuple[dict[str, Tensor], Any]:
    """(tensors by path, skeleton of JSON values in which a tensor is its path)."""
    tensors: dict[str, Tensor] = {}

    def skeleton(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            name = path if path not in tensors else f"{path}~{len(tensors)}"
            tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
            return {_TENSOR: name}
        if isinstance(value, Mapping):
            bad = [key for key in value if type(key) not in (str, int)]
            if bad:
                raise TypeError(f"{path}: keys of a training state are strings or integers, not {bad[0]!r}")
            return {_DICT: [[key, skeleton(item, f"{path}/{key}")] for key, item in value.items()]}
        if isinstance(value, (list, tuple)):
            items = [skeleton(item, f"{path}/{i}") for i, item in enumerate(value)]
            return {_TUPLE: items} if isinstance(value, tuple) else items
        if value is None or type(value) in (str, int, float, bool):
            return value
        raise TypeError(f"{path}: a training state cannot hold {type(value).__name__}")

    return tensors, skeleton(state, "")


def join(tensors: Mapping[str, Tensor], skeleton: Any) -> Any:
    """Undo `split`. Raises CheckpointError where the two do not belong together."""
    if isinstance(skeleton, list):
        return [join(tensors, item) for item in skeleton]
    if not isinstance(skeleton, dict):
        return skeleton
    if _DICT in skeleton:
        return {key: join(tensors, item) for key, item in skeleton[_DICT]}
    if _TUPLE in skeleton:
        return tuple(join(tensors, item) for item in skeleton[_TUPLE])
    name = str(skeleton.get(_TENSOR))
    if name not in tensors:
        raise CheckpointError(f"tensor {name!r} is missing", "go on from an earlier checkpoint")
    return tensors[name]
