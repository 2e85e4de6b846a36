"""What cached features and batches save in scoring few-shot episodes, against the loop that a reader would write.

The loop reads an episode's pictures, sends support and query through the network together, pools, compares and
counts; then the next episode. Ours is `EpisodeWorker` with every feature in its cache, in batches. Network, pooling,
protocol and counting are the same code on both sides.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raygseg.benchmarks.support.data_folder import data_folder
from raygseg.benchmarks.support.host import StolenTime
from raygseg.config.episodes import EpisodeProtocol, named_protocol
from raygseg.data.episodes.draws import EpisodeList, draw_episodes
from raygseg.data.episodes.folds import fold_classes
from raygseg.data.episodes.index import ClassIndex
from raygseg.data.episodes.reading import read_episode, read_truth
from raygseg.data.episodes.sources import read_class_index
from raygseg.data.episodes.training import evaluation_index
from raygseg.distributed.episode_worker import EpisodeSettings, EpisodeWorker, episode_tasks
from raygseg.engine.process import use_cpu
from raygseg.methods.panet.network import PrototypeNetwork, pretrained_network, signed
from raygseg.metrics.episodes import class_counts, figures, query_confusion
from raygseg.nn.backbones.catalogue import FILES
from raygseg.nn.tensor_cache import TensorCache

MIB = 1 << 20


def looped(
    network: PrototypeNetwork, index: ClassIndex, episodes: EpisodeList, resolution: int, protocol: EpisodeProtocol
) -> NDArray[np.int64]:
    """Baseline: [E, Q, 1 + W, 1 + W], an episode after the other, nothing kept."""
    counted = []
    with torch.no_grad():
        for number in range(len(episodes)):
            episode = episodes.episode(number)
            arrays = read_episode(index, episode, resolution, protocol)
            support, queries = (torch.from_numpy(arrays[f"{name}_images"]) for name in ("support", "query"))
            maps = network.features(signed(torch.cat([support.flatten(0, 1), queries])))
            known = maps[: -len(queries)].unflatten(0, (episodes.ways, episodes.shots))[None]
            fore, back = (torch.from_numpy(arrays[name])[None] for name in ("fore", "back"))
            confusions = []
            for place, picture in enumerate(episode.queries):
                original = None if protocol.labels == "original" else resolution
                truth = read_truth(index, picture, episode.ways, original)
                asked = maps[len(maps) - len(queries) + place][None, None]
                logits = network.classify(known, fore, back, asked, (truth.shape[0], truth.shape[1]))
                answer = logits[0, 0].argmax(0).to(torch.uint8).numpy()
                confusions.append(query_confusion(truth, answer, episodes.ways))
            counted.append(np.stack(confusions))
    return np.stack(counted)


def cached(worker: EpisodeWorker, batch_size: int) -> NDArray[np.int64]:
    """Ours: [E, Q, 1 + W, 1 + W] of the worker's one list. AssertionError for an episode that cannot be read."""
    answers = [a for task in episode_tasks(worker.lists, batch_size) for job in task for a in worker(job)]
    counted = {answer.number: answer.confusion for answer in answers if answer.confusion is not None}
    assert len(counted) == len(answers), "unreadable episodes"
    return np.stack([counted[number] for number in range(len(counted))])


def few_pictures(index: ClassIndex, classes: Sequence[str], each: int) -> ClassIndex:
    """Only the first pictures of each class, so that filling the cache takes a while and not an hour."""
    members = [index.members[index.position(name)][:each].tolist() for name in classes]
    return index.narrowed({picture for rows in members for picture in rows})


