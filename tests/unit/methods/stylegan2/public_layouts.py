"""Files in the layouts of the public code, made of our own weights by stand-ins that bear the public names."""

from __future__ import annotations

import contextlib
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raygseg.methods.stylegan2.discriminator import Discriminator
from raygseg.methods.stylegan2.generator import StyleGAN2Generator
from raygseg.methods.stylegan2.importers import nvidia, rosinality
from raygseg.nn.resampling import fir_kernel

BUFFERS = ("w_avg", "noise_const", "resample_filter")


def networks(**changes: Any) -> tuple[StyleGAN2Generator, Discriminator]:
    """Small ones whose every tensor is random."""
    torch.manual_seed(1)
    sizes = {"resolution": 16, "channel_base": 128, "channel_max": 16}
    generator = StyleGAN2Generator(**{**sizes, "z_dim": 8, "w_dim": 8, "mapping_layers": 2, **changes})
    discriminator = Discriminator(**sizes)
    for tensor in [*generator.state_dict().values(), *discriminator.state_dict().values()]:
        tensor.normal_()
    return generator, discriminator


# --- NVIDIA --------------------------------------------------------------------------------------


class Record:
    """Pickled as NVIDIA's persistence hook pickles a module: a call with the class's source text and its state."""

    def __init__(self, name: str, source: str = "raise RuntimeError('run')", **settings: Any) -> None:
        self.name, self.source = name, source
        empty: dict[str, Any] = {key: OrderedDict() for key in ("_parameters", "_buffers", "_modules")}
        self.state: dict[str, Any] = {**empty, "training": False, "_non_persistent_buffers_set": set(), **settings}

    def __reduce__(self) -> tuple[Any, ...]:
        hook = sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj  # type: ignore[attr-defined]
        meta = {"type": "class", "version": 6, "module_src": self.source}
        return hook, ({**meta, "class_name": self.name, "state": self.state},), None

    def child(self, name: str) -> Record:
        children: dict[str, Record] = self.state["_modules"]
        return children.setdefault(name, Record(name))

    def put(self, dotted: str, tensor: Tensor) -> None:
        """A parameter or buffer below this module."""
        *path, leaf = dotted.split(".")
        module = self
        for part in path:
            module = module.child(part)
        is_buffer = leaf in BUFFERS
        module.state["_buffers" if is_buffer else "_parameters"][leaf] = (
            tensor.clone() if is_buffer else torch.nn.Parameter(tensor.clone())
        )

    def at(self, dotted: str) -> Record:
        module = self
        for part in dotted.split("."):
            module = module.child(part)
        return module


@contextlib.contextmanager
def public_names() -> Iterator[types.SimpleNamespace]:
    """Modules named as NVIDIA's, whose functions do nothing: they are only pickled by name."""

    def _reconstruct_persistent_obj(meta: Any) -> None:
        raise AssertionError("the hook was called")

    class EasyDict(dict[str, Any]):
        pass

    persistence, util = types.ModuleType("torch_utils.persistence"), types.ModuleType("dnnlib.util")
    _reconstruct_persistent_obj.__module__, EasyDict.__module__ = persistence.__name__, util.__name__
    _reconstruct_persistent_obj.__qualname__, EasyDict.__qualname__ = "_reconstruct_persistent_obj", "EasyDict"
    vars(persistence)["_reconstruct_persistent_obj"], vars(util)["EasyDict"] = _reconstruct_persistent_obj, EasyDict
    modules = {
        "torch_utils": types.ModuleType("torch_utils"),
        "torch_utils.persistence": persistence,
        "dnnlib": types.ModuleType("dnnlib"),
        "dnnlib.util": util,
    }
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield types.SimpleNamespace(EasyDict=EasyDict)
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


def nvidia_generator(generator: StyleGAN2Generator) -> Record:
    build = generator.build
    root = Record("Generator", c_dim=0, img_resolution=build["resolution"], img_channels=build["image_channels"])
    root.state |= {"z_dim": build["z_dim"], "w_dim": build["w_dim"], "_init_kwargs": {"c_dim": 0}}
    for name, tensor in generator.state_dict().items():
        root.put(nvidia.generator_name(name), tensor)
    for index in range(build["mapping_layers"]):
        root.at(f"mapping.fc{index}").state["bias_gain"] = 0.01
    for name, block in root.child("synthesis").state["_modules"].items():
        block.state |= {"architecture": "skip", "resolution": int(name[1:]), "use_fp16": False}
        block.put("resample_filter", fir_kernel())
    return root


def nvidia_discriminator(discriminator: Discriminator, resolution: int = 16) -> Record:
    root = Record("Discriminator", c_dim=0, img_resolution=resolution, img_channels=3)
    for name, tensor in discriminator.state_dict().items():
        root.put(nvidia.discriminator_name(name, resolution), tensor)
    root.at("b4.mbstd").state |= {"group_size": 4, "num_channels": 1}
    for block in root.state["_modules"].values():
        block.state["architecture"] = "resnet"
    return root


def dump(path: Path, document: Any, protocol: int = pickle.DEFAULT_PROTOCOL) -> Path:
    """Pickle with the public names in place."""
    with public_names():
        path.write_bytes(pickle.dumps(document, protocol, fix_imports=False))
    return path


# --- rosinality ----------------------------------------------------------------------------------


def rosinality_generator(generator: StyleGAN2Generator) -> dict[str, Tensor]:
    """Its state_dict: ones around the shapes, and filters."""
    state: dict[str, Tensor] = {}
    for name, tensor in generator.state_dict().items():
        theirs = rosinality.generator_name(name)
        if theirs.endswith((".conv.weight", "input.input")) or "noises." in theirs:
            tensor = tensor[None] if "noises." not in theirs else tensor[None, None]
        elif theirs.startswith("to_rgb") and theirs.endswith(".bias") and "modulation" not in theirs:
            tensor = tensor[None, :, None, None]
        state[theirs] = tensor.reshape(1) if theirs.endswith("noise.weight") else tensor
    del state["latent_avg"]
    state["convs.0.conv.blur.kernel"], state["to_rgbs.0.upsample.kernel"] = fir_kernel() * 4, fir_kernel() * 4
    return state


def rosinality_discriminator(discriminator: Discriminator) -> dict[str, Tensor]:
    state = {rosinality.discriminator_name(name): tensor for name, tensor in discriminator.state_dict().items()}
    return state | {"convs.1.conv2.0.kernel": fir_kernel()}
