"""SemanticGAN stage 1: pictures and label maps from one generator against two discriminators (spec B5, B12).

The phases are those of StyleGAN2; both discriminators are trained in one phase, since they share no parameter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raygseg.config.joint_gan import JointGanConfig
from raygseg.errors import CheckpointError
from raygseg.interfaces import Draws, MicroBatch, Phase, PhaseLoss
from raygseg.labels import LabelSpace
from raygseg.methods.semanticgan import losses
from raygseg.methods.semanticgan.label_codec import LabelCodec
from raygseg.methods.semanticgan.label_discriminator import Judgement, LabelDiscriminator, scores
from raygseg.methods.semanticgan.sampler import JointSampler
from raygseg.methods.stylegan2.augment_control import AugmentController
from raygseg.methods.stylegan2.losses import generator_loss, r1_penalty
from raygseg.methods.stylegan2.training import StyleGAN2Recipe, build_networks, lazy_adam, lazy_scale
from raygseg.nn.adaptive_augment import augment_pairs
from raygseg.seeding import derive_seed


def build_label_discriminator(config: JointGanConfig, label_channels: int) -> LabelDiscriminator:
    """Initialised from the configuration's seed."""
    section = config.label_discriminator
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "init-labels"))
        return LabelDiscriminator(config.generator.image_channels + label_channels, section.width, section.scales)


