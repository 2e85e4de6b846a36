"""What the globals of an NVIDIA snapshot stand for: tensors, arrays, containers and records of modules.

A snapshot is a plain pickle. Each network in it is a call of `torch_utils.persistence._reconstruct_persistent_obj`
with the source text of its class and its `__dict__`; the call would run that text, so here it gives a `Module`: the
class's name and the state, the text dropped unread. A tensor is a call of `torch._utils._rebuild_tensor_v2` on a
storage, which is in turn the bytes of a `torch.save` file nested in the pickle.
"""

from __future__ import annotations

import io
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from raygseg.errors import CheckpointError
from raygseg.methods.stylegan2.importers.plain_pickle import Allowed, Pending, PickleReader

# The header of torch's older file format: a number, a version, facts about the machine, then the object.
TORCH_MAGIC, TORCH_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
T = TypeVar("T")
NUMPY_TYPE = re.compile(r"[biufc]\d{1,2}|\?")


@dataclass(frozen=True)
class Module:
    """A network of the file, as data.

    Attributes:
        name: its class's name.
        state: its `__dict__`: settings, and `_parameters`, `_buffers`, `_modules`.
    """

    name: str
    state: Mapping[str, Any]

    def walk(self, origin: str) -> dict[str, Module]:
        """This module ("") and all below it, by dotted name. CheckpointError where one is held twice or by itself."""
        found: dict[str, Module] = {}
        pending: list[tuple[str, Module]] = [("", self)]
        seen: set[int] = set()
        while pending:
            name, module = pending.pop()
            if id(module) in seen:
                raise CheckpointError(f"{origin}: the module {name} is held twice", "give a network snapshot")
            seen.add(id(module))
            found[name] = module
            children = _held(module, "_modules", Module).items()
            pending += [(f"{name}.{child}" if name else child, below) for child, below in children]
        return found


def tensors_of(modules: Mapping[str, Module]) -> dict[str, Tensor]:
    """Parameters and buffers of what `walk` found, by dotted name."""
    return {
        f"{name}.{leaf}" if name else leaf: tensor
        for name, module in modules.items()
        for group in ("_parameters", "_buffers")
        for leaf, tensor in _held(module, group, Tensor).items()
    }


def _held(module: Module, group: str, kind: type[T]) -> dict[str, T]:
    held = module.state.get(group)
    return {str(n): v for n, v in held.items() if isinstance(v, kind)} if isinstance(held, dict) else {}


def read_snapshot(path: str | Path) -> Any:
    """The object of an NVIDIA `.pkl`: usually {"G_ema": Module, "G": Module, "D": Module, ...}.

    Raises:
        CheckpointError: not there, truncated, or a global that is none of the above (named). Nothing is run.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})", "check the path") from error
    return PickleReader(_globals(str(path)), str(path)).read(io.BytesIO(content))


# --- tensors -------------------------------------------------------------------------------------


class _Storage:
    """A storage that the nested file announces; its numbers come at the file's end."""

    def __init__(self, dtype: torch.dtype, key: str, numel: int) -> None:
        self.dtype, self.key, self.numel = dtype, key, numel


def _load_storage(content: Any, origin: str) -> Tensor:
    """The numbers [K] of a storage written by torch.save in its older format, which is how torch pickles one.

    The file announces how many numbers it holds; nothing is allocated before that many bytes are there.
    """
    if type(content) is not bytes:
        raise TypeError("a storage that is no bytes")
    if content.startswith(b"PK"):
        raise CheckpointError(f"{origin}: a storage is a nested zip file", "save the network with NVIDIA's own code")
    stream = io.BytesIO(content)
    types = {f"torch.{name}": Allowed(f"torch.{name}") for name in STORAGES}
    magic, protocol, machine = (PickleReader({}, origin).read(stream) for _ in range(3))
    if magic != TORCH_MAGIC or protocol != TORCH_PROTOCOL or type(machine) is not dict:
        raise ValueError("a storage without torch's header")
    if machine.get("little_endian", True) is not (sys.byteorder == "little"):
        raise ValueError("numbers in the other byte order")
    announced = PickleReader(types, origin, _announced).read(stream)
    keys = PickleReader({}, origin).read(stream)
    if not isinstance(announced, _Storage) or keys != [announced.key]:
        raise ValueError("a nested file that is not one storage")
    size, data = announced.numel * announced.dtype.itemsize, content[stream.tell() :]
    if len(data) != 8 + size or int.from_bytes(data[:8], sys.byteorder) != announced.numel:
        raise ValueError(f"a storage of {announced.numel} numbers in {max(len(data) - 8, 0)} bytes")
    if not announced.numel:
        return torch.empty(0, dtype=announced.dtype)
    return torch.frombuffer(bytearray(data[8:]), dtype=announced.dtype)


