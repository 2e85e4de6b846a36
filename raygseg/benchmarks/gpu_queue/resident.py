"""Pictures kept decoded on the device: no decoding and no copying while the chip waits."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raygseg.data.picture_sets import PictureSet
from raygseg.data.source_address import parse_source
from raygseg.data.streams import PictureStream
from raygseg.data.toy import render_toy_batch
from raygseg.seeding import derive_seed


class ResidentStream(PictureStream):
    """The same pictures in the same order and mirroring as `PictureStream`, from a tensor on `device`.

    Args:
        array: the pictures of the set, uint8 [N, R, R, 3].
    """

    def __init__(
        self, pictures: PictureSet, array: NDArray[np.uint8], seed: int, flip: bool, device: str | torch.device
    ) -> None:
        super().__init__(pictures, seed, flip)
        assert array.shape[0] == len(pictures), (array.shape, len(pictures))
        self._resident = torch.from_numpy(array).to(device).permute(0, 3, 1, 2).contiguous()

    def micro_batch(self, first: int, count: int) -> dict[str, Tensor]:
        """{"images": uint8 [count, 3, R, R]} on the device."""
        numbers = range(first, first + count)
        rows = torch.tensor([self._order.index(number) for number in numbers])
        images = self._resident[rows.to(self._resident.device)]
        if self._flip:
            odd = torch.tensor([derive_seed(self._seed, "flip", number) & 1 == 1 for number in numbers])
            images = torch.where(odd.to(images.device)[:, None, None, None], images.flip(3), images)
        return {"images": images}


def toy_array(source: str, resolution: int) -> NDArray[np.uint8]:
    """All pictures of a toy:// source, uint8 [N, R, R, 3], drawn by as many processes as there are cores."""
    address = parse_source(source)
    rows = range(address.start, address.start + address.count)
    portions = [list(rows[i : i + 500]) for i in range(0, len(rows), 500)]
    jobs = [(address.seed, portion, resolution, address.place) for portion in portions]
    if len(jobs) == 1:
        return _draw(*jobs[0])
    # Forked processes would inherit a CUDA context that they cannot use.
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        return np.concatenate(list(pool.map(_draw, *zip(*jobs, strict=True))))


def _draw(seed: int, indices: list[int], resolution: int, style: str) -> NDArray[np.uint8]:
    return render_toy_batch(seed, indices, resolution, style)[0]
