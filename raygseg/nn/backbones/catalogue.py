"""The backbones by name: where their weights are, how they are opened, how a bundle finds them again.

    vgg16               VGG-16, block1 .. block5 at strides 1 to 16
    efficientnet-lite0  EfficientNet-Lite0, stride2 .. stride32
    transformers        a vision transformer from a local folder, layer1 .. layerL on the patches' grid

A bundle made with a frozen backbone does not copy its weights, which are somebody else's: it records the
name and the SHA-256, and whoever loads it needs the same file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from raygseg.bundle import file_sha256
from raygseg.errors import CheckpointError, ConfigError, MissingEnvironmentError
from raygseg.interfaces import FeatureLayer
from raygseg.nn.backbones.efficientnet_lite0 import CHANNELS, EfficientNetLite0Features, load_efficientnet_lite0
from raygseg.nn.backbones.transformer import load_transformer
from raygseg.nn.backbones.vgg16 import BLOCKS, VGG16Features, load_vgg16

FILES = {"vgg16": "vgg16_features.safetensors", "efficientnet-lite0": "efficientnet_lite0.safetensors"}
NAMES = (*FILES, "transformers")
LAYERS = {
    "vgg16": tuple(f"block{i + 1}" for i in range(len(BLOCKS))),
    "efficientnet-lite0": tuple(f"stride{2 << i}" for i in range(len(CHANNELS))),
}
LICENCES = {
    "vgg16": "VGG-16 of Simonyan and Zisserman, trained on ImageNet, CC BY 4.0",
    "efficientnet-lite0": "EfficientNet-Lite0 of the TensorFlow TPU models, trained on ImageNet, Apache-2.0",
    "transformers": "as the model's own folder says",
}
Precision = Literal["fp32", "bf16"]


class Backbone(Protocol):
    """A frozen network whose maps can be read; also an `nn.Module`. `title` is what outputs call it."""

    title: str
    feature_layers: tuple[FeatureLayer, ...]

    def __call__(self, images: Tensor, layers: Sequence[str] = ()) -> dict[str, Tensor]: ...


def open_backbone(
    name: str, path: str | Path = "", resolution: int = 256, precision: Precision = "fp32", layers: Sequence[str] = ()
) -> Backbone:
    """A frozen backbone in evaluation mode, only as deep as `layers` need.

    Args:
        name: vgg16, efficientnet-lite0 or transformers.
        path: its weights file (transformers: the model's folder); empty: in RAYGSEG_DATA.
        resolution: picture size that `feature_layers` states the map sizes for.
        precision: bf16 runs it in bfloat16, about twice as fast on a CPU that has it.
        layers: names of the maps that will be asked for; empty: all.

    Raises:
        ConfigError: an unknown name or layer.
        MissingEnvironmentError, CheckpointError: weights that are not there or not those; names the file.
    """
    place = weights_place(name, path)
    if name == "transformers":
        return load_transformer(place, resolution, precision, layers)
    return open_trainable(name, place, layers, precision, resolution=resolution)


def open_trainable(
    name: str,
    place: Path,
    layers: Sequence[str] = (),
    precision: Precision = "fp32",
    fused: bool = True,
    resolution: int = 256,
) -> VGG16Features | EfficientNetLite0Features:
    """As `open_backbone`, of those that a U-Net can be built on; fused=False keeps batch norms for fine-tuning."""
    depth = depth_of(name, layers)
    if name == "vgg16":
        return load_vgg16(place, depth, resolution, precision)
    return load_efficientnet_lite0(place, depth, resolution, precision, fused)


def blank_backbone(name: str, layers: Sequence[str]) -> VGG16Features | EfficientNetLite0Features:
    """The untrained network, for weights that come from elsewhere (a bundle that holds fine-tuned ones)."""
    depth = depth_of(name, layers)
    return VGG16Features(depth) if name == "vgg16" else EfficientNetLite0Features(depth)


def depth_of(name: str, layers: Sequence[str]) -> int:
    """How many of its stages a convolutional backbone needs for `layers`; all for none."""
    known = LAYERS[name]
    for layer in layers:
        if layer not in known:
            raise ConfigError(f"head.layers: {name} has no layer '{layer}'", f"use some of {list(known)}")
    return max((known.index(layer) + 1 for layer in layers), default=len(known))


def weights_place(name: str, given: str | Path = "") -> Path:
    """Where the weights of `name` are looked for: as given, else in RAYGSEG_DATA.

    Raises:
        ConfigError: `name` is not known, or a transformers model without a path.
        MissingEnvironmentError: no path and no RAYGSEG_DATA.
    """
    if name not in NAMES:
        raise ConfigError(f"there is no backbone '{name}'", f"use one of: {', '.join(NAMES)}")
    if str(given):
        return Path(given)
    if name not in FILES:
        raise ConfigError(f"the backbone {name} needs the folder of its model", "give it as backbone.weights")
    if not os.environ.get("RAYGSEG_DATA"):
        raise MissingEnvironmentError(
            f"the weights of {name} are not named and RAYGSEG_DATA is not set",
            f"name a safetensors file, or set RAYGSEG_DATA to a folder with weights/{FILES[name]}",
        )
    return Path(os.environ["RAYGSEG_DATA"], "weights", FILES[name])


# --- finding the same weights again --------------------------------------------------------------


def weights_sha256(place: Path) -> str:
    """Hex SHA-256 of a weights file; of a model folder, over its configuration's and safetensors' checksums."""
    if place.is_file():
        return file_sha256(place)
    parts = sorted([*place.glob("*.json"), *place.glob("*.safetensors")])
    return hashlib.sha256("".join(f"{part.name} {file_sha256(part)}\n" for part in parts).encode()).hexdigest()


def weights_record(name: str, given: str | Path = "") -> dict[str, str]:
    """What a bundle keeps instead of the weights: name, the path as given, SHA-256."""
    return {"name": name, "weights": str(given), "sha256": weights_sha256(weights_place(name, given))}


def recorded_weights(record: Mapping[str, Any]) -> Path:
    """The weights that a bundle's record means: at the recorded path, else in RAYGSEG_DATA.

    Raises:
        MissingEnvironmentError: neither place has a file; names the places and the checksum.
        CheckpointError: the files there are other ones.
    """
    name, sha256 = str(record["name"]), str(record["sha256"])
    folder = os.environ.get("RAYGSEG_DATA", "")
    places = [Path(record["weights"])] if record.get("weights") else []
    if folder:
        places.append(Path(folder, "weights", FILES.get(name, Path(record.get("weights", "")).name)))
    there = [place for place in places if place.exists()]
    for place in there:
        if weights_sha256(place) == sha256:
            return place
    if there:
        raise CheckpointError(
            f"{there[0]}: not the {name} weights that this model was trained with (SHA-256 differs)",
            f"put the file with SHA-256 {sha256} there",
        )
    looked = " or ".join(map(str, places)) or "RAYGSEG_DATA (not set)"
    raise MissingEnvironmentError(
        f"the {name} weights that this model reads are not at {looked}",
        f"put the file with SHA-256 {sha256} there, or set RAYGSEG_DATA to the folder that has it under weights/",
    )


def backbone_facts(record: Mapping[str, Any], title: str, stored: bool = False) -> dict[str, str]:
    """Lines for a bundle's card: which backbone, whether its weights are inside, whose they are."""
    inside = "fine-tuned weights inside" if stored else "weights not inside, found again by their SHA-256"
    source = f"SHA-256 {str(record['sha256'])[:16]}"
    return {
        "backbone": f"{title} ({record['name']}, {source}; {inside})",
        "licence": "The code is Apache-2.0. The weights inherit what the training data allows and, through the "
        f"backbone, its terms: {LICENCES[str(record['name'])]}.",
    }


class FrozenTrunk:
    """A backbone that is read but not trained: a network that holds one does not hold its weights.

    Not an `nn.Module`, so that its weights are in no state dict, no optimiser, no running mean and no
    bundle; copies of the holder share it.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval().requires_grad_(False)

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenTrunk:
        return self

    def __call__(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """[N, 3, H, W] in [-1, 1] -> maps by layer, without a graph; follows the pictures' device."""
        own = next(self.network.buffers(), images)
        if own.device != images.device:
            self.network.to(images.device)
        with torch.no_grad():
            maps: dict[str, Tensor] = self.network(images, layers)
        return maps
