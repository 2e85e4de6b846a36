"""Two actors count what one process counts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from raygseg.config.episodes import EpisodeProtocol
from raygseg.data.episodes.draws import EpisodeList, draw_episodes
from raygseg.distributed.actor_pool import ActorPool
from raygseg.distributed.episode_worker import EpisodeSettings, EpisodeWorker, episode_tasks
from raygseg.distributed.episodes import score_with_actors
from raygseg.errors import DataError
from tests.unit.data.episodes.sets import blocks
from tests.unit.tiny_prototypes import TinyPrototypes

INDEX = blocks().index()


@dataclass(frozen=True)
class Make:
    lists: tuple[EpisodeList, ...]
    fails: bool = False

    def __call__(self, device: str) -> EpisodeWorker:
        if self.fails:
            raise DataError("weights.safetensors: cut off", "fetch it again")
        return EpisodeWorker(TinyPrototypes(), INDEX, self.lists, EpisodeSettings(16, EpisodeProtocol(), device=device))


def lists() -> tuple[EpisodeList, ...]:
    return tuple(draw_episodes(INDEX, INDEX.classes, 1, shots, 1, 100, 0, 0, 0) for shots in (1, 3))


def test_counts_of_actors_are_those_of_one_process(ray_cluster: None, tmp_path: Path) -> None:
    make = Make(lists())
    tasks = episode_tasks(make.lists, 8)
    here = make("cpu")
    expected = [(a.lists, a.number, a.confusion) for task in tasks for job in task for a in here(job)]
    for actors in (1, 2):
        found = list(score_with_actors(tasks, make, ActorPool(actors)))
        assert [(a.lists, a.number) for a in found] == [(which, n) for which, n, _ in expected]
        assert all((a.confusion == c).all() for a, (_, _, c) in zip(found, expected, strict=True))


def test_what_an_actor_refuses_arrives_as_it_is(ray_cluster: None) -> None:
    make = Make(lists(), fails=True)
    with pytest.raises(DataError, match=r"weights\.safetensors: cut off"):
        list(score_with_actors(episode_tasks(make.lists, 8)[:1], make, ActorPool(1)))
