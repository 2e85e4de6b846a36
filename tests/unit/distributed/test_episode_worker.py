"""Counts do not depend on who works on which episodes, nor on the memory; what is unreadable is reported."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from raygseg.benchmarks.episodes import cached, looped
from raygseg.config.episodes import EpisodeProtocol, named_protocol
from raygseg.data.episodes.draws import EpisodeList, draw_episodes
from raygseg.distributed.episode_worker import EpisodeAnswer, EpisodeJob, EpisodeSettings, EpisodeWorker, episode_tasks
from raygseg.errors import DataError
from tests.unit.data.episodes.sets import Blocks, blocks
from tests.unit.tiny_prototypes import TinyPrototypes

INDEX = blocks().index()
SETTINGS = EpisodeSettings(16, EpisodeProtocol())
FEATURE_BYTES = 8 * 8 * 8 * 4


def drawn(ways: int, shots: int, run: int = 0, count: int = 20) -> EpisodeList:
    return draw_episodes(INDEX, INDEX.classes, ways, shots, 1, count, 0, 0, run)


LISTS = [drawn(1, 1), drawn(1, 5), drawn(2, 2), drawn(1, 5, 1)]


def by_episode(answers: list[EpisodeAnswer]) -> dict[tuple[int, int], list]:
    assert len({(a.lists, a.number) for a in answers}) == len(answers)
    return {(a.lists, a.number): a.confusion.tolist() for a in answers if a.confusion is not None}


def test_tasks_hold_every_episode_once_class_by_class() -> None:
    tasks = episode_tasks(LISTS, 8)
    jobs = [job for task in tasks for job in task]
    asked = [(job.lists, number) for job in jobs for number in job.numbers]
    assert sorted(asked) == [(which, n) for which, x in enumerate(LISTS) for n in range(len(x))]
    assert max(len(job.numbers) for job in jobs) == 8
    first = [int(LISTS[which].rows[n][: LISTS[which].ways].min()) for which, n in asked]
    assert first == sorted(first) and len(tasks) > 1
    assert episode_tasks(LISTS, 8) == tasks


@pytest.mark.parametrize("protocol", ["standard", "panet_release"])
def test_counts_do_not_depend_on_who_works(protocol: str) -> None:
    settings = replace(SETTINGS, protocol=named_protocol(protocol))
    tasks = episode_tasks(LISTS, 8)

    def worked(shares: list[list[int]], memory: int) -> dict[tuple[int, int], list]:
        answers: list[EpisodeAnswer] = []
        for share in shares:
            worker = EpisodeWorker(TinyPrototypes(), INDEX, LISTS, replace(settings, memory=memory))
            answers += [a for t in share for job in tasks[t] for a in worker(job)]
            assert worker.features.peak <= memory
        return by_episode(answers)

    every = list(range(len(tasks)))
    whole = worked([every], 1 << 20)
    assert len(whole) == 80
    assert worked([every[::2], every[1::2]], 1 << 20) == whole
    assert worked([[t] for t in reversed(every)], 3 * FEATURE_BYTES) == whole


def test_a_picture_is_looked_at_once_and_memory_stays_bounded() -> None:
    long = draw_episodes(INDEX, INDEX.classes, 1, 2, 1, 120, 0, 0, 0)
    network = TinyPrototypes()
    worker = EpisodeWorker(network, INDEX, [long], SETTINGS)
    expected = cached(worker, 16)
    assert network.calls == worker.features.made == len(long.pictures())
    small = EpisodeWorker(TinyPrototypes(), INDEX, [long], replace(SETTINGS, memory=5 * FEATURE_BYTES))
    assert (cached(small, 16) == expected).all()
    assert small.features.peak <= 5 * FEATURE_BYTES and small.features.made > worker.features.made


@pytest.mark.parametrize("protocol", ["standard", "panet_release"])
def test_cached_batches_count_what_the_plain_loop_counts(protocol: str) -> None:
    rules = named_protocol(protocol)
    episodes = drawn(2, 2)
    worker = EpisodeWorker(TinyPrototypes(), INDEX, [episodes], replace(SETTINGS, protocol=rules))
    ours, theirs = cached(worker, 8), looped(TinyPrototypes(), INDEX, episodes, 16, rules)  # type: ignore[arg-type]
    side = 24 if protocol == "standard" else 16
    assert (ours.sum((1, 2, 3)) == theirs.sum((1, 2, 3))).all() and ours.sum((1, 2, 3)).max() <= side * side
    assert abs(ours - theirs).sum() <= 4, "rounding may tip a pixel"


def test_half_precision_features_are_rounded_when_new_too() -> None:
    episodes = drawn(1, 1)
    settings = replace(SETTINGS, precision="fp16")
    large = cached(EpisodeWorker(TinyPrototypes(), INDEX, [episodes], settings), 8)
    none = cached(EpisodeWorker(TinyPrototypes(), INDEX, [episodes], replace(settings, memory=1)), 8)
    assert (large == none).all()


def test_it_segments_what_colour_tells_apart() -> None:
    alone = Blocks([[1 + row % 4] for row in range(24)])
    index = alone.index()
    episodes = draw_episodes(index, index.classes, 1, 3, 1, 30, 0, 0, 0)
    counts = cached(EpisodeWorker(TinyPrototypes(), index, [episodes], SETTINGS), 8).sum((0, 1))
    assert np.diagonal(counts).sum() / counts.sum() > 0.8


def test_weak_labels_are_drawn_by_episode_and_shot() -> None:
    seen: list[float] = []

    def annotate(mask: np.ndarray, ignore: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        seen.append(rng.random())
        return mask, ~mask & ~ignore

    episodes = drawn(1, 2, count=10)
    settings = replace(SETTINGS, annotate=annotate)
    first = cached(EpisodeWorker(TinyPrototypes(), INDEX, [episodes], settings), 4)
    assert len(set(seen)) == 20
    again = sorted(seen)
    seen.clear()
    other = EpisodeWorker(TinyPrototypes(), INDEX, [episodes], settings)
    for number in reversed(range(10)):
        list(other(EpisodeJob(0, (number,))))
    assert sorted(seen) == again
    assert (first == cached(EpisodeWorker(TinyPrototypes(), INDEX, [episodes], SETTINGS), 4)).all(), "whole masks"


def test_what_cannot_be_read_is_left_out_with_its_reason() -> None:
    class Torn(Blocks):
        def picture(self, row: int) -> np.ndarray:
            if row == 5:
                raise DataError("p005.png: cannot be decoded", "save it again")
            return super().picture(row)

    index = replace(INDEX, pictures=Torn(blocks()._shown))
    episodes = drawn(1, 2)
    worker = EpisodeWorker(TinyPrototypes(), index, [episodes], SETTINGS)
    answers = [a for task in episode_tasks([episodes], 8) for job in task for a in worker(job)]
    lost = {a.number for a in answers if a.confusion is None}
    assert lost == {n for n in range(20) if 5 in episodes.rows[n][1:].tolist()} and 0 < len(lost) < 10
    assert {a.reason for a in answers if a.number in lost} == {"p005.png: cannot be decoded"}
    kept = by_episode(answers)
    whole = cached(EpisodeWorker(TinyPrototypes(), INDEX, [episodes], SETTINGS), 8)
    assert all(abs(np.array(kept[0, n]) - whole[n]).sum() <= 4 for n in range(20) if n not in lost)
