"""What one process does with episodes: features once a picture, prototypes, scores, pixel counts.

Needs no Ray: `pipelines.episodes` runs it in this process, `distributed.episodes` in actors. Counts are the same
however episodes are shared out: features are computed a picture at a time, and a batch is always the same episodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raygseg.data.episodes.draws import Episode, EpisodeList
from raygseg.data.episodes.index import ClassIndex
from raygseg.data.episodes.reading import Annotate, Reading, read_marks, read_picture, read_truth
from raygseg.errors import DataError
from raygseg.metrics.episodes import query_confusion
from raygseg.nn.tensor_cache import TensorCache
from raygseg.seeding import numpy_rng

VECTOR_SHARE = 16  # the pooled vectors may take this part of what the features may
EPISODES_A_TASK = 64


class PrototypeNetwork(Protocol):
    """The pieces of a prototype network (`methods.panet.network`); pictures in [-1, 1]."""

    def features(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, C, h, w]."""
        ...

    def pool(self, features: Tensor, masks: Tensor) -> Tensor:
        """[N, C, h, w], [N, H, W] -> [N, C]."""
        ...

    def prototypes(self, fore: Tensor, back: Tensor) -> Tensor:
        """[B, W, K, C] twice -> [B, 1 + W, C]."""
        ...

    def scores(self, query_features: Tensor, prototypes: Tensor) -> Tensor:
        """[B, Q, C, h, w], [B, 1 + W, C] -> [B, Q, 1 + W, h, w]."""
        ...

    def enlarge(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """[..., h, w] -> [..., H, W]."""
        ...


class EpisodeJob(NamedTuple):
    """Episodes `numbers` of list number `lists`, worked out together."""

    lists: int
    numbers: tuple[int, ...]


class EpisodeAnswer(NamedTuple):
    """confusion: [Q, 1 + W, 1 + W], rows truth; None where the episode cannot be read, for `reason`."""

    lists: int
    number: int
    confusion: NDArray[np.int64] | None
    reason: str = ""


class _Read(NamedTuple):
    """What is known of an episode before its scores: vectors [W, K, C] and the queries."""

    number: int
    ways: tuple[int, ...]
    fore: Tensor
    back: Tensor
    queries: Tensor  # [Q, C, h, w]
    truths: list[NDArray[np.uint8]]


def episode_tasks(lists: Sequence[EpisodeList], batch_size: int) -> list[list[EpisodeJob]]:
    """All episodes in jobs of at most `batch_size`, a few jobs a task; a function of its arguments alone.

    Episodes of a class come together, whatever their list: a small cache then sees each picture again soon.
    """
    every = [
        (int(row[: x.ways].min()), which, number) for which, x in enumerate(lists) for number, row in enumerate(x.rows)
    ]
    tasks: list[list[EpisodeJob]] = []
    open_numbers: list[int] = []
    before: tuple[int, int] | None = None

    def close() -> None:
        if open_numbers and before is not None:
            job = EpisodeJob(before[1], tuple(open_numbers))
            if not tasks or sum(len(j.numbers) for j in tasks[-1]) + len(job.numbers) > EPISODES_A_TASK:
                tasks.append([])
            tasks[-1].append(job)
            open_numbers.clear()

    for first, which, number in sorted(every):
        if before != (first, which) or len(open_numbers) == batch_size:
            close()
        before = (first, which)
        open_numbers.append(number)
    close()
    return tasks


@dataclass(frozen=True)
class EpisodeSettings:
    """What decides the counts, besides network and episodes.

    Attributes:
        resolution: side of the square that the network sees.
        protocol: what void is, which size labels are scored at, how pictures are resized.
        annotate: how the support is marked; None: every pixel. seed: of those marks.
        precision: of the features that are kept. memory: bytes that they may take.
    """

    resolution: int
    protocol: Reading
    annotate: Annotate | None = None
    seed: int = 0
    precision: Literal["fp32", "fp16"] = "fp32"
    memory: int = 1 << 30
    device: str = "cpu"


class EpisodeWorker:
    """Holds network and cache and works through jobs.

    Attributes:
        features: the cache of maps. vectors: the cache of what they are pooled to under whole masks.
        vanished: support marks without a pixel at the network's resolution; their prototype is zero.
    """

    def __init__(
        self, network: PrototypeNetwork, index: ClassIndex, lists: Sequence[EpisodeList], settings: EpisodeSettings
    ) -> None:
        self.network, self.index, self.lists, self.settings = network, index, list(lists), settings
        self.features = TensorCache(settings.memory)
        self.vectors = TensorCache(settings.memory // VECTOR_SHARE)
        self.vanished = 0

    @torch.no_grad()
    def __call__(self, job: EpisodeJob) -> list[EpisodeAnswer]:
        """One answer an episode, those that cannot be read first."""
        which = self.lists[job.lists]
        read: list[_Read] = []
        answers: list[EpisodeAnswer] = []
        for number in job.numbers:
            try:
                read.append(self._read(which, number))
            except DataError as error:
                answers.append(EpisodeAnswer(job.lists, number, None, error.message))
        if read:
            for episode, confusion in zip(read, self._confusions(read), strict=True):
                answers.append(EpisodeAnswer(job.lists, episode.number, confusion))
        return answers

    def picture_features(self, picture: int) -> Tensor:
        """[C, h, w] on the device, from the cache where it is there."""
        return self.features.get(picture, lambda: self._computed(picture))

    def _computed(self, picture: int) -> Tensor:
        content = read_picture(self.index, picture, self.settings.resolution, self.settings.protocol)
        images = torch.from_numpy(content)[None].to(self.settings.device).float() / 127.5 - 1
        dtype = torch.float16 if self.settings.precision == "fp16" else torch.float32
        # Rounded when new too: an answer must not depend on whether the map was in the cache. And of its own
        # memory: a view would keep alive more than is counted.
        return self.network.features(images)[0].to(dtype).contiguous().clone()

    def _read(self, which: EpisodeList, number: int) -> _Read:
        episode, protocol = which.episode(number), self.settings.protocol
        vectors = [
            torch.stack([self._pooled(which, number, episode, way, shot) for shot in range(which.shots)])
            for way in range(which.ways)
        ]
        both = torch.stack(vectors)  # [W, K, 2, C]
        size = None if protocol.labels == "original" else self.settings.resolution
        truths = [read_truth(self.index, p, episode.ways, size) for p in episode.queries]
        queries = torch.stack([self.picture_features(p) for p in episode.queries]).float()
        return _Read(number, episode.ways, both[:, :, 0], both[:, :, 1], queries, truths)

    def _pooled(self, which: EpisodeList, number: int, episode: Episode, way: int, shot: int) -> Tensor:
        """[2, C]: the picture's mean under the marks of the way and of the background."""
        picture = episode.support[way][shot]
        if self.settings.annotate is None:
            return self.vectors.get((picture, way, episode.ways), lambda: self._means(picture, episode.ways, way, None))
        rng = numpy_rng(self.settings.seed, "weak", which.fold, which.run, number, way, shot)
        return self._means(picture, episode.ways, way, rng)

    def _means(self, picture: int, ways: tuple[int, ...], way: int, rng: np.random.Generator | None) -> Tensor:
        settings = self.settings
        marks = read_marks(
            self.index, picture, ways, way, settings.resolution, settings.protocol, settings.annotate, rng
        )
        self.vanished += not marks.fore.any()
        masks = torch.from_numpy(np.stack(marks)).to(settings.device)
        features = self.picture_features(picture)
        return self.network.pool(features[None].expand(2, -1, -1, -1), masks).float()

    def _confusions(self, read: Sequence[_Read]) -> Iterator[NDArray[np.int64]]:
        """[Q, 1 + W, 1 + W] of each episode, worked out as one batch."""
        fore, back = (torch.stack([getattr(r, name) for r in read]) for name in ("fore", "back"))
        queries = torch.stack([r.queries for r in read])
        scores = self.network.scores(queries, self.network.prototypes(fore, back))
        if self.settings.protocol.labels == "resized":
            side = self.settings.resolution
            answers = self.network.enlarge(scores, (side, side)).argmax(2).to(torch.uint8).cpu().numpy()
            for episode, answer in zip(read, answers, strict=True):
                yield _counted(episode, list(answer))
            return
        for episode, own in zip(read, scores, strict=True):
            sizes = [(truth.shape[0], truth.shape[1]) for truth in episode.truths]
            maps = [self.network.enlarge(own[None, q : q + 1], size)[0, 0] for q, size in enumerate(sizes)]
            yield _counted(episode, [m.argmax(0).to(torch.uint8).cpu().numpy() for m in maps])


def _counted(episode: _Read, answers: Sequence[NDArray[np.uint8]]) -> NDArray[np.int64]:
    ways = len(episode.ways)
    return np.stack([query_confusion(t, a, ways) for t, a in zip(episode.truths, answers, strict=True)])
