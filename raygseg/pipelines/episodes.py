"""Score a few-shot network on episodes of classes that it has not seen (PANet spec 1.8, 1.10, 1.11).

The episodes of a fold are drawn once and stored; every network is asked the same ones. Every figure comes with the
name of its protocol and the digests of its episodes.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from raygseg.config.episodes import EpisodeProtocol, EpisodesConfig, MarkStyle
from raygseg.data.episodes.draws import EpisodeList, draw_episodes
from raygseg.data.episodes.folds import fold_classes
from raygseg.data.episodes.index import ClassIndex
from raygseg.data.episodes.reading import Annotate, Mask
from raygseg.data.episodes.sources import read_class_index
from raygseg.data.episodes.training import evaluation_index, split_in_words
from raygseg.errors import ConfigError, DataError
from raygseg.pipelines import run_folder
from raygseg.pipelines.episode_scores import Asked, EpisodesResult, result_of, write_scores
from raygseg.pipelines.episode_store import EpisodeStore, ListCounts, gathered, list_name

if TYPE_CHECKING:
    from raygseg.bundle import Bundle
    from raygseg.distributed.episode_worker import EpisodeAnswer, EpisodeJob, EpisodeWorker
    from raygseg.methods.panet.network import FrontCache, PrototypeNetwork

Progress = Callable[..., None]  # (stage, done, total, facts)
IN_PROCESS_EPISODES = 200  # up to here starting a cluster costs more than it saves


def score_episodes(
    config: EpisodesConfig,
    network: PrototypeNetwork | None = None,
    index: ClassIndex | None = None,
    progress: Progress | None = None,
    fronts: FrontCache | None = None,
) -> EpisodesResult:
    """Score `config.model`, or ImageNet features without training, on a fold; what is done before is kept.

    Args:
        network: used instead of loading `config.model`; then everything runs in this process.
        index: used instead of opening `config.data`.
        progress: called as (stage, done, total, facts) in episodes.
        fronts: of networks that are scored one after the other in this process.

    Raises:
        DataError: no usable pictures, a class with too few, too many unreadable episodes.
        ConfigError: the model was trained on the classes or pictures that are to test it.
        FingerprintError: the folder holds another evaluation. MissingEnvironmentError: no weights.
    """
    place = config.output or run_folder.place_of(config)
    index = index if index is not None else read_class_index(config.data)
    trained: Mapping[str, Any] = {}
    if network is None and config.model:
        trained = _bundle(config.model, config.runtime.tracking_uri).config
        check_novel(config, trained, index)
    run_folder.claim(place, config)
    asked = ask(config, index)
    here = network is not None or config.runtime.in_process or _few(config)
    known = network if network is not None else load_network(config)
    if fronts is not None:
        known.fronts = fronts
    store = EpisodeStore(place, network_digest(known))
    began = time.perf_counter()
    counted = _counted(config, asked, store, known if here else None, progress)
    result = result_of(config, asked, counted, place, protocol_in_words(config, trained))
    write_scores(config, result, asked, store.network, time.perf_counter() - began)
    return result


def ask(config: EpisodesConfig, index: ClassIndex) -> Asked:
    """Draw the lists of a fold. Raises DataError naming classes with too few pictures."""
    protocol = config.protocol
    narrowed = evaluation_index(index, protocol)
    every = fold_classes(index, config.fold, "test", protocol.coco_order)
    counts = narrowed.counts()
    few = tuple(name for name in every if counts[name] < config.min_pictures)
    classes = tuple(name for name in every if name not in few)
    if not classes:
        raise DataError(f"fold {config.fold}: no class has {config.min_pictures} pictures", "lower min_pictures")
    shape = (config.ways, config.queries, config.episodes, config.seed, config.fold)
    lists = [
        draw_episodes(narrowed, classes, shape[0], shots, *shape[1:], run, protocol.distinct)
        for shots in config.shots
        for run in range(config.runs)
    ]
    return Asked(narrowed, classes, few, tuple(lists), split_in_words(index, protocol))


# --- networks and marks --------------------------------------------------------------------------


def load_network(config: EpisodesConfig, device: str = "cpu") -> PrototypeNetwork:
    """The network of `config.model`; without one, VGG-16 as ImageNet left it.

    Raises MissingEnvironmentError or CheckpointError naming the file.
    """
    from raygseg.methods.panet.network import network_from, pretrained_network

    if config.model:
        network = network_from(_bundle(config.model, config.runtime.tracking_uri), device)
    else:
        network = pretrained_network("vgg16", config.weights).to(device)
    if config.self_prototypes is not None:
        network.self_prototypes = config.self_prototypes
    network.encoder.precision = config.encoder_precision
    return network


def _bundle(model: str, tracking_uri: str) -> Bundle:
    from raygseg.bundle import read_bundle
    from raygseg.tracking.retrieval import resolve

    return read_bundle(resolve(model, tracking_uri))


def check_novel(config: EpisodesConfig, trained: Mapping[str, Any], index: ClassIndex) -> None:
    """Raise ConfigError where a network was trained on the classes or pictures of `config.data` that are to test it.

    Args:
        trained: the configuration in its bundle; one of other data proves nothing and passes.
        index: of `config.data`.
    """
    if trained.get("kind") != "panet" or _set_name(trained.get("data")) != _set_name(config.data):
        return
    protocol, fold = _trained_protocol(trained), int(trained.get("fold", 0))
    unseen = fold_classes(index, fold, "test", protocol.coco_order)
    seen = [c for c in fold_classes(index, config.fold, "test", config.protocol.coco_order) if c not in unseen]
    if seen:
        raise ConfigError(
            f"fold: {config.model} was trained for fold {fold} ({protocol.coco_order} where the order matters), so it"
            f" knows {', '.join(seen[:3])}{', ...' if len(seen) > 3 else ''} of fold {config.fold}",
            f"score it with fold={fold} protocol.coco_order={protocol.coco_order}",
        )
    if config.protocol.split == "separate" and protocol.split == "same":
        raise ConfigError(
            f"protocol.split: {config.model} was trained on all pictures, those of the test too",
            "set protocol.split=same, or train with protocol.split=separate",
        )


def _set_name(data: object) -> str:
    """Of a source, whatever its folder and options: DATA/VOC2012?sbd=SBD is VOC2012."""
    return PurePath(str(data).partition("?")[0]).name


def _trained_protocol(trained: Mapping[str, Any]) -> EpisodeProtocol:
    return EpisodeProtocol.model_validate(trained.get("protocol") or {})


def protocol_in_words(config: EpisodesConfig, trained: Mapping[str, Any]) -> str:
    """As printed with every number. What was done to training pictures is the trained network's, not the scoring's."""
    words = config.protocol.described()
    pixels = _trained_protocol(trained).novel_pixels if trained.get("kind") == "panet" else config.protocol.novel_pixels
    return words if pixels == config.protocol.novel_pixels else f"{words}; trained with novel_pixels={pixels}"


def network_digest(network: PrototypeNetwork) -> str:
    """16 digits over the weights and what is done with them."""
    digest = hashlib.sha256(json.dumps(getattr(network, "build", {}), sort_keys=True).encode())
    precision = getattr(getattr(network, "encoder", None), "precision", "fp32")
    if precision != "fp32":
        digest.update(precision.encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Marking:
    """A style of weak labels as something that reads a mask."""

    style: MarkStyle

    def __call__(self, mask: Mask, ignore: Mask, rng: np.random.Generator) -> tuple[Mask, Mask]:
        from raygseg.data.weak_annotations import annotate

        marks = annotate(mask, self.style, rng, ignore)
        return marks.fore, marks.back


@dataclass(frozen=True)
class WorkerMaker:
    """Makes the worker of an evaluation in any process."""

    config: EpisodesConfig
    index: ClassIndex
    lists: tuple[EpisodeList, ...]

    def __call__(self, device: str, network: PrototypeNetwork | None = None) -> EpisodeWorker:
        from raygseg.distributed.episode_worker import EpisodeSettings, EpisodeWorker

        config = self.config
        if network is None:
            network = load_network(config, device)
        annotate: Annotate | None = None if config.marks == "mask" else Marking(config.marks)
        settings = EpisodeSettings(
            config.resolution, config.protocol, annotate, config.seed, config.precision, config.memory_mb << 20, device
        )
        return EpisodeWorker(network, self.index, self.lists, settings)


# --- counting ------------------------------------------------------------------------------------


def _few(config: EpisodesConfig) -> bool:
    return config.actors == 0 and config.episodes * config.runs * len(config.shots) <= IN_PROCESS_EPISODES


def _counted(
    config: EpisodesConfig,
    asked: Asked,
    store: EpisodeStore,
    network: PrototypeNetwork | None,
    progress: Progress | None,
) -> list[ListCounts]:
    """Counts of every list, from the store where they are there."""
    from raygseg.distributed.episode_worker import episode_tasks

    for episodes in asked.lists:
        store.keep_list(episodes)
    known = {episodes.digest: store.counts(episodes) for episodes in asked.lists}
    missing = tuple(episodes for episodes in asked.lists if known[episodes.digest] is None)
    tasks = episode_tasks(missing, config.batch_size)
    total = sum(len(job.numbers) for task in tasks for job in task)
    answers: list[EpisodeAnswer] = []
    for part in _answered(config, WorkerMaker(config, asked.index, missing), tasks, store, network):
        answers += part
        if progress is not None:
            progress("episodes", len(answers), total, {})
    for which, episodes in enumerate(missing):
        counts = gathered(episodes, which, answers)
        _check_left_out(config, episodes, counts)
        store.keep_counts(episodes, counts)
        known[episodes.digest] = counts
    store.forget_answers()
    return [counts for counts in known.values() if counts is not None]


def _answered(
    config: EpisodesConfig,
    make: WorkerMaker,
    tasks: Sequence[Sequence[EpisodeJob]],
    store: EpisodeStore,
    network: PrototypeNetwork | None,
) -> Iterator[list[EpisodeAnswer]]:
    """Answers task by task; those of an earlier start first."""
    todo = []
    for task in tasks:
        stored = store.answers(task, make.lists)
        if stored is None:
            todo.append(task)
        else:
            yield stored
    for task, found in zip(todo, _worked(config, make, todo, network), strict=True):
        store.keep_answers(task, make.lists, found)
        yield found


def _worked(
    config: EpisodesConfig,
    make: WorkerMaker,
    tasks: Sequence[Sequence[EpisodeJob]],
    network: PrototypeNetwork | None,
) -> Iterator[list[EpisodeAnswer]]:
    if not tasks:
        return
    if network is not None:
        from raygseg.pipelines.segment import usable_device

        device = usable_device(config.runtime.device)
        worker = make(device, network.to(device))
        for task in tasks:
            yield [answer for job in task for answer in worker(job)]
        return
    from raygseg.distributed.actor_pool import ActorPool
    from raygseg.distributed.episodes import score_with_actors

    pool = ActorPool.on(config.runtime.device, config.actors, config.runtime.threads, config.runtime.max_failures)
    answers = score_with_actors(tasks, make, pool)
    for task in tasks:
        yield [next(answers) for job in task for _ in job.numbers]


def _check_left_out(config: EpisodesConfig, episodes: EpisodeList, counts: ListCounts) -> None:
    """Raise DataError where unreadable pictures cost more episodes than allowed."""
    lost = counts.left_out
    if len(lost) > config.max_bad_fraction * len(episodes):
        first = "; ".join(sorted(set(lost.values()))[:3])
        raise DataError(
            f"{len(lost)} of {len(episodes)} episodes of {list_name(episodes)} cannot be read, e.g. {first}",
            f"mend the pictures, or raise max_bad_fraction (now {config.max_bad_fraction:g})",
        )
