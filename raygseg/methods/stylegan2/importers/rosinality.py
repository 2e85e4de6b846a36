"""rosinality's `.pt` checkpoints of stylegan2-pytorch, read by torch's own weights-only loader."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raygseg.errors import CheckpointError
from raygseg.methods.stylegan2.generator import StyleGAN2Generator
from raygseg.methods.stylegan2.importers import layout
from raygseg.methods.stylegan2.importers.layout import Weights
from raygseg.seeding import torch_rng

NETWORKS = {"average": "g_ema", "generator": "g", "discriminator": "d"}
MBSTD_GROUP = 4  # fixed in that code
W_AVG_DRAWS = 16384


class RosinalityCheckpoint:
    """A checkpoint whose networks are translated when asked for.

    Attributes:
        networks: which of average, generator and discriminator it holds.
    """

    format = "rosinality"

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        document = _load(self.path)
        self._states = {ours: document[name] for ours, name in NETWORKS.items() if _is_state(document.get(name))}
        self._latent_avg = document.get("latent_avg")
        self.networks = tuple(self._states)
        if not self.networks:
            raise CheckpointError(
                f"{self.path}: a checkpoint without any of {', '.join(NETWORKS.values())}",
                "give a checkpoint that rosinality's train.py or convert_weight.py wrote",
            )

    def generator(self, which: str = "average") -> Weights:
        """`which`: average or generator. CheckpointError where names, shapes or widths are not the published ones.

        The checkpoints of train.py hold no mean of w; then it is estimated from seeded latents and noted.
        """
        origin = f"{self.path} ({NETWORKS[which]})"
        theirs = layout.without_filters(self._states[which], "kernel", origin)
        widths = {4: layout.tensor_named(theirs, "conv1.conv.weight", 5, origin).shape[1]}
        while f"convs.{2 * len(widths) - 1}.conv.weight" in theirs:
            name = f"convs.{2 * len(widths) - 1}.conv.weight"
            widths[4 << len(widths)] = layout.tensor_named(theirs, name, 5, origin).shape[1]
        base, most = layout.widths_rule(widths, origin)
        dimension = layout.tensor_named(theirs, "style.1.weight", 2, origin).shape[1]
        build = {
            "resolution": max(widths),
            "z_dim": dimension,
            "w_dim": dimension,
            "mapping_layers": sum(re.fullmatch(r"style\.\d+\.weight", name) is not None for name in theirs),
            "channel_base": base,
            "channel_max": most,
            "image_channels": layout.tensor_named(theirs, "to_rgb1.bias", 4, origin).shape[1],
        }
        wanted = layout.empty_generator(build)
        known = isinstance(self._latent_avg, Tensor)
        # A stand-in that keeps the check of names whole; replaced below.
        theirs["latent_avg"] = self._latent_avg if isinstance(self._latent_avg, Tensor) else torch.zeros(dimension)
        tensors = layout.translate(theirs, wanted, generator_name, origin)
        if known:
            return Weights(build, tensors)
        tensors["mapping.w_avg"] = mean_of_w(build, tensors)
        return Weights(build, tensors, {"w_avg": f"estimated from {W_AVG_DRAWS} latents"})

    def discriminator(self) -> Weights:
        """CheckpointError where the file holds none, or its names, shapes or widths are not the published ones."""
        if "discriminator" not in self._states:
            raise CheckpointError(f"{self.path}: holds no discriminator (d)", "leave the discriminator out")
        origin = f"{self.path} (d)"
        theirs = layout.without_filters(self._states["discriminator"], "kernel", origin)
        levels = sum(re.fullmatch(r"convs\.\d+\.conv1\.0\.weight", name) is not None for name in theirs)
        resolution = 4 << levels
        widths = {resolution: layout.tensor_named(theirs, "convs.0.0.weight", 4, origin).shape[0]}
        for i in range(levels):
            name = f"convs.{i + 1}.conv2.1.weight"
            widths[resolution >> (i + 1)] = layout.tensor_named(theirs, name, 4, origin).shape[0]
        base, most = layout.widths_rule(widths, origin)
        build = {
            "resolution": resolution,
            "channel_base": base,
            "channel_max": most,
            "mbstd_group": MBSTD_GROUP,
            "image_channels": theirs["convs.0.0.weight"].shape[1],
        }
        wanted = layout.empty_discriminator(build)
        return Weights(build, layout.translate(theirs, wanted, discriminator_name, origin))


def generator_name(ours: str) -> str:
    """`synthesis.blocks.1.conv0.affine.bias` -> `convs.0.conv.modulation.bias`, and so on for each part."""
    if ours == "mapping.w_avg":
        return "latent_avg"
    if ours.startswith("mapping.layers."):
        _, _, index, leaf = ours.split(".")
        return f"style.{int(index) + 1}.{leaf}"  # style.0 normalises
    _, _, index, part, *rest = ours.split(".")
    block, leaf = int(index), ".".join(rest)
    if part == "const":
        return "input.input"
    if part == "to_image":
        layer = "to_rgb1" if block == 0 else f"to_rgbs.{block - 1}"
        return f"{layer}.bias" if leaf == "bias" else f"{layer}.conv.{leaf.replace('affine', 'modulation')}"
    number = 2 * block - (part == "conv0")  # of the convolution, counted over all blocks
    if leaf == "noise_const":
        return f"noises.noise_{number}"
    layer = "conv1" if block == 0 else f"convs.{number - 1}"
    names = {"bias": "activate.bias", "noise_strength": "noise.weight"}
    return f"{layer}.{names.get(leaf, 'conv.' + leaf.replace('affine', 'modulation'))}"


def discriminator_name(ours: str) -> str:
    """`blocks.0.conv1.bias` -> `convs.1.conv2.2.bias`: a filter comes first where the size is halved."""
    head, rest = ours.split(".", 1)
    if head == "blocks":
        index, part, leaf = rest.split(".")
        layer = {"conv0": "conv1", "conv1": "conv2", "skip": "skip"}[part]
        position = (part != "conv0") + (leaf == "bias")
        return f"convs.{int(index) + 1}.{layer}.{position}.{leaf}"
    if head in ("dense", "out"):
        return f"final_linear.{int(head == 'out')}.{rest}"
    return f"{'convs.0' if head == 'from_image' else 'final_conv'}.{int(rest == 'bias')}.{rest}"


def mean_of_w(build: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Tensor:
    """[w_dim]: the mean of w over seeded latents."""
    with torch.device("meta"):
        mapping = StyleGAN2Generator(**build).mapping
    state = {name.removeprefix("mapping."): t for name, t in tensors.items() if name.startswith("mapping.")}
    mapping.load_state_dict(state, assign=True)
    z = torch.randn(W_AVG_DRAWS, build["z_dim"], generator=torch_rng(0, "w_avg"))
    with torch.no_grad():
        mean: Tensor = mapping(z).mean(dim=0)
    return mean


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(t, Tensor) for t in value.values())


def _load(path: str) -> Mapping[str, Any]:
    """torch.load(weights_only=True); train.py also stores its `argparse.Namespace`, a plain record."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            document = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})", "check the path") from error
    except Exception as error:  # torch.load answers damage and refusals with a dozen kinds of errors
        refused = re.search(r"GLOBAL ([\w.]+)|class ([\w.]+)", str(error))
        what = f"asks for {refused.group(1) or refused.group(2)}, which is refused" if refused else "cannot be read"
        raise CheckpointError(
            f"{path}: {what} ({str(error).splitlines()[0][:200]})",
            "only tensors and plain containers are read; nothing of the file was run",
        ) from error
    if not isinstance(document, Mapping):
        raise CheckpointError(f"{path}: holds a {type(document).__name__}, not networks by name", "give a checkpoint")
    return document
