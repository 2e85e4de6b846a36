"""Training the student: a U-Net on soft labels under the auto-shot augmentation (spec 1.7)."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raygseg.config.schema import SegmenterConfig
from raygseg.data.augment import AffineAugmentation
from raygseg.interfaces import MicroBatch, Phase, PhaseLoss
from raygseg.labels import LabelSpace
from raygseg.nn.ema import ema_beta, update_ema
from raygseg.nn.pretrained_unet import PretrainedUNet, new_unet
from raygseg.nn.schedules import cosine_decay, set_lr
from raygseg.nn.segmentation_loss import class_shares, class_weights, soft_cross_entropy, winner
from raygseg.nn.unet import UNet
from raygseg.seeding import derive_seed

logger = logging.getLogger(__name__)
EMA_RAMP = 0.1  # the mean's half-life is at most a tenth of what was seen: the first weights fade in short runs
SHARE_DECAY = 0.9  # of the running class shares, once past the first steps
PRESENT = 1e-4  # share of the pixels from which on a class counts as being in the data
MISSED = 0.01  # predicted share over target share below which a class counts as never predicted


class StudentRecipe:
    """Implements `interfaces.Recipe`.

    Data: {"images": uint8 [N, 3, R, R]} with "probabilities" [N, K, R, R] (soft labels: float, or uint8
    meaning 255ths) or "labels" uint8 [N, R, R] (class indices; anything above K - 1 is not labelled).

    Classes are weighted by the inverse power of their share, so that parts of one per cent of the
    pixels do not vanish. Shares are those given, or else a running mean over what training shows.

    Args:
        config: the run.
        labels: classes and which of them swap under a flip.
        shares: [K] share of each class in the data, if known (a pair set's manifest has it).
        device: where the networks live.
    """

    name = "segmenter"

    def __init__(
        self,
        config: SegmenterConfig,
        labels: LabelSpace,
        shares: Sequence[float] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self.labels, self.device = config, labels, torch.device(device)
        self.seed = config.seed
        self.batch_size, self.micro_batch = config.schedule.batch_size, config.schedule.micro
        self.total_images = int(config.schedule.total_kimg * 1000)
        self.net = build_network(config, labels.num_classes).to(self.device)
        self.average = copy.deepcopy(self.net).requires_grad_(False).eval()
        section = config.optimiser
        adam = torch.optim.AdamW(parameter_groups(config, self.net), lr=section.lr, weight_decay=section.weight_decay)
        self.phases = [Phase("student", [self.net], adam, self._loss)]
        self.augmentation = build_augmentation(config, labels)
        self.shares_known = shares is not None
        count = labels.num_classes
        self.target_shares = torch.tensor(shares, dtype=torch.float32) if shares is not None else torch.zeros(count)
        self.predicted_shares = torch.zeros(count)
        self.steps_seen = 0
        self._warned = False

    # --- the step --------------------------------------------------------------------------------

    def _loss(self, batch: MicroBatch) -> PhaseLoss:
        """Class-balanced cross-entropy on augmented pictures, over valid pixels."""
        section = self.config.optimiser
        decay = cosine_decay(batch.nimg, self.total_images, section.final_lr_fraction)
        set_lr(self.phases[0].optimiser, section.lr * decay)
        images = batch.data["images"].to(self.device).float() / 127.5 - 1
        targets, valid = self._targets(batch.data)
        images, targets, valid = self.augmentation(images, targets, valid, batch.draws.rng("student/augment"))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=section.precision == "bf16"):
            logits = self.net(images)
        logits = logits.float()
        loss = soft_cross_entropy(logits, targets, valid, self.class_weights().to(self.device))
        return PhaseLoss(loss, {"loss": loss.detach()} | self._statistics(logits.detach(), targets, valid))

    def _targets(self, data: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Targets [N, K, R, R] as the configuration wants them, and valid [N, R, R]."""
        count, section = self.labels.num_classes, self.config.loss
        if "probabilities" not in data:
            return hard_targets(data["labels"].to(self.device), count)
        soft = data["probabilities"].to(self.device)
        soft = soft.float() / (255.0 if soft.dtype == torch.uint8 else 1.0)
        total = soft.sum(1, keepdim=True)
        valid = (total[:, 0] > 0).float()
        if section.target == "hard":
            return hard_targets(winner(soft), count)[0] * valid[:, None], valid
        power = section.sharpening if section.target == "sharpened" else 1.0
        soft = (soft / total.clamp_min(1e-6)).pow(power)
        return soft / soft.sum(1, keepdim=True).clamp_min(1e-6), valid

    def class_weights(self) -> Tensor:
        """[K]; all ones until shares are known."""
        if not (self.shares_known or self.steps_seen):
            return torch.ones(self.labels.num_classes)
        return class_weights(self.target_shares, self.config.loss.class_balance)

    def _statistics(self, logits: Tensor, targets: Tensor, valid: Tensor) -> dict[str, Tensor]:
        """Agreement, and each class's share in targets and predictions: a class that vanishes is seen."""
        guess = winner(logits)
        chosen = hard_targets(guess, self.labels.num_classes)[0]
        agreement = ((winner(targets) == guess) * valid).sum() / valid.sum().clamp_min(1.0)
        wanted, given = class_shares(targets, valid), class_shares(chosen, valid)
        statistics = {"pixel_agreement": agreement}
        for i, name in enumerate(self.labels.names):
            statistics[f"target_share/{name}"] = wanted[i]
            statistics[f"predicted_share/{name}"] = given[i]
        return statistics

    # --- what the engine asks --------------------------------------------------------------------

    def modules(self) -> dict[str, nn.Module]:
        return {"net": self.net, "average": self.average}

    @torch.no_grad()
    def end_step(self, step: int, nimg: int, statistics: Mapping[str, Tensor]) -> None:
        half_life = self.config.optimiser.ema_kimg
        beta = ema_beta(self.batch_size, nimg, half_life, EMA_RAMP) if half_life else 0.0
        update_ema(self.average, self.net, beta)
        self._track_shares(statistics)
        if nimg >= self.total_images and not self._warned:
            self._warned = True
            for name in self.unpredicted_classes():
                logger.warning("class %s is in the pairs but never predicted", name)

    def _track_shares(self, statistics: Mapping[str, Tensor]) -> None:
        """Running means of the class shares: a plain mean at first, then exponential."""
        kinds = ("target_share", "predicted_share")
        if not all(f"{kind}/{name}" in statistics for kind in kinds for name in self.labels.names):
            return  # a step that was not finite
        wanted, given = (torch.stack([statistics[f"{kind}/{n}"].cpu() for n in self.labels.names]) for kind in kinds)
        rate = max(1 / (self.steps_seen + 1), 1 - SHARE_DECAY)
        self.predicted_shares.lerp_(given.float(), rate)
        if not self.shares_known:
            self.target_shares.lerp_(wanted.float(), rate)
        self.steps_seen += 1

    def unpredicted_classes(self) -> list[str]:
        """Classes that are in the data but hardly ever the answer of the network in training, lately."""
        wanted, given = self.target_shares, self.predicted_shares
        missed = (wanted >= PRESENT) & (given < MISSED * wanted)
        return [name for name, gone in zip(self.labels.names, missed.tolist(), strict=True) if gone]

    def state_dict(self) -> dict[str, Any]:
        return {
            "modules": {name: module.state_dict() for name, module in self.modules().items()},
            "optimisers": {"student": self.phases[0].optimiser.state_dict()},
            "target_shares": self.target_shares.clone(),
            "predicted_shares": self.predicted_shares.clone(),
            "steps_seen": self.steps_seen,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, module in self.modules().items():
            module.load_state_dict(state["modules"][name])
        self.phases[0].optimiser.load_state_dict(state["optimisers"]["student"])
        self.target_shares.copy_(state["target_shares"])
        self.predicted_shares.copy_(state["predicted_shares"])
        self.steps_seen = int(state["steps_seen"])

    def progress(self) -> dict[str, float]:
        lr = float(self.phases[0].optimiser.param_groups[0]["lr"])
        return {"lr": lr, "unpredicted_classes": float(len(self.unpredicted_classes()))}


def hard_targets(labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """[N, R, R] class indices -> one-hot [N, K, R, R] and valid [N, R, R] (index below K), as floats."""
    classes = torch.arange(num_classes, device=labels.device)[:, None, None]
    return (labels[:, None] == classes).float(), (labels < num_classes).float()


def build_network(config: SegmenterConfig, num_classes: int) -> UNet | PretrainedUNet:
    """The configured network, initialised from the run's seed, its backbone from the weights file.

    Raises MissingEnvironmentError or CheckpointError where the backbone's weights cannot be read.
    """
    section = config.network
    encoder = section.backbone
    with torch.random.fork_rng(devices=[]):  # initialisation draws from torch's global generator
        torch.manual_seed(derive_seed(config.seed, "init"))
        if encoder.name == "none":
            return UNet(3, num_classes, section.width, section.depth)
        frozen = encoder.lr_fraction == 0
        sizes = (num_classes, section.width, section.depth)
        return new_unet(encoder.name, encoder.weights, frozen, *sizes, config.optimiser.precision)


def parameter_groups(config: SegmenterConfig, net: UNet | PretrainedUNet) -> list[dict[str, Any]]:
    """The optimiser's groups: a backbone inside learns at its share of the rate, if at all."""
    if isinstance(net, PretrainedUNet):
        return net.parameter_groups(config.network.backbone.lr_fraction)
    return [{"params": list(net.parameters())}]


def build_augmentation(config: SegmenterConfig, labels: LabelSpace) -> AffineAugmentation:
    """The configured augmentation; left and right classes of `labels` swap in mirrored pictures."""
    section = config.augment
    order = labels.flip_order if labels.swaps else []
    return AffineAugmentation(
        section.flip, section.rotation, section.scale, section.translation, section.colour, flip_order=order
    )


def build_recipe(
    config: SegmenterConfig,
    labels: LabelSpace,
    shares: Sequence[float] | None = None,
    device: torch.device | str = "cpu",
) -> StudentRecipe:
    """The recipe that `train segmenter` drives."""
    return StudentRecipe(config, labels, shares, device)