def run(
    data: str = "",
    source: str = "fewshot",
    shots: int = 5,
    episodes: int = 160,
    loop_episodes: int = 3,
    repeats: int = 3,
    batch_size: int = 16,
    resolution: int = 201,
    protocol: str = "standard",
    classes: int = 6,
    pictures: int = 10,
    memory_mb: int = 256,
    fold: int = 0,
    threads: int = 1,
) -> dict[str, Any]:
    """Measure. `ratio`: median over rounds of the loop's seconds an episode / ours with every feature in the cache.

    `ratio_cpu`: the same of processor time, which holds on a busy host. `ratio_pooled`: where pooled vectors of the
    support are in the cache too. `fill_seconds`: computing every feature once; `break_even_episodes`: from so many
    on filling pays, by processor time. `small_memory`: the same episodes with a third of the memory that the
    features took: most bytes held, and whether counts are the same.

    Args:
        data: folder of the data sets, with weights/ of VGG-16; empty: RAYGSEG_DATA. source: the set in it.
        loop_episodes: episodes of a round of the baseline. repeats: rounds.
        classes, pictures: of the fold, how many classes and at least how many pictures of each.
    """
    stolen = StolenTime()
    use_cpu(threads)
    rules = named_protocol(protocol)
    index = evaluation_index(read_class_index(str(data_folder(data, source) / source)), rules)
    names = [n for n in fold_classes(index, fold, "test") if index.counts()[n] >= pictures][:classes]
    index = few_pictures(index, names, pictures)
    drawn = draw_episodes(index, names, 1, shots, 1, episodes, 0, fold, 0, rules.distinct)
    few = draw_episodes(index, names, 1, shots, 1, loop_episodes, 0, fold, 0, rules.distinct)
    network = pretrained_network("vgg16", str(data_folder(data, "weights") / "weights" / FILES["vgg16"]))
    worker = EpisodeWorker(network, index, [drawn], EpisodeSettings(resolution, rules, memory=memory_mb * MIB))
    began, processor = time.perf_counter(), time.process_time()
    with torch.no_grad():
        for picture in drawn.pictures():
            worker.picture_features(picture)
    fill, fill_cpu = time.perf_counter() - began, time.process_time() - processor
    ours = cached(worker, batch_size)  # also the warm-up
    seconds: dict[str, list[float]] = {"loop": [], "features": [], "pooled": []}
    cpu: dict[str, list[float]] = {arm: [] for arm in seconds}
    theirs = looped(network, index, few, resolution, rules)
    for _ in range(repeats):
        for arm, spent in seconds.items():
            if arm == "features":
                worker.vectors = TensorCache(worker.settings.memory // 16)
            began, processor = time.perf_counter(), time.process_time()
            if arm == "loop":
                looped(network, index, few, resolution, rules)
            else:
                cached(worker, batch_size)
            count = len(few) if arm == "loop" else len(drawn)
            spent.append((time.perf_counter() - began) / count)
            cpu[arm].append((time.process_time() - processor) / count)
    middle = {arm: median(values) for arm, values in seconds.items()}
    gain = median(cpu["loop"]) - median(cpu["features"])
    return {
        "name": "episodes",
        "ratio": _ratio(seconds["loop"], seconds["features"]),
        "ratio_cpu": _ratio(cpu["loop"], cpu["features"]),
        "ratio_pooled": _ratio(seconds["loop"], seconds["pooled"]),
        "seconds_an_episode": {arm: round(value, 5) for arm, value in middle.items()},
        "cpu_seconds_an_episode": {arm: round(median(values), 5) for arm, values in cpu.items()},
        "fill_seconds": round(fill, 2),
        "fill_cpu_seconds": round(fill_cpu, 2),
        "fill_pictures": len(drawn.pictures()),
        "break_even_episodes": int(np.ceil(fill_cpu / gain)) if gain > 0 else None,
        "cache_peak_mib": round(worker.features.peak / MIB, 1),
        "small_memory": _small_memory(worker, index, drawn, ours, batch_size),
        "miou_difference": _difference(ours[: len(few)], theirs, few, index),
        "baseline": "an episode at a time, support and query through the network together, nothing kept",
        "protocol": rules.described(),
        "stolen": stolen.share(),
        "settings": {"shots": shots, "episodes": episodes, "loop_episodes": loop_episodes, "repeats": repeats,
                     "batch_size": batch_size, "resolution": resolution, "threads": threads, "fold": fold,
                     "classes": names, "torch": torch.__version__},
    }  # fmt: skip


def _small_memory(
    worker: EpisodeWorker, index: ClassIndex, drawn: EpisodeList, expected: NDArray[np.int64], batch_size: int
) -> dict[str, Any]:
    """The same episodes with little memory: what is held stays below the limit, counts stay."""
    settings = worker.settings
    limit = worker.features.peak // 3
    small = EpisodeWorker(
        worker.network, index, [drawn], EpisodeSettings(settings.resolution, settings.protocol, memory=limit)
    )
    counts = cached(small, batch_size)
    return {
        "limit_mib": round(limit / MIB, 1),
        "held_at_most_mib": round(small.features.peak / MIB, 1),
        "features_made": small.features.made,
        "same_counts": bool((counts == expected).all()),
    }


def _difference(ours: NDArray[np.int64], theirs: NDArray[np.int64], few: EpisodeList, index: ClassIndex) -> float:
    """How far the mean-IoU of the baseline's episodes is apart."""
    count = len(index.classes)
    both = [figures(class_counts(x, few.rows[:, : few.ways], count, "counted").sum(0))["miou"] for x in (ours, theirs)]
    return float(abs(both[0] - both[1]))


def _ratio(baseline: list[float], ours: list[float]) -> float:
    return round(median(b / o for b, o in zip(baseline, ours, strict=True)), 1)
