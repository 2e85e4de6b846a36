"""What an evaluation by episodes keeps, so that the same command goes on and more runs add only themselves.

OUT/episodes/NAME.json   a list of episodes: plain indices, with its digest
OUT/counts/NAME.npz      pixel counts of every episode of that list
OUT/tasks/*.json         answers of a task that is done while its lists are not
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raygseg.data import object_store
from raygseg.data.episodes.draws import EpisodeList
from raygseg.distributed.episode_worker import EpisodeAnswer, EpisodeJob
from raygseg.errors import DataError


@dataclass(frozen=True)
class ListCounts:
    """The answers to one list.

    Attributes:
        confusions: int64 [E, Q, 1 + W, 1 + W], rows truth; zeros for episodes that are left out.
        left_out: reason by number, of episodes that could not be read.
    """

    confusions: NDArray[np.int64]
    left_out: dict[int, str]


class EpisodeStore:
    """The files below `place`; `network` is the digest of what answers."""

    def __init__(self, place: str, network: str) -> None:
        self.place, self.network = place, network

    def keep_list(self, episodes: EpisodeList) -> str:
        """Write the list, or see that the stored one is the same. Raises DataError where it is not."""
        where = object_store.join(self.place, "episodes", f"{list_name(episodes)}.json")
        if object_store.exists(where):
            if EpisodeList.load(where).digest != episodes.digest:
                raise DataError(f"{where} holds other episodes: the data changed", "choose another name or output")
        else:
            episodes.save(where)
        return where

    def counts(self, episodes: EpisodeList) -> ListCounts | None:
        """What was counted before; None if nothing. Raises DataError where another network did."""
        where = self._counts(episodes)
        if not object_store.exists(where):
            return None
        with np.load(io.BytesIO(object_store.read_bytes(where)), allow_pickle=False) as stored:
            facts = json.loads(str(stored["facts"]))
            confusions = np.asarray(stored["confusions"], np.int64)
        if facts["episodes"] != episodes.digest or facts["network"] != self.network:
            raise DataError(f"{where}: counted by another network", "choose another name or output for this one")
        return ListCounts(confusions, {int(number): reason for number, reason in facts["left_out"].items()})

    def keep_counts(self, episodes: EpisodeList, counts: ListCounts) -> None:
        facts = {"episodes": episodes.digest, "network": self.network, "left_out": counts.left_out}
        content = io.BytesIO()
        np.savez_compressed(content, confusions=counts.confusions, facts=np.array(json.dumps(facts)))
        object_store.write_bytes(self._counts(episodes), content.getvalue())

    def answers(self, task: Sequence[EpisodeJob], lists: Sequence[EpisodeList]) -> list[EpisodeAnswer] | None:
        """Those of a task that was done before; None if it was not."""
        where = self._task(task, lists)
        if not object_store.exists(where):
            return None
        rows = json.loads(object_store.read_bytes(where))
        return [EpisodeAnswer(a, n, None if c is None else np.array(c, np.int64), why) for a, n, c, why in rows]

    def keep_answers(
        self, task: Sequence[EpisodeJob], lists: Sequence[EpisodeList], answers: Sequence[EpisodeAnswer]
    ) -> None:
        rows = [(a.lists, a.number, None if a.confusion is None else a.confusion.tolist(), a.reason) for a in answers]
        object_store.write_bytes(self._task(task, lists), json.dumps(rows).encode())

    def forget_answers(self) -> None:
        """Delete the answers of tasks: their lists are counted."""
        folder = object_store.join(self.place, "tasks")
        for entry in object_store.list_files(folder):
            object_store.delete(object_store.join(folder, entry.name))

    def _counts(self, episodes: EpisodeList) -> str:
        return object_store.join(self.place, "counts", f"{list_name(episodes)}.npz")

    def _task(self, task: Sequence[EpisodeJob], lists: Sequence[EpisodeList]) -> str:
        told = [self.network, [(job.lists, lists[job.lists].digest, job.numbers) for job in task]]
        digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:24]
        return object_store.join(self.place, "tasks", f"{digest}.json")


def list_name(episodes: EpisodeList) -> str:
    """`fold-0.shots-1.run-0`."""
    ways = f"ways-{episodes.ways}." if episodes.ways > 1 else ""
    return f"fold-{episodes.fold}.{ways}shots-{episodes.shots}.run-{episodes.run}"


def gathered(episodes: EpisodeList, which: int, answers: Sequence[EpisodeAnswer]) -> ListCounts:
    """The answers to list number `which`, in order."""
    size = 1 + episodes.ways
    confusions = np.zeros((len(episodes), episodes.queries, size, size), np.int64)
    left_out: dict[int, str] = {}
    for answer in answers:
        if answer.lists != which:
            continue
        if answer.confusion is None:
            left_out[answer.number] = answer.reason
        else:
            confusions[answer.number] = answer.confusion
    return ListCounts(confusions, left_out)
