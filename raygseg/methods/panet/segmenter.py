"""PANet at work: label maps for pictures of any size by the classes of a few labelled ones."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raygseg.bundle import Bundle
from raygseg.data.picture_files import ClassMap, Picture, resize_picture
from raygseg.errors import CheckpointError, DataError
from raygseg.labels import LabelSpace
from raygseg.methods.panet.network import METHOD, PrototypeNetwork, blank_network, signed
from raygseg.methods.student.segmenter import SquareSegmenter

logger = logging.getLogger(__name__)
PROTOTYPES = "prototypes"


class PrototypeSegmenter(SquareSegmenter):
    """Implements `interfaces.Segmenter`: cosine to the support's prototypes, softmax.

    Args:
        network: in evaluation mode.
        prototypes: [K, C] one a class of `labels`; a row of zeros for a class that the support does not show.
        labels: the support's classes; one of them is the background.
        resolution, batch_size: see `SquareSegmenter`.
    """

    def __init__(
        self, network: PrototypeNetwork, prototypes: Tensor, labels: LabelSpace, resolution: int, batch_size: int = 8
    ) -> None:
        super().__init__(labels, resolution, batch_size)
        self.network = network.eval().requires_grad_(False)
        self.prototypes = prototypes.to(network.device)

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """[N, 3, R, R] in [-1, 1] -> [N, K, R, R], on the network's device."""
        features = self.network.features(images.to(self.network.device))
        shown = self.prototypes.abs().sum(1) > 0
        order = self._background_first(shown)
        # Each picture an episode of its own: SSP corrects its prototypes by that picture alone.
        scores = self.network.scores(features[:, None], self.prototypes[order][None].expand(len(features), -1, -1))
        wide = self.network.enlarge(scores, (images.shape[-2], images.shape[-1]))[:, 0].float().softmax(1)
        answer = wide.new_zeros(len(features), self.labels.num_classes, *wide.shape[2:])
        answer[:, order] = wide
        return answer

    def _background_first(self, shown: Tensor) -> list[int]:
        """Positions of the classes that can be an answer; the network's first is the background."""
        ways = [i for i in shown.nonzero().flatten().tolist() if i != self.labels.background]
        assert self.labels.background is not None
        return [self.labels.background, *ways]

    # --- bundles ---------------------------------------------------------------------------------

    def to_bundle(self, config: Mapping[str, Any] | None = None, **facts: Any) -> Bundle:
        """Network and prototypes as a bundle that needs the support no more."""
        build = {"method": METHOD, **self.network.build, "resolution": self.resolution}
        tensors = {**self.network.state_dict(), PROTOTYPES: self.prototypes}
        told = {"encoder": self.network.encoder.title, **facts}
        return Bundle("segmenter", build, tensors, self.labels, config or {}, told)

    @classmethod
    def from_bundle(cls, bundle: Bundle, device: torch.device | str = "cpu") -> PrototypeSegmenter:
        """Rebuild from a bundle. Raises CheckpointError where it is of another kind or weights do not fit."""
        if bundle.kind != "segmenter" or bundle.build.get("method") != METHOD or bundle.labels is None:
            raise CheckpointError(f"the bundle is a {bundle.kind}, not PANet with its support", "name one of those")
        tensors = dict(bundle.tensors)
        network = blank_network(**{key: bundle.build[key] for key in ("encoder", "scale", "self_prototypes")})
        try:
            prototypes = tensors.pop(PROTOTYPES)
            network.load_state_dict(tensors)
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(
                f"the weights do not fit the network: {str(error).splitlines()[0]}", "pull the bundle again"
            ) from error
        return cls(network.to(device), prototypes, bundle.labels, int(bundle.build["resolution"]))


def with_support(
    network: PrototypeNetwork,
    support: Sequence[tuple[Picture, ClassMap]],
    labels: LabelSpace,
    resolution: int,
    where: str = "support",
) -> PrototypeSegmenter:
    """A segmenter of the classes that the support shows; its features are computed here, once.

    Every class but the background is a way whose shots are the pictures that show it. Prototypes are means of
    per-picture means (spec 1.3); pixels that are void or another class are in no mean of a way's background.

    Args:
        network: see `PrototypeNetwork`.
        support: pictures uint8 [H, W, 3] with class maps [H, W] of the same size.
        labels: their classes.
        resolution: the square that the network sees.
        where: what errors call the support.

    Raises:
        DataError: no pictures, no background class, no picture of any other class, or no pixel of background.
    """
    background = labels.background
    if background is None:
        raise DataError(f"{where}: the classes have no background", 'name it in labels.json: "background": NAME')
    fore: dict[int, list[Tensor]] = {}
    back: dict[int, list[Tensor]] = {}
    for picture, class_map in support:
        shown = [int(c) for c in np.unique(class_map) if c < labels.num_classes and c != background]
        masks = torch.from_numpy(np.stack([class_map == c for c in [background, *shown]])).to(network.device)
        vectors = _pooled(network, picture, masks, resolution)
        for c, vector in zip(shown, vectors[1:], strict=True):
            fore.setdefault(c, []).append(vector)
            if masks[0].any():  # a picture without background says nothing about it
                back.setdefault(c, []).append(vectors[0])
    if not fore:
        raise DataError(f"{where}: none of {len(support)} pictures shows a class", "add labelled pictures")
    if not back:
        raise DataError(f"{where}: no pixel is background", f"label some pixels '{labels.names[background]}'")
    prototypes = torch.zeros(labels.num_classes, len(next(iter(fore.values()))[0]), device=network.device)
    for c, found in fore.items():
        prototypes[c] = torch.stack(found).mean(0)
    prototypes[background] = torch.stack([torch.stack(found).mean(0) for found in back.values()]).mean(0)
    missing = [name for i, name in enumerate(labels.names) if i != background and i not in fore]
    if missing:
        logger.warning("%s shows no %s: never an answer", where, ", ".join(missing))
    return PrototypeSegmenter(network, prototypes, labels, resolution)


@torch.no_grad()
def _pooled(network: PrototypeNetwork, picture: Picture, masks: Tensor, resolution: int) -> Tensor:
    """Masked means [M, C] of one picture by masks [M, H, W] at its own size."""
    square = torch.from_numpy(np.array(resize_picture(picture, resolution))).permute(2, 0, 1)[None]
    features = network.features(signed(square.to(network.device)))
    return network.pool(features.expand(len(masks), -1, -1, -1), masks)
