"""A label head on a pretrained backbone's maps, at work: the same heads that read a generator's features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from raygseg.bundle import Bundle
from raygseg.errors import CheckpointError
from raygseg.labels import LabelSpace
from raygseg.methods.repurposegan.heads import LabelHead
from raygseg.methods.student.segmenter import SquareSegmenter
from raygseg.nn.backbones.catalogue import FrozenTrunk, backbone_facts, open_backbone, recorded_weights
from raygseg.nn.stored_weights import fit_weights

METHOD = "backbone-head"


class BackboneHeadSegmenter(SquareSegmenter):
    """Implements `interfaces.Segmenter`: backbone, fused hypercolumn, head, soft vote of its members.

    Args:
        trunk: the backbone, opened for pictures of `resolution`.
        head: in evaluation mode.
        record: name, path and SHA-256 of the backbone's weights, and its precision.
        labels, resolution, batch_size: see `SquareSegmenter`.
    """

    def __init__(
        self,
        trunk: FrozenTrunk,
        head: LabelHead,
        record: Mapping[str, Any],
        labels: LabelSpace,
        resolution: int,
        batch_size: int = 8,
    ) -> None:
        super().__init__(labels, resolution, batch_size)
        self.trunk, self.record = trunk, dict(record)
        self.head = head.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        return self.head.project.weight.device

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """[N, 3, R, R] in [-1, 1] -> [N, K, R, R], on the head's device."""
        maps = self.trunk(images.to(self.device), self.head.layer_names)
        return member_logits(self.head, maps, self.resolution).float().softmax(2).mean(1)

    # --- bundles ---------------------------------------------------------------------------------

    def to_bundle(self, config: Mapping[str, Any] | None = None, **facts: Any) -> Bundle:
        """The head as a bundle; of the backbone name and SHA-256 only, its weights are found again by them."""
        build = {
            "method": METHOD,
            "backbone": self.record,
            "head": self.head.build,
            "resolution": self.resolution,
        }
        told = {**backbone_facts(self.record, str(getattr(self.trunk.network, "title", ""))), **facts}
        return Bundle("segmenter", build, self.head.state_dict(), self.labels, config or {}, told)

    @classmethod
    def from_bundle(cls, bundle: Bundle, device: torch.device | str = "cpu") -> BackboneHeadSegmenter:
        """Rebuild from a bundle.

        Raises:
            CheckpointError: it is of another kind, weights do not fit, or the backbone's file is another one.
            MissingEnvironmentError: the backbone's weights are not there.
        """
        if bundle.kind != "segmenter" or bundle.build.get("method") != METHOD or bundle.labels is None:
            raise CheckpointError(
                f"the bundle is a {bundle.kind}, not a backbone head", "name one that `train` made of a backbone-head"
            )
        record, resolution = bundle.build["backbone"], int(bundle.build["resolution"])
        head = LabelHead(**bundle.build["head"])
        fit_weights(head, bundle.tensors, "head")
        place = recorded_weights(record)
        network = open_backbone(record["name"], place, resolution, record["precision"], head.layer_names)
        assert isinstance(network, torch.nn.Module)
        return cls(FrozenTrunk(network), head.to(device), record, bundle.labels, resolution)


def member_logits(head: LabelHead, maps: Mapping[str, Tensor], resolution: int) -> Tensor:
    """[N, M, K, R, R] at the picture's resolution, enlarged from the head's grid where that is smaller."""
    logits: Tensor = head(maps)
    if logits.shape[-1] == resolution:
        return logits
    size = (resolution, resolution)
    wide: Tensor = functional.interpolate(logits.flatten(1, 2), size, mode="bilinear", align_corners=False)
    members: Tensor = wide.unflatten(1, (head.members, head.num_classes))
    return members