class SemanticGANRecipe(StyleGAN2Recipe):
    """Data: {"images", "labelled_images": uint8 [N, 3, R, R], "labels": uint8 [N, R, R]}.

    Attributes:
        codec: between label maps and what the networks know.
    """

    name = "joint-gan"
    config: JointGanConfig

    def __init__(self, config: JointGanConfig, labels: LabelSpace, device: torch.device | str = "cpu") -> None:
        self.codec = LabelCodec(labels, config.temperature)
        self.outside = self.codec.outside().to(device)
        self.label_discriminator = build_label_discriminator(config, self.codec.channels).to(device)
        self.label_controller = AugmentController(config.label_augment, config.schedule.batch_size)
        networks = build_networks(config, config.generator.image_channels, self.codec.channels)
        super().__init__(config, device, networks)
        for generator in (self.generator, self.average):
            generator.synthesis.labels_shape_trunk = config.loss.label_gradient == "trunk"

    def _phases(self) -> list[Phase]:
        loss, optimiser = self.config.loss, self.config.optimiser
        path = loss.path_interval if loss.path_weight > 0 else 0
        r1 = loss.r1_interval if loss.r1_gamma > 0 or loss.label_r1_gamma > 0 else 0
        judges = [self.discriminator, self.label_discriminator]
        g_adam = lazy_adam(list(self.generator.parameters()), optimiser.lr_generator, path)
        d_adam = lazy_adam(list(self.discriminator.parameters()), optimiser.lr_discriminator, r1)
        label_rate = optimiser.lr_label_discriminator * lazy_scale(r1)
        d_adam.add_param_group({"params": list(self.label_discriminator.parameters()), "lr": label_rate})
        phases = [Phase("Gmain", [self.generator], g_adam, self._generator_main)]
        if path:
            phases.append(Phase("Greg", [self.generator], g_adam, self._generator_path_length, path))
        phases.append(Phase("Dmain", judges, d_adam, self._discriminator_main))
        if r1:
            phases.append(Phase("Dreg", judges, d_adam, self._discriminator_r1, r1))
        return phases

    # --- phases ----------------------------------------------------------------------------------

    def _generator_main(self, batch: MicroBatch) -> PhaseLoss:
        section, draws = self.config.loss, batch.draws
        ws, w_mean = self._codes(draws, "Gmain", self.micro_batch)
        fake = self._render(ws, draws, "Gmain", self.dtype)
        picture_loss = generator_loss(self._judge(fake.images, draws, "Gmain", self.dtype))
        # No gradient of the pairs reaches the picture: few labels must not shape pictures (spec B1).
        shown = self._shown(fake.label_logits, batch)
        judged = self._judge_pairs(fake.images.detach(), shown, draws, "Gmain/pairs")
        pair_loss = losses.hinge_generator_loss(judged)
        loss = picture_loss + section.label_weight * pair_loss
        statistics = {"loss/generator": picture_loss, "loss/label_generator": pair_loss, "w_mean": w_mean.detach()}
        if section.feature_matching != "none":
            matched = self._feature_loss(judged, batch)
            loss = loss + section.feature_weight * matched
            statistics["loss/features"] = matched
        return PhaseLoss(loss, statistics)

    def _feature_loss(self, fake: Sequence[Judgement], batch: MicroBatch) -> Tensor:
        with torch.no_grad():
            real = self._judge_pairs(*self._real_pairs(batch), batch.draws, "Gmain/real-pairs")
        if self.config.loss.feature_matching == "paired":
            return losses.paired_feature_loss(fake, real)
        return losses.statistics_feature_loss(fake, real)

    def _discriminator_main(self, batch: MicroBatch) -> PhaseLoss:
        draws = batch.draws
        with torch.no_grad():
            fake = self._render(self._codes(draws, "Dmain", self.micro_batch)[0], draws, "Dmain", self.dtype)
            paired = fake
            if not self.config.loss.shared_fakes:
                ws = self._codes(draws, "Dmain/pairs", self.micro_batch)[0]
                paired = self._render(ws, draws, "Dmain/pairs", self.dtype)
        pictures = self._told_apart(fake.images, self._real_pictures(batch.data["images"]), draws)
        shown = self._shown(paired.label_logits, batch)
        judged = self._judge_pairs(paired.images, shown, draws, "Dmain/fake-pairs")
        real = self._judge_pairs(*self._real_pairs(batch), draws, "Dmain/real-pairs")
        pair_loss = losses.hinge_discriminator_loss(judged, real)
        # Signs of patches, not of pairs: means over many patches are nearly all positive long before overfitting.
        signs = torch.stack([judgement.logits.sign().mean() for judgement in real])
        statistics = {
            **pictures.statistics,
            "loss/label_discriminator": pair_loss,
            "logit/real_pair": scores(real).mean(),
            "logit/fake_pair": scores(judged).mean(),
            "sign/real_pair": signs.mean(),
        }
        return PhaseLoss(pictures.loss + pair_loss, statistics)

    def _discriminator_r1(self, batch: MicroBatch) -> PhaseLoss:
        section = self.config.loss
        pictures = self._smoothed(self._real_pictures(batch.data["images"]), batch.draws)
        # Of picture and map together (spec B5-3).
        pairs = torch.cat(self._real_pairs(batch), dim=1).requires_grad_(True)
        images, maps = pairs.split([self.config.generator.image_channels, self.codec.channels], dim=1)
        judged = self._judge_pairs(images, maps, batch.draws, "Dreg/pairs")
        scored = losses.pair_scores(judged, section.label_r1 == "batch-mean")
        penalty = r1_penalty(pairs, scored, section.label_r1_gamma)
        loss = pictures.loss + (penalty + 0 * scored.mean()) * section.r1_interval
        return PhaseLoss(loss, {**pictures.statistics, "loss/label_r1": penalty})

    # --- pieces ----------------------------------------------------------------------------------

    def _real_pairs(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        maps = self.codec.encode(batch.data["labels"]) * (1 - self.config.loss.label_smoothing)
        return self._real_pictures(batch.data["labelled_images"]), maps

    def _shown(self, logits: Tensor | None, batch: MicroBatch) -> Tensor:
        """Generated maps as the discriminator sees them; void where the real map of that row is, or that would tell."""
        assert logits is not None, "the generator has a label branch"
        maps = self.codec.signed(logits) if self.config.loss.fake_labels == "scaled" else logits
        return maps if self.codec.labels.void is None else maps * self.codec.known(batch.data["labels"])

    def _judge_pairs(self, images: Tensor, maps: Tensor, draws: Draws, purpose: str) -> list[Judgement]:
        rng, upright = draws.rng(f"{purpose}/augment"), self.config.label_augment.upright
        images, maps = augment_pairs(images, maps, self.label_controller.p, rng, self.outside, upright)
        judgements: list[Judgement] = self.label_discriminator(images, maps)
        return judgements

    # --- what the engine asks --------------------------------------------------------------------

    def modules(self) -> dict[str, nn.Module]:
        return {**super().modules(), "label_discriminator": self.label_discriminator}

    @torch.no_grad()
    def end_step(self, step: int, nimg: int, statistics: Mapping[str, Tensor]) -> None:
        super().end_step(step, nimg, statistics)
        if "sign/real_pair" in statistics:
            self.label_controller.observe(float(statistics["sign/real_pair"]))
        self.label_discriminator.advance()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "label_augment": self.label_controller.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.label_controller.load_state_dict(state["label_augment"])

    def progress(self) -> dict[str, float]:
        return {**super().progress(), "label_augment_p": self.label_controller.p}

    # --- before and after ------------------------------------------------------------------------

    def start_from(self, modules: Mapping[str, Mapping[str, Tensor]], where: str) -> None:
        """Take over the networks of a checkpoint; what it lacks (label layers, say) stays as initialised.

        Raises CheckpointError naming `where` if there is no generator, or a network is of other sizes.
        """
        if "generator" not in modules:
            raise CheckpointError(f"{where}: holds no generator", "name a run of kind gan or joint-gan")
        for name, module in self.modules().items():
            found = dict(modules.get(name, {}))
            if self.config.generator.image_channels == 1:
                found = to_grey(found)
            try:
                left = module.load_state_dict(found, strict=False)
            except RuntimeError as error:
                raise CheckpointError(
                    f"{where}: its {name} does not fit: {str(error).splitlines()[1].strip()}",
                    "use the generator, discriminator and resolution settings of that run",
                ) from error
            if left.unexpected_keys:
                raise CheckpointError(
                    f"{where}: its {name} has more than this one, e.g. {left.unexpected_keys[0]}",
                    "use the generator, discriminator and resolution settings of that run",
                )

    def sampler(self) -> JointSampler:
        """The running mean as a sampler, sharing its weights."""
        return JointSampler(self.average, self.codec.labels, self.codec.temperature)


def to_grey(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights for colour pictures as weights for grey ones that do the same to pictures without colour.

    The picture layers give the mean of their outputs; the first layer of the discriminator sums over its inputs,
    whose equalised gain is sqrt(3) times larger for one input than for three (spec A2).
    """
    grey = dict(tensors)
    for name, tensor in tensors.items():
        if ".to_image." in name and not name.endswith(("affine.weight", "affine.bias")) and tensor.shape[0] == 3:
            grey[name] = tensor.mean(dim=0, keepdim=True)
        elif name == "from_image.weight" and tensor.shape[1] == 3:
            grey[name] = tensor.sum(dim=1, keepdim=True) / math.sqrt(3)
    return grey


def build_recipe(config: JointGanConfig, labels: LabelSpace, device: torch.device | str = "cpu") -> SemanticGANRecipe:
    """The recipe that `train joint-gan` drives."""
    return SemanticGANRecipe(config, labels, device)
