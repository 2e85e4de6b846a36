"""The arrays of an episode: pictures, marks of the support, truth of the query (PANet spec 1.3, 1.8, 1.10).

support_images  uint8 [W, K, 3, R, R]
fore, back      uint8 [W, K, R, R]     1: marked as the way; as none of the episode's ways
query_images    uint8 [Q, 3, R, R]
query_labels    uint8 [Q, R, R]        0 background, 1..W the ways, 255 void
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raygseg.data.episodes.draws import Episode
from raygseg.data.episodes.index import VOID, ClassIndex
from raygseg.data.picture_files import ClassMap, Picture, resize_class_map
from raygseg.errors import DataError

Mask = NDArray[np.bool_]
# (way's mask, void and other ways' pixels, draws) -> (marked as the way, marked as background)
Annotate = Callable[[Mask, Mask, np.random.Generator], tuple[Mask, Mask]]


class Reading(Protocol):
    """The keys of a protocol that decide what is read (`config.episodes.EpisodeProtocol`)."""

    @property
    def void(self) -> Literal["excluded", "background"]: ...
    @property
    def labels(self) -> Literal["original", "resized"]: ...
    @property
    def resampling(self) -> Literal["lanczos", "bilinear"]: ...


class SupportMarks(NamedTuple):
    """uint8 [R, R] each."""

    fore: ClassMap
    back: ClassMap


def squashed(picture: Picture, resolution: int, resampling: Literal["lanczos", "bilinear"]) -> Picture:
    """uint8 [R, R, 3]; the aspect is not kept (spec 1.6)."""
    if picture.shape[:2] == (resolution, resolution):
        return picture
    method = Image.Resampling.LANCZOS if resampling == "lanczos" else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(picture).resize((resolution, resolution), method), dtype=np.uint8)


def read_picture(index: ClassIndex, picture: int, resolution: int, protocol: Reading) -> NDArray[np.uint8]:
    """uint8 [3, R, R]. Raises DataError naming the file."""
    image = squashed(index.pictures.picture(picture), resolution, protocol.resampling)
    return np.ascontiguousarray(image.transpose(2, 0, 1))


def read_marks(
    index: ClassIndex,
    picture: int,
    ways: Sequence[int],
    way: int,
    resolution: int,
    protocol: Reading,
    annotate: Annotate | None = None,
    rng: np.random.Generator | None = None,
) -> SupportMarks:
    """Marks of way number `way` in a support picture.

    Args:
        annotate: how a person would mark it; None: every pixel.
        rng: its draws.

    Raises:
        DataError: the picture has no pixel of the class; names the file.
    """
    own = index.way_map(picture, ways)
    if not (own == way + 1).any():
        name = index.classes[ways[way]]
        raise DataError(
            f"{index.pictures.names[picture]}: empty mask, no pixel of {name}", "mend the mask or the index"
        )
    small = resize_class_map(own, resolution)
    fore, void = small == way + 1, small == VOID
    if annotate is not None and fore.any():  # what is lost in the smaller map nobody can mark
        assert rng is not None, "marks are drawn"
        others = (small != 0) & ~fore & ~void
        marked = annotate(fore, others if protocol.void == "background" else others | void, rng)
        return SupportMarks(marked[0].astype(np.uint8), marked[1].astype(np.uint8))
    back = (small == 0) | void if protocol.void == "background" else small == 0
    return SupportMarks(fore.astype(np.uint8), back.astype(np.uint8))


def read_truth(index: ClassIndex, picture: int, ways: Sequence[int], resolution: int | None) -> ClassMap:
    """uint8 [H, W] of a query: 0, 1..W, 255 void; at its own size without a resolution.

    Raises DataError where none of the ways is in the picture; names the file.
    """
    own = index.way_map(picture, ways)
    if not ((own > 0) & (own != VOID)).any():
        raise DataError(
            f"{index.pictures.names[picture]}: empty mask, no pixel of {' or '.join(index.classes[w] for w in ways)}",
            "mend the mask or the index",
        )
    return resize_class_map(own, resolution)


def read_episode(
    index: ClassIndex,
    episode: Episode,
    resolution: int,
    protocol: Reading,
    annotate: Annotate | None = None,
    rng: np.random.Generator | None = None,
) -> dict[str, NDArray[np.uint8]]:
    """The five arrays of the module's text, query labels resized too. Raises DataError naming a file."""
    marks = [
        [read_marks(index, p, episode.ways, way, resolution, protocol, annotate, rng) for p in pictures]
        for way, pictures in enumerate(episode.support)
    ]
    return {
        "support_images": np.stack(
            [np.stack([read_picture(index, p, resolution, protocol) for p in way]) for way in episode.support]
        ),
        "fore": np.stack([np.stack([mark.fore for mark in way]) for way in marks]),
        "back": np.stack([np.stack([mark.back for mark in way]) for way in marks]),
        "query_images": np.stack([read_picture(index, p, resolution, protocol) for p in episode.queries]),
        "query_labels": np.stack([read_truth(index, p, episode.ways, resolution) for p in episode.queries]),
    }
