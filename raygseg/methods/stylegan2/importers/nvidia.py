"""NVIDIA's `.pkl` snapshots: stylegan2-ada-pytorch, and stylegan3 with its stylegan2 configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raygseg.errors import CheckpointError
from raygseg.methods.stylegan2.importers import layout
from raygseg.methods.stylegan2.importers.layout import Weights
from raygseg.methods.stylegan2.importers.snapshot import Module, read_snapshot, tensors_of

NETWORKS = {"average": "G_ema", "generator": "G", "discriminator": "D"}
LR_MULTIPLIER = 0.01  # of the mapping network


class NvidiaSnapshot:
    """A snapshot whose networks are translated when asked for.

    Attributes:
        networks: which of average, generator and discriminator it holds.
    """

    format = "nvidia"

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        document = read_snapshot(path)
        held = document if isinstance(document, Mapping) else {}
        self._modules = {ours: held[name] for ours, name in NETWORKS.items() if isinstance(held.get(name), Module)}
        self.networks = tuple(self._modules)
        if not self.networks:
            raise CheckpointError(
                f"{self.path}: a pickle without any of {', '.join(NETWORKS.values())}", "give a network snapshot"
            )

    def generator(self, which: str = "average") -> Weights:
        """`which`: average or generator. CheckpointError where the network is of another kind than ours."""
        module, origin = self._modules[which], f"{self.path} ({NETWORKS[which]})"
        modules = module.walk(origin)
        if "synthesis.input" in modules:
            raise _other(origin, "an alias-free StyleGAN3 generator", "only the stylegan2 configuration is supported")
        _check(modules, "skip", origin)
        state, tensors = module.state, layout.without_filters(tensors_of(modules), "resample_filter", origin)
        resolution = _number(state, "img_resolution", origin)
        sides = [2**i for i in range(2, resolution.bit_length())]
        widths = {r: layout.tensor_named(tensors, f"synthesis.b{r}.conv1.weight", 4, origin).shape[0] for r in sides}
        base, most = layout.widths_rule(widths, origin)
        build = {
            "resolution": resolution,
            "z_dim": _number(state, "z_dim", origin),
            "w_dim": _number(state, "w_dim", origin),
            "mapping_layers": sum(name.startswith("mapping.fc") for name in modules),
            "channel_base": base,
            "channel_max": most,
            "image_channels": _number(state, "img_channels", origin),
        }
        _check_multiplier(modules, origin)
        wanted = layout.empty_generator(build)
        return Weights(build, layout.translate(tensors, wanted, generator_name, origin), _notes(modules))

    def discriminator(self) -> Weights:
        """CheckpointError where the file holds none, or one of another kind than ours."""
        if "discriminator" not in self._modules:
            raise CheckpointError(f"{self.path}: holds no discriminator (D)", "leave the discriminator out")
        module, origin = self._modules["discriminator"], f"{self.path} (D)"
        modules = module.walk(origin)
        _check(modules, "resnet", origin)
        tensors = layout.without_filters(tensors_of(modules), "resample_filter", origin)
        resolution = _number(module.state, "img_resolution", origin)
        sides = [2**i for i in range(3, resolution.bit_length())]
        widths = {r: layout.tensor_named(tensors, f"b{r}.conv0.weight", 4, origin).shape[0] for r in sides}
        widths[4] = layout.tensor_named(tensors, "b4.conv.weight", 4, origin).shape[0]
        base, most = layout.widths_rule(widths, origin)
        mbstd = modules.get("b4.mbstd")
        if mbstd is None or mbstd.state.get("num_channels") != 1 or type(mbstd.state.get("group_size")) is not int:
            raise _other(origin, "a discriminator without one standard-deviation channel a group")
        build = {
            "resolution": resolution,
            "channel_base": base,
            "channel_max": most,
            "mbstd_group": mbstd.state["group_size"],
            "image_channels": _number(module.state, "img_channels", origin),
        }

        def name(ours: str) -> str:
            return discriminator_name(ours, resolution)

        wanted = layout.empty_discriminator(build)
        return Weights(build, layout.translate(tensors, wanted, name, origin), _notes(modules))


def generator_name(ours: str) -> str:
    """`synthesis.blocks.1.to_image.bias` is `synthesis.b8.torgb.bias`, `mapping.layers.0.bias` `mapping.fc0.bias`."""
    if ours.startswith("mapping.layers."):
        return ours.replace("layers.", "fc", 1)
    if ours.startswith("synthesis.blocks."):
        _, _, index, rest = ours.split(".", 3)
        return f"synthesis.b{4 << int(index)}.{rest}".replace(".to_image.", ".torgb.")
    return ours


def discriminator_name(ours: str, resolution: int) -> str:
    """`blocks.0.skip.weight` -> `b256.skip.weight`; the epilogue is b4."""
    head, rest = ours.split(".", 1)
    if head == "blocks":
        index, rest = rest.split(".", 1)
        return f"b{resolution >> int(index)}.{rest}"
    if head == "from_image":
        return f"b{resolution}.fromrgb.{rest}"
    return f"b4.{'fc' if head == 'dense' else head}.{rest}"


# --- what must hold for our networks to mean the same ---------------------------------------------


def _check(modules: Mapping[str, Module], architecture: str, origin: str) -> None:
    """Unconditional, of the default architecture, leaky ReLU, with noise inputs."""
    conditions = modules[""].state.get("c_dim", 0)
    if conditions != 0:
        raise _other(
            origin, f"a class-conditional network (c_dim {conditions})", "only unconditional ones are supported"
        )
    for name, module in modules.items():
        settings = module.state
        if settings.get("architecture", architecture) != architecture:
            raise _other(origin, f"{name} of architecture '{settings['architecture']}' in place of '{architecture}'")
        if settings.get("activation", "lrelu") not in ("lrelu", "linear"):
            raise _other(origin, f"{name} with the activation '{settings['activation']}'")
        if settings.get("use_noise", True) is not True:
            raise _other(origin, f"{name} without noise")


def _check_multiplier(modules: Mapping[str, Module], origin: str) -> None:
    """The mapping's learning-rate multiplier is part of what its stored weights mean; ours is 0.01."""
    for name, module in modules.items():
        multiplier = module.state.get("bias_gain")
        if name.startswith("mapping.fc") and multiplier != LR_MULTIPLIER:
            raise _other(origin, f"{name} with the learning-rate multiplier {multiplier}")


def _notes(modules: Mapping[str, Module]) -> dict[str, Any]:
    """Half precision and clamping, which the file asks for and our network leaves out."""
    states = [module.state for module in modules.values()]
    clamps = [s["conv_clamp"] for s in states if isinstance(s.get("conv_clamp"), (int, float))]
    half = [s["resolution"] for s in states if s.get("use_fp16") is True and isinstance(s.get("resolution"), int)]
    return ({"conv_clamp": max(clamps)} if clamps else {}) | ({"fp16_resolutions": sorted(half)} if half else {})


def _number(state: Mapping[str, Any], name: str, origin: str) -> int:
    value = state.get(name)
    if type(value) is not int or not 0 < value <= 1 << 16:
        raise CheckpointError(f"{origin}: {name} is {value!r}, not a size", "give a network snapshot")
    return value


def _other(origin: str, what: str, hint: str = "only the published default layout can be imported") -> CheckpointError:
    return CheckpointError(f"{origin}: {what}", hint)
