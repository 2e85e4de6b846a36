"""Whose features measure how alike two pictures are, by name: a backbone from a file, or the generator's discriminator.

NETWORKS is the one place to add another. Every output that states a distance also states the network's name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import nn

from raygseg.bundle import CHECKSUMS, read_bundle
from raygseg.config.sections import AdversarialRun
from raygseg.data import object_store
from raygseg.engine.checkpoint import CheckpointFolder, read_checkpoint
from raygseg.errors import CheckpointError, ConfigError, MissingEnvironmentError
from raygseg.methods.stylegan2.discriminator_features import DiscriminatorFeatures
from raygseg.nn.backbones.catalogue import FILES, open_trainable, weights_place
from raygseg.nn.backbones.efficientnet_lite0 import EfficientNetLite0Features
from raygseg.nn.backbones.pooled import SHOWN, weights_file
from raygseg.nn.backbones.vgg16 import VGG16Features, load_vgg16
from raygseg.nn.projection import PerceptualDistance
from raygseg.pipelines import run_folder

Precision = Literal["fp32", "bf16"]
AUTO = "auto"


@dataclass(frozen=True)
class FeatureNet:
    """A frozen feature network.

    Attributes:
        name: as every output states it. build: what `rebuilt` needs besides the weights; JSON values only.
    """

    network: nn.Module
    name: str
    build: Mapping[str, Any]

    def distance(self) -> PerceptualDistance:
        return PerceptualDistance(self.network, self.name)


class Asked(NamedTuple):
    """What a feature network is wanted for.

    generator: the generator's place, beside which a discriminator is looked for. weights: file or folder of
    the network's weights; "" to look for them. resolution: px of the pictures.
    """

    generator: str
    weights: str
    resolution: int
    precision: Precision


def _vgg16(asked: Asked) -> FeatureNet:
    build = {"network": "vgg16", "resolution": asked.resolution, "precision": asked.precision}
    network = load_vgg16(weights_file("vgg16", asked.weights), 5, asked.resolution, asked.precision)
    return FeatureNet(network, SHOWN["vgg16"], build)


def _efficientnet_lite0(asked: Asked) -> FeatureNet:
    """With its batch norms beside the convolutions: a bundle keeps the weights as the file has them."""
    name = "efficientnet-lite0"
    place = weights_place(name, asked.weights)
    network = open_trainable(name, place, (), asked.precision, fused=False, resolution=asked.resolution)
    build = {"network": name, "resolution": asked.resolution, "precision": asked.precision}
    return FeatureNet(network.eval().requires_grad_(False), network.title, build)


def _discriminator(asked: Asked) -> FeatureNet:
    """Of the bundle that `weights` names, else of the checkpoint or the run that the generator is of."""
    build, tensors, where = _found_discriminator(asked)
    if build["resolution"] != asked.resolution:
        raise ConfigError(
            f"{where}: a discriminator for {build['resolution']} px, the pictures have {asked.resolution} px",
            "use the discriminator that was trained against this generator",
        )
    network = DiscriminatorFeatures.loaded(build, tensors, where)
    return FeatureNet(network, "discriminator", {"network": "discriminator", "discriminator": build})


NETWORKS: dict[str, Callable[[Asked], FeatureNet]] = {
    "vgg16": _vgg16,
    "efficientnet-lite0": _efficientnet_lite0,
    "discriminator": _discriminator,
}
EMPTY: dict[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "vgg16": lambda build: VGG16Features(5, build["resolution"], build["precision"]),
    "efficientnet-lite0": lambda build: EfficientNetLite0Features(5, build["resolution"], build["precision"]),
    "discriminator": lambda build: DiscriminatorFeatures(build["discriminator"]),
}


def open_features(
    name: str = AUTO, generator: str = "", resolution: int = 256, weights: str = "", precision: Precision = "fp32"
) -> FeatureNet:
    """The feature network of that name, frozen.

    Args:
        name: vgg16, efficientnet-lite0, discriminator; auto: VGG-16 where its file is at hand, else the discriminator.
        generator: bundle, checkpoint or run folder.
        resolution: px of the pictures.
        weights: file (of a backbone) or bundle folder (discriminator); empty: looked for in RAYGSEG_DATA or beside
            the generator.
        precision: of a backbone's convolutions. bf16 is quicker, but then a picture's result moves by some per cent
            with its batch.

    Raises ConfigError for an unknown name, MissingEnvironmentError where there are no weights.
    """
    asked = Asked(generator, weights, resolution, precision)
    if name != AUTO:
        if name not in NETWORKS:
            raise ConfigError(f"features of '{name}' are not known", f"use auto or one of {', '.join(NETWORKS)}")
        return NETWORKS[name](asked)
    if weights:
        return NETWORKS["discriminator" if _is_bundle(weights) else "vgg16"](asked)
    if Path(os.environ.get("RAYGSEG_DATA", ""), "weights", FILES["vgg16"]).is_file():
        return _vgg16(asked)
    try:
        return _discriminator(asked)
    except MissingEnvironmentError as error:
        raise MissingEnvironmentError(
            "there is no feature network: neither VGG-16 weights nor a discriminator beside the generator",
            "name a file or folder with --weights, or set RAYGSEG_DATA to the folder of the data sets",
        ) from error


def rebuilt(build: Mapping[str, Any]) -> nn.Module:
    """The network of `FeatureNet.build`, without its weights. CheckpointError for one that is not known."""
    if build.get("network") not in EMPTY:
        raise CheckpointError(f"features of '{build.get('network')}' are not known", "update raygseg")
    return EMPTY[build["network"]](build)


def _is_bundle(place: str) -> bool:
    return object_store.exists(object_store.join(place, CHECKSUMS))


def _found_discriminator(asked: Asked) -> tuple[dict[str, Any], Mapping[str, Any], str]:
    """Keyword arguments, weights and place of the discriminator."""
    if asked.weights:
        bundle = read_bundle(asked.weights)
        if bundle.kind != "discriminator":
            raise CheckpointError(
                f"{asked.weights} is a {bundle.kind}, not a discriminator",
                "name the folder that `raygseg import --discriminator` made",
            )
        return dict(bundle.build), bundle.tensors, asked.weights
    place = asked.generator.rstrip("/")
    run = place.rpartition("/")[0] or "."
    is_checkpoint = place.rpartition("/")[2].startswith("checkpoint-")
    if not object_store.exists(object_store.join(run, run_folder.RECORD)):
        raise MissingEnvironmentError(
            f"there is no discriminator beside '{place}'", "name a checkpoint, or a discriminator's bundle"
        )
    checkpoint = read_checkpoint(place) if is_checkpoint else CheckpointFolder(run).latest()
    config = run_folder.config_of(run)
    if checkpoint is None or not isinstance(config, AdversarialRun):
        raise MissingEnvironmentError(
            f"{run} holds no checkpoint of a generator's training", "name a discriminator's bundle"
        )
    if getattr(config.generator, "image_channels", 3) != 3:
        raise ConfigError(f"{run}: its discriminator sees grey pictures, features are of colour ones", "use vgg16")
    base, most = config.generator.widths
    section = config.discriminator
    build = {
        "resolution": config.data.resolution,
        "channel_base": section.channel_base or base,
        "channel_max": section.channel_max or most,
        "mbstd_group": section.mbstd_group,
    }
    return build, checkpoint.state["recipe"]["modules"]["discriminator"], checkpoint.uri
