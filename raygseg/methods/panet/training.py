"""Training PANet on episodes of the base classes: segmentation plus prototype alignment (spec 1.4-1.6)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raygseg.config.panet import PanetConfig
from raygseg.errors import DataError
from raygseg.interfaces import MicroBatch, Phase, PhaseLoss
from raygseg.methods.panet.losses import VOID, alignment_loss, segmentation_loss
from raygseg.methods.panet.network import FrontCache, PrototypeNetwork, blank_network, pretrained_network, signed
from raygseg.nn.schedules import set_lr

logger = logging.getLogger(__name__)
TRIES = 4  # episodes in place of one that cannot be read, itself included
SPARE = 1 << 40  # replacements are numbered from here on


class EpisodeSource(Protocol):
    """Where episodes come from: number n of an endless sequence is a function of n."""

    @property
    def classes(self) -> Sequence[str]: ...

    def episode(self, number: int) -> Mapping[str, NDArray[np.uint8]]:
        """support_images [W, K, 3, R, R]; fore, back [W, K, R, R]; query_images, query_labels [Q, (3,) R, R]."""
        ...

    def identity(self) -> str:
        """A hash of all that decides the episodes."""
        ...


class EpisodeStream:
    """Episodes for training (`interfaces.Stream`); one is one of the `nimg` that the engine counts.

    In place of an episode that cannot be read another one is shown, the same whenever its turn comes.
    """

    def __init__(self, source: EpisodeSource) -> None:
        self.source = source

    def micro_batch(self, first: int, count: int) -> dict[str, Tensor]:
        """The arrays of episodes number first .. first + count - 1, stacked: uint8 [B, ...].

        Raises DataError naming a file where TRIES episodes one after the other cannot be read.
        """
        rows = [self._readable(number) for number in range(first, first + count)]
        return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}

    def _readable(self, number: int) -> Mapping[str, NDArray[np.uint8]]:
        for attempt in range(1, TRIES):
            try:
                return self.source.episode(number)
            except DataError as error:
                logger.warning("episode %d is replaced: %s", number % SPARE, error.message)
                number = number % SPARE + attempt * SPARE
        return self.source.episode(number)


class PanetRecipe:
    """Implements `interfaces.Recipe`. Data: `EpisodeStream`; batch sizes count episodes.

    Args:
        config: the run.
        device: where the network lives.
        network: instead of one with the configured weights file.
    """

    name = "panet"

    def __init__(
        self, config: PanetConfig, device: torch.device | str = "cpu", network: PrototypeNetwork | None = None
    ) -> None:
        self.config, self.device, self.seed = config, torch.device(device), config.seed
        self.batch_size, self.micro_batch = config.schedule.batch_size, config.schedule.micro
        self.total_images = int(config.schedule.total_kimg * 1000)
        self.network = (network or build_network(config)).to(self.device)
        parts, self.frozen = self.network.encoder.parts, config.network.frozen_parts
        self.fronts = FrontCache(config.memory_mb << 20)
        for part in parts[: self.frozen]:
            part.requires_grad_(False)
        trained = parts[self.frozen :]
        section = config.optimiser
        sgd = torch.optim.SGD(
            [p for part in trained for p in part.parameters()],
            lr=section.lr, momentum=section.momentum, weight_decay=section.weight_decay,
        )  # fmt: skip
        self.phases = [Phase("panet", trained, sgd, self._loss)]

    # --- the step --------------------------------------------------------------------------------

    def _loss(self, batch: MicroBatch) -> PhaseLoss:
        """L = L_seg + lambda L_PAR, averaged over the episodes (spec 1.4, 1.5)."""
        section = self.config.optimiser
        set_lr(self.phases[0].optimiser, section.lr * self.lr_share(batch.nimg))
        fore, back, labels = (batch.data[name] for name in ("fore", "back", "query_labels"))
        support, query = self._features(batch.data)
        network = self.network
        prototypes = network.prototypes(network.pool(support, fore), network.pool(support, back))
        scores = network.scores(query, prototypes)
        logits = network.enlarge(scores, (labels.shape[-2], labels.shape[-1]))
        loss = segmentation = segmentation_loss(logits, labels)
        statistics = {"loss/segmentation": segmentation.detach(), "foreground_iou": foreground_iou(logits, labels)}
        if self.config.alignment:
            aligned = alignment_loss(query, scores, support, fore, back, network.scale, network.align_corners)
            loss = segmentation + self.config.alignment * aligned
            statistics["loss/alignment"] = aligned.detach()
        return PhaseLoss(loss, {"loss": loss.detach(), **statistics})

    def _features(self, data: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Maps [B, W, K, C, h, w] and [B, Q, C, h, w]; both from one pass (spec 1.2)."""
        support, query = data["support_images"], data["query_images"]
        images = torch.cat([support.flatten(0, 2), query.flatten(0, 1)])
        if self.frozen:
            encoder = self.network.encoder
            maps = encoder.back(self.fronts.front(encoder, signed(images), self.frozen), self.frozen).float()
        else:
            maps = self.network.features(signed(images))
        count = support.shape[:3].numel()
        return maps[:count].unflatten(0, support.shape[:3]), maps[count:].unflatten(0, query.shape[:2])

    def lr_share(self, nimg: int) -> float:
        """Factor on the learning rate after `nimg` episodes."""
        section = self.config.optimiser
        return float(section.lr_factor ** int(nimg // (section.lr_step_kimg * 1000)))

    # --- what the engine asks --------------------------------------------------------------------

    def modules(self) -> dict[str, nn.Module]:
        return {"network": self.network}

    def end_step(self, step: int, nimg: int, statistics: Mapping[str, Tensor]) -> None:
        """Nothing is kept between steps but weights and optimiser."""

    def state_dict(self) -> dict[str, Any]:
        sgd = self.phases[0].optimiser
        return {"modules": {"network": self.network.state_dict()}, "optimisers": {"panet": sgd.state_dict()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["modules"]["network"])
        self.phases[0].optimiser.load_state_dict(state["optimisers"]["panet"])

    def progress(self) -> dict[str, float]:
        return {"lr": float(self.phases[0].optimiser.param_groups[0]["lr"])}


def foreground_iou(logits: Tensor, labels: Tensor) -> Tensor:
    """IoU of all ways taken as one, over the pixels that are not void: how training goes, not a score."""
    valid = labels != VOID
    guess, truth = (logits.detach().argmax(2) > 0) & valid, (labels > 0) & valid
    return (guess & truth).sum() / (guess | truth).sum().clamp_min(1).float()


def build_network(config: PanetConfig, blank: bool = False) -> PrototypeNetwork:
    """The configured network with its weights file, or blank for weights that come from elsewhere."""
    section, precision = config.network, config.optimiser.precision
    if blank:
        return blank_network(section.encoder, section.scale, section.self_prototypes, precision)
    return pretrained_network(section.encoder, section.weights, section.scale, section.self_prototypes, precision)


def build_recipe(config: PanetConfig, device: torch.device | str = "cpu") -> PanetRecipe:
    """The recipe that `train panet` drives."""
    return PanetRecipe(config, device)
