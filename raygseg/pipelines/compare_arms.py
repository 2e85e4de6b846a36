"""The routes that `compare` sets side by side: what each trains from a draw of labelled pictures.

All are trained for `schedule.total_kimg` with the same network, augmentation and loss where these apply.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from raygseg.config.schema import CompareConfig, Run, SegmenterConfig
from raygseg.data.object_store import join
from raygseg.errors import ConfigError


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


def _runtime(config: CompareConfig, place: Place, arm: str) -> object:
    """The comparison's own, in a folder and an experiment store of its own: trials are not for the registry."""
    store = config.runtime.tracking_uri or f"sqlite:///{join(place_of_results(config), 'mlflow.db')}"
    return config.runtime.model_copy(update={"output": join(place.folder, arm), "tracking_uri": store})


def place_of_results(config: CompareConfig) -> str:
    """Where the results go: `runtime.output`, else runs/NAME."""
    return config.runtime.output or f"runs/{config.name}"


# In the order of what they ask of a user: the first of equals is recommended.
ARMS: dict[str, ArmKind] = {
    "direct": ArmKind("a U-Net on the labelled pictures alone", direct),
}


def chosen_arms(config: CompareConfig) -> list[str]:
    """The arms to run. Raises ConfigError for one that cannot."""
    from raygseg.config.schema import GAN_ARMS

    if not config.arms:
        return [arm for arm in ARMS if config.generator or arm not in GAN_ARMS]
    for arm in config.arms:
        if arm in GAN_ARMS and not config.generator:
            raise ConfigError(f"arms: '{arm}' needs a generator", "give generator=BUNDLE, or leave the arm out")
    return [arm for arm in ARMS if arm in config.arms]
