"""The routes that `compare` sets side by side: what each trains from a draw of labelled pictures.

All are trained for `schedule.total_kimg` with the same network, augmentation and loss where these apply.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from raygseg.config.schema import (
    GAN_ARMS,
    BackboneHeadConfig,
    CompareConfig,
    GenerateConfig,
    HeadConfig,
    SegmenterConfig,
)
from raygseg.config.sections import BackboneTraining, HeadTraining, Run, Runtime
from raygseg.data.object_store import join, local_path
from raygseg.errors import ConfigError, MissingEnvironmentError, RaygsegError
from raygseg.nn.backbones.catalogue import weights_place
from raygseg.pipelines.compare_generator import generator_of, projection_settings
from raygseg.pipelines.generate import generate
from raygseg.pipelines.projection_run import run_projection
from raygseg.pipelines.shared_pairs import write_shared
from raygseg.pipelines.train import Progress, train

logger = logging.getLogger(__name__)


class Place(NamedTuple):
    """Where an arm trains. source: what it may learn from. folder: of its runs. seed: of the draw."""

    source: str
    folder: str
    seed: int


Make = Callable[[CompareConfig, Place, Progress | None], str]


class ArmKind(NamedTuple):
    """text: one line on the route. file: what is trained last. make: everything; the path of a segmenter's bundle."""

    text: str
    file: Callable[[CompareConfig, Place], Run]
    make: Make


# --- without a generator -------------------------------------------------------------------------


def direct(config: CompareConfig, place: Place) -> SegmenterConfig:
    """The U-Net on the labelled pictures and nothing else."""
    return _unet(config, place, "direct", labelled=place.source)


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


def _unet(config: CompareConfig, place: Place, arm: str, **data: Any) -> SegmenterConfig:
    return SegmenterConfig(
        name=f"{config.name}-{arm}",
        seed=place.seed,
        resolution=config.resolution,
        schedule=config.schedule,
        network=config.network,
        augment=config.augment,
        loss=config.loss,
        optimiser=config.optimiser,
        runtime=_runtime(config, place, arm),
        **data,
    )


def _trained(file: Callable[[CompareConfig, Place], Run]) -> Make:
    return lambda config, place, progress: train(file(config, place), progress).bundle_path


# --- with a generator ----------------------------------------------------------------------------


def head(config: CompareConfig, place: Place) -> HeadConfig:
    """A label head on the generator's features of the labelled pictures, which are projected into it."""
    results = place_of_results(config)
    projected, generator = local_path(place.folder) / "projection", generator_of(config, results)
    run_projection(generator, place.source, projected, projection_settings(config, generator, results, 0))
    training = HeadTraining(
        steps=config.steps,
        lr=config.optimiser.lr,
        class_balance=config.loss.class_balance,
        resample_noise=False,
        style_variants=config.style_variants,
    )
    return HeadConfig(
        name=f"{config.name}-head",
        seed=place.seed,
        generator=generator,
        samples=str(projected / "samples"),
        truncation_psi=config.truncation_psi,
        head=config.generator_head or config.head,
        training=training,
        runtime=_runtime(config, place, "head"),
    )


def projection(config: CompareConfig, place: Place, progress: Progress | None) -> str:
    """A picture is projected into the generator, whose head then labels it; what the gate refuses is background."""
    sampler = train(head(config, place)).bundle_path
    results = place_of_results(config)
    settings = projection_settings(config, generator_of(config, results), results, config.gate_samples)
    output = local_path(place.folder) / "projection-segmenter"
    found = run_projection(sampler, place.source, output, settings, progress)
    return found.files["segmenter"]


def pairs_run(config: CompareConfig, place: Place) -> GenerateConfig:
    """Generated pictures with the labels of the head, which is trained here where it is not yet."""
    return GenerateConfig(
        name=f"{config.name}-pairs",
        seed=place.seed,
        sampler=train(head(config, place)).bundle_path,
        num_pairs=config.num_pairs,
        output=join(place.folder, "pairs"),
        rows_per_shard=20,
        batch_size=10,
        runtime=_runtime(config, place, "generate"),
    )


def share_pairs(config: CompareConfig, places: Sequence[Place], progress: Progress | None = None) -> None:
    """The pairs of all heads from one rendering of every picture; nothing for a single head, which `generate` serves.

    What was made before is left alone.
    """
    if len(places) > 1:
        write_shared([pairs_run(config, place) for place in places], progress)


def _pairs(config: CompareConfig, place: Place) -> str:
    run = pairs_run(config, place)
    generate(run)
    return run.output


def student(config: CompareConfig, place: Place) -> SegmenterConfig:
    """The U-Net on generated pairs."""
    return student_on(config, place, _pairs(config, place))


def student_on(config: CompareConfig, place: Place, pairs: str, **data: Any) -> SegmenterConfig:
    """The U-Net on these pairs. data: more keys of the run, such as an uncertainty cut."""
    return _unet(config, place, "student", pairs=pairs, **data)


def mixed(config: CompareConfig, place: Place) -> SegmenterConfig:
    """The U-Net on generated pairs and the labelled pictures."""
    shares = {"labelled": place.source, "labelled_share": config.real_share}
    return _unet(config, place, "mixed", pairs=_pairs(config, place), **shares)


# --- all -----------------------------------------------------------------------------------------


def _runtime(config: CompareConfig, place: Place, arm: str) -> Runtime:
    """The comparison's own, in a folder and an experiment store of its own: trials are not for the registry."""
    store = config.runtime.tracking_uri or f"sqlite:///{join(place_of_results(config), 'mlflow.db')}"
    return config.runtime.model_copy(update={"output": join(place.folder, arm), "tracking_uri": store})


def place_of_results(config: CompareConfig) -> str:
    """Where the results go: `runtime.output`, else runs/NAME."""
    return config.runtime.output or f"runs/{config.name}"


PAIR_ARMS = frozenset({"student", "mixed"})  # those that learn from generated pairs
# In the order of what they ask of a user: the first of equals is recommended.
ARMS: dict[str, ArmKind] = {
    "direct": ArmKind("a U-Net on the labelled pictures alone", direct, _trained(direct)),
    "backbone": ArmKind("a label head on a pretrained backbone that stays as it is", backbone, _trained(backbone)),
    "projection": ArmKind("pictures projected into the generator, labelled by its head", head, projection),
    "student": ArmKind("a U-Net on generated pictures that the head labelled", student, _trained(student)),
    "mixed": ArmKind("a U-Net on generated and labelled pictures", mixed, _trained(mixed)),
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
            if arm in GAN_ARMS:
                continue  # nobody who gave no generator expects them
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
