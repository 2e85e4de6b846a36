"""Public implementations beside ours: where they lie, how they start, scripted random draws.

Each runs in a process of its own (they share package names) from the folder that RAYGSEG_PEERS names.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from packaging.version import parse
from torch import Tensor

from raygseg.errors import MissingEnvironmentError

VARIABLE = "RAYGSEG_PEERS"
NVIDIA_ADA, NVIDIA_3, ROSINALITY = "stylegan2-ada-pytorch", "stylegan3", "stylegan2-pytorch"
PANET = "PANet"
SEMANTICGAN = "semanticGAN_code"
REPOSITORY = Path(__file__).resolve().parents[3]


def peer_folder(name: str) -> Path:
    """The checkout of one public implementation. MissingEnvironmentError where it is not there."""
    root = os.environ.get(VARIABLE, "")
    if not root:
        raise MissingEnvironmentError(
            f"{VARIABLE} is not set", f"set it to a folder with a checkout of {name}, and of others to compare with"
        )
    folder = Path(root) / name
    if not folder.is_dir():
        raise MissingEnvironmentError(f"{folder} is not there", f"put a checkout of {name} into {root}")
    return folder


def run_beside(module: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What `python -m module JSON` prints as its last line, in a fresh process.

    Raises:
        MissingEnvironmentError: the process failed; carries the end of what it said.
    """
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", module, json.dumps(settings)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise MissingEnvironmentError(f"{module} failed:\n{done.stderr[-2000:]}", "see the trace above")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def enter(name: str) -> None:
    """Make a public implementation importable in this process, with stand-ins for what its CPU path never calls."""
    sys.path.insert(0, str(peer_folder(name)))
    # Gone from newer Pythons and setuptools; one function of each is wanted.
    _stand_in("distutils.util", strtobool=lambda text: text.lower() in ("1", "y", "yes", "true", "on"))
    _stand_in("pkg_resources", parse_version=parse)
    if name == ROSINALITY:
        # It compiles CUDA operators on import and reads pictures through packages that are no part of the comparison.
        from torch.utils import cpp_extension

        cpp_extension.load = lambda *_, **__: None
        for package in ("lmdb", "torchvision", "wandb", "tqdm"):
            _stand_in(package, transforms=None, utils=None, tqdm=None)


def in_double_precision() -> None:
    """From here on this process computes in fp64 wherever the code of either side says fp32.

    Leaky ReLU has a kink: two correct fp32 forms round a few of millions of activations to different sides of it, and
    each changes gradients by a finite amount. In fp64 none does, so what is left is a difference of formulas.
    """
    torch.set_default_dtype(torch.float64)
    vars(torch)["float32"] = torch.float64
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]


def _stand_in(name: str, **attributes: Any) -> None:
    try:
        importlib.import_module(name)
    except ImportError:
        module = types.ModuleType(name)
        vars(module).update(attributes)
        sys.modules[name] = module
        parent = name.rpartition(".")[0]
        if parent:
            sys.modules.setdefault(parent, types.ModuleType(parent))


@contextlib.contextmanager
def scripted(**queues: Sequence[Tensor]) -> Iterator[None]:
    """`torch.<name>` returns the tensors of its queue, one a call; each must have the shape that was asked for."""
    with contextlib.ExitStack() as stack:
        left = {name: list(queue) for name, queue in queues.items()}
        for name in queues:
            stack.enter_context(mock.patch.object(torch, name, _scripted_draw(name, left[name])))
        yield
    if any(left.values()):
        raise AssertionError(f"draws that were not taken: { {name: len(queue) for name, queue in left.items()} }")


def _scripted_draw(name: str, queue: list[Tensor]) -> Callable[..., Tensor]:
    def draw(size: Any, *rest: Any, **_: Any) -> Tensor:
        like = size.shape if isinstance(size, Tensor) else size
        wanted = (like, *rest) if isinstance(like, int) else tuple(like)
        value = queue.pop(0)
        assert tuple(value.shape) == wanted, f"torch.{name}{wanted} where {tuple(value.shape)} was scripted"
        return value.clone()

    return draw
