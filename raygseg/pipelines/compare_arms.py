"""The routes that `compare` sets side by side: what each trains from a draw of labelled pictures.

All are trained for `schedule.total_kimg` with the same network, augmentation and loss where these apply.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

from raygseg.config.schema import (
    GAN_ARMS,
    BackboneHeadConfig,
    BackboneTraining,
    CompareConfig,
    Run,
    Runtime,
    SegmenterConfig,
)
from raygseg.data.object_store import join
from raygseg.errors import ConfigError, MissingEnvironmentError, RaygsegError
from raygseg.nn.backbones.catalogue import weights_place

logger = logging.getLogger(__name__)


class Place(NamedTuple):
    """Where an arm trains. source: what it may learn from. folder: of its runs. seed: of the draw."""

    source: str
    folder: str
    seed: int


class ArmKind(NamedTuple):
    """text: one line on the route. last: the configuration whose bundle is the segmenter."""

    text: str
    last: Callable[[CompareConfig, Place], Run]


def direct(config: CompareConfig, place: Place) -> SegmenterConfig:
    """The U-Net on the labelled pictures and nothing else."""
    return SegmenterConfig(
        name=f"{config.name}-direct",
        seed=place.seed,
        labelled=place.source,
        resolution=config.resolution,
        schedule=config.schedule,
        network=config.network,
        augment=config.augment,
        loss=config.loss,
        optimiser=config.optimiser,
        runtime=_runtime(config, place, "direct"),
    )


def backbone(config: CompareConfig, place: Place) -> BackboneHeadConfig:
    """A label head on a frozen pretrained backbone's features of the labelled pictures."""
    training = BackboneTraining(
        steps=config.steps,
        batch_size=config.schedule.batch_size,
        lr=config.optimiser.lr,
        class_balance=config.loss.class_balance,
        precision=config.optimiser.precision,
    )
    return BackboneHeadConfig(
        name=f"{config.name}-backbone",
        seed=place.seed,
        labelled=place.source,
        resolution=config.resolution,
        backbone=config.backbone,
        head=config.head,
        augment=config.augment,
        training=training,
        runtime=_runtime(config, place, "backbone"),
    )


def _runtime(config: CompareConfig, place: Place, arm: str) -> Runtime:
    """The comparison's own, in a folder and an experiment store of its own: trials are not for the registry."""
    store = config.runtime.tracking_uri or f"sqlite:///{join(place_of_results(config), 'mlflow.db')}"
    return config.runtime.model_copy(update={"output": join(place.folder, arm), "tracking_uri": store})


def place_of_results(config: CompareConfig) -> str:
    """Where the results go: `runtime.output`, else runs/NAME."""
    return config.runtime.output or f"runs/{config.name}"


# In the order of what they ask of a user: the first of equals is recommended.
ARMS: dict[str, ArmKind] = {
    "direct": ArmKind("a U-Net on the labelled pictures alone", direct),
    "backbone": ArmKind("a label head on a pretrained backbone that stays as it is", backbone),
}


def chosen_arms(config: CompareConfig) -> list[str]:
    """The arms to run: those asked for, else all that can be run here (the log says which are left out).

    Raises ConfigError or MissingEnvironmentError for one that is asked for and cannot.
    """
    wanted = [arm for arm in ARMS if not config.arms or arm in config.arms]
    chosen = []
    for arm in wanted:
        try:
            _check(config, arm)
            chosen.append(arm)
        except RaygsegError as error:
            if config.arms:
                raise
            logger.warning("the arm '%s' is left out: %s (%s)", arm, error.message, error.hint)
    return chosen


def _check(config: CompareConfig, arm: str) -> None:
    """Raise what keeps an arm from running."""
    if arm in GAN_ARMS and not config.generator:
        raise ConfigError(f"arms: '{arm}' needs a generator", "give generator=BUNDLE, or leave the arm out")
    if arm == "backbone":
        place = weights_place(config.backbone.name, config.backbone.weights)
        if not place.exists():
            raise MissingEnvironmentError(
                f"{place}: no weights of {config.backbone.name}", "set backbone.weights, or RAYGSEG_DATA"
            )
