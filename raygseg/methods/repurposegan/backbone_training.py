"""Training a label head on a pretrained backbone's maps of k labelled pictures.

The same heads as on generator features (`heads.py`), the same loss, but the features are those of
pictures that can be turned, scaled and recoloured: the head sees each labelled picture under the
student's augmentation. The backbone is frozen and read without a graph.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raygseg.config.schema import BackboneHeadConfig
from raygseg.data.augment import AffineAugmentation
from raygseg.data.picture_sets import LabelledSet
from raygseg.errors import ConfigError
from raygseg.interfaces import MicroBatch, Phase, PhaseLoss
from raygseg.methods.repurposegan.backbone_segmenter import BackboneHeadSegmenter, member_logits
from raygseg.methods.repurposegan.heads import LabelHead, build_head
from raygseg.methods.repurposegan.training import FINAL_LR_FRACTION, member_pixels
from raygseg.methods.student.training import hard_targets
from raygseg.nn.backbones.catalogue import FrozenTrunk, open_backbone, weights_record
from raygseg.nn.hypercolumn import channel_statistics
from raygseg.nn.schedules import cosine_decay, set_lr
from raygseg.nn.segmentation_loss import class_weights, soft_cross_entropy, winner
from raygseg.seeding import derive_seed

CACHE_BYTES = 2 << 30  # of maps that may be kept where pictures are not augmented
Maps = dict[str, Tensor]


class BackboneHeadRecipe:
    """Implements `interfaces.Recipe`. Data: `data.streams.LabelledStream`.

    Where the augmentation changes nothing, each picture's maps are made once, alone, and kept in the
    precision in which they were made, so that a step is the same whether they were kept or not.

    Args:
        config: the run.
        data: labelled pictures at the run's resolution.
        device: where the networks live.
    """

    name = "backbone-head"

    def __init__(self, config: BackboneHeadConfig, data: LabelledSet, device: torch.device | str = "cpu") -> None:
        self.config, self.data, self.labels = config, data, data.labels
        self.device, self.seed = torch.device(device), config.seed
        training = config.training
        self.batch_size = self.micro_batch = training.batch_size
        self.total_images = training.steps * self.batch_size
        self.trunk = open_trunk(config)
        self.head = build_backbone_head(config, self.trunk, self.labels.num_classes).to(self.device)
        self.head.project.standardise(*channel_statistics(self.picture_maps(), self.head.layers))
        self.weights = class_weights(self._class_shares(), training.class_balance).to(self.device)
        adam = torch.optim.Adam(self.head.parameters(), lr=training.lr, weight_decay=training.weight_decay)
        self.phases = [Phase("head", [self.head], adam, self._loss)]
        section = config.augment
        self.augmentation = AffineAugmentation(
            section.flip, section.rotation, section.scale, section.translation, section.colour,
            flip_order=self.labels.flip_order if self.labels.swaps else [],
        )  # fmt: skip
        self._kept: dict[bytes, Maps] = {}

    def _class_shares(self) -> Tensor:
        """[K] share of each class over the labelled pixels of all pictures."""
        counts = np.zeros(256)
        for _, class_map in self.data:
            counts += np.bincount(class_map.ravel(), minlength=256)
        counts = counts[: self.labels.num_classes]
        return torch.from_numpy(counts / max(counts.sum(), 1.0)).float()

    # --- maps ------------------------------------------------------------------------------------

    def picture_maps(self, count: int = 1) -> Iterator[Maps]:
        """The backbone's maps of the labelled pictures, not augmented, `count` at a time."""
        for first in range(0, len(self.data), count):
            pictures = [self.data.read(i)[0] for i in range(first, min(first + count, len(self.data)))]
            images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
            yield self.trunk(signed(images.to(self.device)), self.head.layer_names)

    def _kept_maps(self, images: Tensor) -> Maps:
        """Maps of uint8 pictures [N, 3, R, R], each made alone and kept up to CACHE_BYTES."""
        found = []
        for image in images:
            key = hashlib.blake2b(image.cpu().numpy().tobytes(), digest_size=16).digest()
            maps = self._kept.get(key)
            if maps is None:
                maps = self.trunk(signed(image[None]), self.head.layer_names)
                if (len(self._kept) + 1) * sum(m.nbytes for m in maps.values()) <= CACHE_BYTES:
                    self._kept[key] = maps
            found.append(maps)
        return {name: torch.cat([maps[name] for maps in found]) for name in self.head.layer_names}

    # --- the step --------------------------------------------------------------------------------

    def _loss(self, batch: MicroBatch) -> PhaseLoss:
        """Cross-entropy of every member, class-balanced, over the valid pixels of augmented pictures."""
        training = self.config.training
        set_lr(self.phases[0].optimiser, training.lr * cosine_decay(batch.nimg, self.total_images, FINAL_LR_FRACTION))
        targets, valid = hard_targets(batch.data["labels"].to(self.device), self.labels.num_classes)
        pictures = batch.data["images"].to(self.device)
        if self.augmentation.changes_nothing:
            maps = self._kept_maps(pictures)
        else:
            rng = batch.draws.rng("backbone-head/augment")
            images, targets, valid = self.augmentation(signed(pictures), targets, valid, rng)
            maps = self.trunk(images, self.head.layer_names)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=training.precision == "bf16"):
            logits = member_logits(self.head, maps, self.config.resolution).float()
        seen = member_pixels(valid > 0, self.head.members, batch.draws)
        every = targets[:, None].expand_as(logits)
        loss = soft_cross_entropy(logits.flatten(0, 1), every.flatten(0, 1), seen.flatten(0, 1), self.weights)
        guess = winner(logits.detach().softmax(2).mean(1))
        agreement = ((winner(targets) == guess) * valid).sum() / valid.sum().clamp_min(1.0)
        return PhaseLoss(loss, {"loss": loss.detach(), "pixel_accuracy": agreement})

    def finish(self) -> BackboneHeadSegmenter:
        """Ready for use: batch-norm statistics measured on the labelled pictures, evaluation mode."""
        self.head.measure_norms(self.picture_maps(self.batch_size))
        section = self.config.backbone
        record = {**weights_record(section.name, section.weights), "precision": section.precision}
        return BackboneHeadSegmenter(self.trunk, self.head, record, self.labels, self.config.resolution)

    # --- what the engine asks --------------------------------------------------------------------

    def modules(self) -> dict[str, nn.Module]:
        return {"head": self.head}

    def end_step(self, step: int, nimg: int, statistics: Mapping[str, Tensor]) -> None:
        """Nothing is kept between steps but weights and optimiser."""

    def state_dict(self) -> dict[str, Any]:
        adam = self.phases[0].optimiser
        return {"modules": {"head": self.head.state_dict()}, "optimisers": {"head": adam.state_dict()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.head.load_state_dict(state["modules"]["head"])
        self.phases[0].optimiser.load_state_dict(state["optimisers"]["head"])

    def progress(self) -> dict[str, float]:
        return {"lr": float(self.phases[0].optimiser.param_groups[0]["lr"])}


def signed(pictures: Tensor) -> Tensor:
    """uint8 to floats in [-1, 1]."""
    return pictures.float() / 127.5 - 1


def open_trunk(config: BackboneHeadConfig) -> FrozenTrunk:
    """The configured backbone, as deep as the head's layers need."""
    section = config.backbone
    network = open_backbone(section.name, section.weights, config.resolution, section.precision, config.head.layers)
    assert isinstance(network, nn.Module)
    return FrozenTrunk(network)


def build_backbone_head(config: BackboneHeadConfig, trunk: FrozenTrunk, num_classes: int) -> LabelHead:
    """The configured head on the backbone's maps, initialised from the run's seed.

    Raises ConfigError for a grid finer than the pictures.
    """
    if config.head.stack_resolution > config.resolution:
        raise ConfigError(
            f"head.stack_resolution: {config.head.stack_resolution} is finer than resolution: {config.resolution}",
            "lower it, or leave it 0 for the largest map's",
        )
    layers: Any = trunk.network.feature_layers
    with torch.random.fork_rng(devices=[]):  # initialisation draws from torch's global generator
        torch.manual_seed(derive_seed(config.seed, "init"))
        # A pooled picture's maps keep their pixel centres; a generator's are enlarged as published.
        return build_head(config.head, layers, num_classes, corners=False)


def build_recipe(
    config: BackboneHeadConfig, data: LabelledSet, device: torch.device | str = "cpu"
) -> BackboneHeadRecipe:
    """The recipe that `train` of a backbone-head drives."""
    return BackboneHeadRecipe(config, data, device)
