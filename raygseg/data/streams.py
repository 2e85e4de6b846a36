"""Endless shuffled sequences of pictures as functions of position: resuming needs the number only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from raygseg.data.parquet_rows import ENCODED_LIMIT
from raygseg.data.picture_sets import LabelledSet, PictureSet
from raygseg.data.table_order import Portions, TableOrder
from raygseg.errors import DataError
from raygseg.seeding import derive_seed, numpy_rng

if TYPE_CHECKING:
    from torch import Tensor

LARGE = ENCODED_LIMIT // 2  # bytes of an encoded table from which on it is not read at random


class _Sized(Protocol):
    def __len__(self) -> int: ...


class _Order:
    """Picture number n is `permutation of epoch n // N` at n mod N, seeded by (seed, "order", epoch)."""

    def __init__(self, data: _Sized, seed: int) -> None:
        if len(data) == 0:
            raise DataError("a stream needs at least one picture", "check the source and its limit")
        self._size, self._seed = len(data), seed
        self._epochs: dict[int, NDArray[np.int64]] = {}

    def index(self, number: int) -> int:
        epoch, place = divmod(number, self._size)
        if epoch not in self._epochs:
            while len(self._epochs) >= 2:  # a micro-batch spans two epochs at a time
                self._epochs.pop(min(self._epochs))
            self._epochs[epoch] = numpy_rng(self._seed, "order", epoch).permutation(self._size)
        return int(self._epochs[epoch][place])


class _Drawn:
    """Picture number n is any of N, drawn by (seed, "drawn", n): with replacement."""

    def __init__(self, data: _Sized, seed: int) -> None:
        self._size, self._seed = len(data), seed

    def index(self, number: int) -> int:
        return derive_seed(self._seed, "drawn", number) % self._size


class Pictures(Protocol):
    """Pictures of one size by position, uint8 [R, R, 3]."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> NDArray[np.uint8]: ...


class WithLabelled:
    """The pictures of an unlabelled set, then those of a labelled one without their maps."""

    def __init__(self, pictures: PictureSet, labelled: LabelledSet) -> None:
        self._pictures, self._labelled = pictures, labelled

    def __len__(self) -> int:
        return len(self._pictures) + len(self._labelled)

    def read(self, index: int) -> NDArray[np.uint8]:
        if index < len(self._pictures):
            return self._pictures.read(index)
        return self._labelled.read(index - len(self._pictures))[0]


class PictureStream:
    """Unlabelled pictures for training (`interfaces.Stream`).

    Args:
        pictures: what to show.
        seed: decides order and mirroring.
        flip: mirror picture number n where a draw seeded by (seed, "flip", n) says so.
        portions: of a step. A Parquet table larger than LARGE is then read block by block, by each host what its
            micro-batches need (`table_order`); without, or where it has fewer blocks than portions, at random.
    """

    def __init__(self, pictures: Pictures, seed: int, flip: bool, portions: Portions | None = None) -> None:
        self._pictures, self._seed, self._flip = pictures, seed, flip
        self._order: _Order | TableOrder = _Order(pictures, seed)
        if portions is not None and isinstance(pictures, PictureSet):
            blocks, size = pictures.blocks(LARGE)
            if len(blocks) >= portions.lanes:
                # A window of every lane, and the next one of each, shall fit into what is kept in memory.
                window = LARGE // max(size * portions.lanes, 1)
                self._order = TableOrder(blocks, seed, portions, window)

    def micro_batch(self, first: int, count: int) -> dict[str, Tensor]:
        """{"images": uint8 [count, 3, R, R]}: pictures number first .. first + count - 1."""
        if isinstance(self._order, TableOrder) and isinstance(self._pictures, PictureSet):
            self._pictures.prefetch(self._order.ahead(first))
        return {"images": _to_tensor(np.stack([self._show(n) for n in range(first, first + count)]))}

    def _show(self, number: int) -> NDArray[np.uint8]:
        picture = self._pictures.read(self._order.index(number))
        if self._flip and derive_seed(self._seed, "flip", number) & 1:
            return picture[:, ::-1]
        return picture


class LabelledStream:
    """Pictures with label maps for training. Few pictures come round again, each once an epoch.

    Args:
        flip: mirror pair number n where a draw seeded by (seed, "flip-pair", n) says so; its left and right classes
            change places.
        with_replacement: any pair may come next, as where a batch asks for more pairs than there are.
    """

    def __init__(self, data: LabelledSet, seed: int, flip: bool = False, with_replacement: bool = False) -> None:
        if data.resolution is None:
            raise DataError("a stream needs pictures of one size", "open the labelled set with a resolution")
        self._data, self._seed, self._flip = data, seed, flip
        in_turn = _Order(data, seed)  # refuses an empty set
        self._order: _Order | _Drawn = _Drawn(data, seed) if with_replacement else in_turn

    def micro_batch(self, first: int, count: int) -> dict[str, Tensor]:
        """{"images": uint8 [count, 3, R, R], "labels": uint8 [count, R, R]}."""
        import torch

        rows = [self._show(n) for n in range(first, first + count)]
        labels = torch.from_numpy(np.stack([class_map for _, class_map in rows]))
        return {"images": _to_tensor(np.stack([picture for picture, _ in rows])), "labels": labels}

    def _show(self, number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        picture, class_map = self._data.read(self._order.index(number))
        if self._flip and derive_seed(self._seed, "flip-pair", number) & 1:
            return picture[:, ::-1], self._data.labels.flip_lut[class_map[:, ::-1]]
        return picture, class_map


class JointStream:
    """Unlabelled pictures and labelled pairs side by side, both at the same position (`interfaces.Stream`)."""

    def __init__(self, pictures: PictureStream, pairs: LabelledStream) -> None:
        self._pictures, self._pairs = pictures, pairs

    def micro_batch(self, first: int, count: int) -> dict[str, Tensor]:
        """{"images", "labelled_images": uint8 [count, 3, R, R], "labels": uint8 [count, R, R]}."""
        pairs = self._pairs.micro_batch(first, count)
        images = self._pictures.micro_batch(first, count)["images"]
        return {"images": images, "labelled_images": pairs["images"], "labels": pairs["labels"]}


def _to_tensor(pictures: NDArray[np.uint8]) -> Any:
    """[N, H, W, 3] to a contiguous tensor [N, 3, H, W]."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))