def _announced(identity: Any) -> _Storage:
    """The storage of a persistent id ("storage", type, key, device, count, view)."""
    kind, storage_type, key, _, numel, view = identity
    name = storage_type.name.removeprefix("torch.") if isinstance(storage_type, Allowed) else ""
    if kind != "storage" or name not in STORAGES or view is not None or type(numel) is not int or numel < 0:
        raise ValueError("a storage of unknown kind")
    return _Storage(STORAGES[name], str(key), numel)


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """A dense tensor on its storage; a view that repeats numbers could be of any size and is refused."""
    sizes, strides = list(size), list(stride)
    if not isinstance(storage, Tensor) or len(sizes) != len(strides):
        raise TypeError("a tensor without a storage")
    if not all(type(n) is int and n >= 0 for n in (offset, *sizes, *strides)):
        raise ValueError("a tensor with negative sizes")
    last = offset + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    if math.prod(sizes) > storage.numel() or (math.prod(sizes) and last >= storage.numel()):
        raise ValueError(f"a tensor {sizes} on a storage of {storage.numel()} numbers")
    return torch.as_strided(storage, sizes, strides, offset).contiguous()


def _rebuild_parameter(tensor: Any, *_: Any) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise TypeError("a parameter without a tensor")
    return tensor


# --- arrays --------------------------------------------------------------------------------------


def _numpy_type(code: Any, *_: Any) -> Pending:
    if type(code) is not str or not NUMPY_TYPE.fullmatch(code):
        raise ValueError(f"arrays of {code!r}")

    def finish(state: Any) -> np.dtype[Any]:
        if any(part is not None for part in state[2:5]) or state[1] not in ("<", ">", "|", "="):
            raise ValueError("arrays of records")
        return np.dtype(code).newbyteorder(state[1])

    return Pending(finish)


def _numpy_array(*_: Any) -> Pending:
    """An empty array, whose state (version, shape, type, Fortran order, bytes) comes by BUILD."""

    def finish(state: Any) -> np.ndarray[Any, Any]:
        _, shape, dtype, fortran, data = state
        return np.frombuffer(data, _numeric(dtype)).reshape(shape, order="F" if fortran else "C").copy()

    return Pending(finish)


def _numpy_scalar(dtype: Any, data: bytes) -> Any:
    (value,) = np.frombuffer(data, _numeric(dtype))
    return value.item()


def _numeric(dtype: Any) -> np.dtype[Any]:
    if not isinstance(dtype, np.dtype) or dtype.hasobject:
        raise TypeError("an array whose numbers have no type")
    return dtype


# --- the table -----------------------------------------------------------------------------------


def _persistent(meta: Any) -> Module:
    state = meta["state"]
    if type(meta["class_name"]) is not str or type(state) is not dict:
        raise TypeError("a persistent object that is no module")
    return Module(meta["class_name"], state)


def _encode(text: Any, encoding: Any) -> bytes:
    """How the pickle protocol 2 writes bytes."""
    if type(text) is not str or encoding != "latin1":
        raise TypeError("bytes in an unknown writing")
    return text.encode("latin1")


def _mapping(items: Any = ()) -> dict[Any, Any]:
    pairs = list(items)
    if not all(type(key) in (str, int) for key, _ in pairs):
        raise TypeError("a mapping with odd keys")
    return dict(pairs)


def _globals(origin: str) -> dict[str, Allowed]:
    makers: dict[str, Any] = {
        "collections.OrderedDict": _mapping,
        "dnnlib.util.EasyDict": _mapping,
        "dnnlib.EasyDict": _mapping,
        "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
        "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
        "torch._utils._rebuild_parameter": _rebuild_parameter,
        "torch.storage._load_from_bytes": lambda content: _load_storage(content, origin),
        "torch.Size": lambda sizes: tuple(sizes),
        "torch.device": lambda *words: ":".join(str(word) for word in words),
        "numpy.dtype": _numpy_type,
        "_codecs.encode": _encode,
    }
    for core in ("numpy.core.multiarray", "numpy._core.multiarray"):
        makers[f"{core}._reconstruct"] = _numpy_array
        makers[f"{core}.scalar"] = _numpy_scalar
    for module in ("builtins", "__builtin__"):
        makers[f"{module}.set"] = lambda items=(): set(_mapping((item, None) for item in items))
    named = ["numpy.ndarray", *(f"torch.{t}" for t in ("float16", "float32", "float64", "bfloat16", "int64", "uint8"))]
    table = {name: Allowed(name, make) for name, make in makers.items()}
    return table | {name: Allowed(name) for name in named}
