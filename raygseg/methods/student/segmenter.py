"""The student at work: label maps for pictures of any size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from raygseg.bundle import Bundle
from raygseg.data.picture_files import resize_picture
from raygseg.errors import CheckpointError, DataError
from raygseg.interfaces import Picture, Segmentation
from raygseg.labels import LabelSpace
from raygseg.nn.pretrained_unet import PretrainedUNet, open_unet
from raygseg.nn.stored_weights import fit_weights
from raygseg.nn.unet import UNet

METHOD = "student"
STRIP_BYTES = 32 << 20  # of enlarged probabilities held at a time


class SquareSegmenter(ABC):
    """A segmenter whose network sees squares of one size (`interfaces.Segmenter` but for `probabilities`).

    Pictures are squashed to the network's square as in training; probabilities are brought back to
    the picture's own size bilinearly, a strip of rows at a time, so that memory does not grow with
    the picture.

    Args:
        labels: its classes.
        resolution: the square's side in training.
        batch_size: pictures a forward pass.
    """

    def __init__(self, labels: LabelSpace, resolution: int, batch_size: int = 16) -> None:
        self.labels, self.resolution, self.batch_size = labels, resolution, batch_size

    @abstractmethod
    def probabilities(self, images: Tensor) -> Tensor:
        """[N, 3, R, R] in [-1, 1] -> [N, K, R, R], on the network's device."""

    def predict(self, pictures: Sequence[Picture]) -> list[Segmentation]:
        """Label map and confidence of each picture, at its own size, in order.

        Raises:
            DataError: something that is not uint8 [H, W, 3]; says which.
        """
        answers: list[Segmentation] = []
        for first in range(0, len(pictures), self.batch_size):
            group = pictures[first : first + self.batch_size]
            squares = [self._square(picture, first + i) for i, picture in enumerate(group)]
            images = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).float() / 127.5 - 1
            for picture, maps in zip(group, self.probabilities(images).cpu(), strict=True):
                answers.append(enlarge(maps, picture.shape[0], picture.shape[1]))
        return answers

    def _square(self, picture: Picture, place: int) -> Picture:
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
            raise DataError(
                f"picture {place} has dtype {picture.dtype} and shape {picture.shape}",
                "give uint8 arrays [height, width, 3] in RGB",
            )
        return resize_picture(picture, self.resolution)


class UNetSegmenter(SquareSegmenter):
    """Implements `interfaces.Segmenter`.

    Args:
        net: logits from pictures in [-1, 1].
        labels, resolution, batch_size: see `SquareSegmenter`.
    """

    def __init__(self, net: UNet | PretrainedUNet, labels: LabelSpace, resolution: int, batch_size: int = 16) -> None:
        super().__init__(labels, resolution, batch_size)
        self.net = net.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        return self.net.classify.weight.device

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """[N, 3, R, R] in [-1, 1] -> [N, K, R, R], on the network's device."""
        logits: Tensor = self.net(images.to(self.device))
        return logits.float().softmax(1)

    # --- bundles ---------------------------------------------------------------------------------

    def to_bundle(self, config: Mapping[str, Any] | None = None, **facts: Any) -> Bundle:
        """The segmenter as a bundle. config: training configuration, for the record; facts: for the card.

        The weights of a frozen backbone are not inside: they are found again by their SHA-256.
        """
        build = {"method": METHOD, "network": self.net.build, "resolution": self.resolution}
        told = self.net.facts if isinstance(self.net, PretrainedUNet) else {}
        return Bundle("segmenter", build, self.net.state_dict(), self.labels, config or {}, {**told, **facts})

    @classmethod
    def from_bundle(cls, bundle: Bundle, device: torch.device | str = "cpu") -> UNetSegmenter:
        """Rebuild from a bundle.

        Raises:
            CheckpointError: it is of another kind, or weights do not fit.
            MissingEnvironmentError: the weights of a frozen backbone are not there.
        """
        if bundle.kind != "segmenter" or bundle.build.get("method") != METHOD or bundle.labels is None:
            raise CheckpointError(
                f"the bundle is a {bundle.kind}, not a U-Net segmenter", "name one that `train segmenter` wrote"
            )
        net = open_unet(**bundle.build["network"])
        fit_weights(net, bundle.tensors, "U-Net")
        return cls(net.to(device), bundle.labels, bundle.build["resolution"])


def enlarge(probabilities: Tensor, height: int, width: int) -> Segmentation:
    """[K, r, r] -> the most probable class and its probability at [height, width].

    Bilinear (pixel centres aligned), in strips of rows of at most STRIP_BYTES.
    """
    label_map = np.empty((height, width), dtype=np.uint8)
    confidence = np.empty((height, width), dtype=np.uint8)
    rows = max(1, STRIP_BYTES // (4 * probabilities.shape[0] * width))
    for first, strip in _row_strips(probabilities, height, rows):
        wide = functional.interpolate(strip[None], size=(strip.shape[1], width), mode="bilinear", align_corners=False)
        best, index = wide[0].max(0)
        last = first + strip.shape[1]
        label_map[first:last] = index.numpy().astype(np.uint8)
        confidence[first:last] = (best * 255).round().clamp(0, 255).numpy().astype(np.uint8)
    return Segmentation(label_map, confidence)


def _row_strips(maps: Tensor, height: int, rows: int) -> Iterator[tuple[int, Tensor]]:
    """Maps [K, r, c] resized to `height` rows, `rows` at a time: (first row, [K, rows, c])."""
    source_rows = maps.shape[1]
    for first in range(0, height, rows):
        row = torch.arange(first, min(first + rows, height), dtype=torch.float64)
        at = ((row + 0.5) * (source_rows / height) - 0.5).clamp(0, source_rows - 1)
        above = at.floor().long()
        below = (above + 1).clamp_max(source_rows - 1)
        share = (at - above).to(maps.dtype)[:, None]
        yield first, maps[:, above] * (1 - share) + maps[:, below] * share
