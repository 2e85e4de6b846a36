"""SemanticGAN stage 2: an encoder from pictures to codes of the joint generator, which stays as it is (spec B7, B12).

One optimiser minimises the sum of what the released code gives two, which undo one another's work (B11-9):

    L_u = distance(x, G_x(E(x))) + |x - G_x(E(x))|^2      on unlabelled and on labelled pictures
    L_s = cross-entropy + Dice of G_y(E(x)) against y      on labelled pictures
    L_w = |w - E(G_x(w))|^2 / std(w)^2                     on generated pictures, whose codes are known
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from raygseg.config.encoder import EncoderConfig
from raygseg.errors import ConfigError
from raygseg.interfaces import Draws, MicroBatch, Phase, PhaseLoss, Rendering
from raygseg.methods.semanticgan.embedding import Target
from raygseg.methods.semanticgan.label_codec import LabelCodec
from raygseg.methods.semanticgan.label_losses import label_cross_entropy, label_dice
from raygseg.methods.semanticgan.segmenter import as_drawn
from raygseg.methods.stylegan2.generator import StyleGAN2Generator
from raygseg.methods.stylegan2.training import to_signed
from raygseg.nn.ema import ema_beta, update_ema
from raygseg.nn.fpn_encoder import FPNEncoder
from raygseg.nn.projection import PerceptualDistance, latent_spread
from raygseg.nn.schedules import cosine_decay, set_lr
from raygseg.seeding import derive_seed

EMA_RAMP = 0.1  # the mean's half-life is at most a tenth of what was seen
FIRST_SEED = 1 << 40  # of generated pictures: away from those of calibration, labelling and generation
Statistics = dict[str, Tensor]


class Own(NamedTuple):
    """What the generator made: codes [N, num_ws, w_dim], pictures [N, 3, R, R], label maps [N, R, R]."""

    ws: Tensor
    images: Tensor
    maps: Tensor


class EncoderRecipe:
    """Implements `interfaces.Recipe`.

    Data: {"images", "labelled_images": uint8 [N, 3, R, R], "labels": uint8 [N, R, R]}.

    Args:
        config: the run.
        generator: with a label branch.
        codec: of its labels.
        distance: perceptual.
        device: where the networks live.
    """

    name = "encoder"

    def __init__(
        self,
        config: EncoderConfig,
        generator: StyleGAN2Generator,
        codec: LabelCodec,
        distance: PerceptualDistance,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self.codec, self.distance = config, codec, distance
        self.device, self.seed = torch.device(device), config.seed
        self.batch_size, self.micro_batch = config.schedule.batch_size, config.schedule.micro
        self.total_images = int(config.schedule.total_kimg * 1000)
        self.generator = generator.eval().requires_grad_(False).to(self.device)
        self.spread = latent_spread(self.generator)
        self.net = build_encoder(config, generator).to(self.device)
        if config.encoder.codes == "residual":
            self.net.start_from(*self.spread)
        self.average = copy.deepcopy(self.net).requires_grad_(False).eval()
        section = config.optimiser
        adam = torch.optim.AdamW(self.net.parameters(), lr=section.lr, weight_decay=section.weight_decay)
        if section.clip_norm:
            adam.register_step_pre_hook(self._clip)
        self.phases = [Phase("encoder", [self.net], adam, self._loss)]

    # --- the step --------------------------------------------------------------------------------

    def _loss(self, batch: MicroBatch) -> PhaseLoss:
        """The summed loss of unlabelled, labelled and generated pictures, encoded in one pass."""
        self._set_rate(batch.nimg)
        pictures = torch.cat([self._signed(batch.data["images"]), self._signed(batch.data["labelled_images"])])
        maps = batch.data["labels"].to(self.device)
        own = self._own_pictures(batch.draws)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.optimiser.precision == "bf16"):
            codes = self.net(torch.cat([pictures, own.images])).float()
        ws, own_ws = codes.split([len(pictures), len(own.images)])
        rendered = self._render(ws, batch.draws, "pictures")
        logits = _labels_of(rendered)[-len(maps) :]
        losses = self._picture_losses(rendered.images, pictures) | self._label_losses(logits, maps)
        losses |= self._own_losses(own_ws, own, batch.draws)
        weights = self.config.loss.model_dump()
        total = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
        return PhaseLoss(total, {"loss": total.detach()} | self._statistics(losses, logits, maps))

    def _set_rate(self, nimg: int) -> None:
        """Constant for `hold` of the run, then half a cosine down."""
        section = self.config.optimiser
        held = round(section.hold * self.total_images)
        decay = cosine_decay(max(nimg - held, 0), self.total_images - held, section.final_lr_fraction)
        set_lr(self.phases[0].optimiser, section.lr * decay)

    def _clip(self, *_: Any) -> None:
        nn.utils.clip_grad_norm_(self.net.parameters(), self.config.optimiser.clip_norm)

    def _signed(self, images: Tensor) -> Tensor:
        return as_drawn(self.generator, to_signed(images.to(self.device)))

    @torch.no_grad()
    def _own_pictures(self, draws: Draws) -> Own:
        """Pictures of the generator's own with their codes and label maps; none where no loss wants them."""
        section, side = self.config.loss, self.generator.resolution
        wanted = section.generated_share if section.latent or section.generated_labels else 0.0
        count = max(round(wanted * self.micro_batch), 1) if wanted else 0
        if not count:
            none = torch.zeros(0, 3, side, side, device=self.device)
            return Own(none, none, none)
        seeds = _seeds(draws.rng("encoder/own"), count)
        ws = self.generator.latents(seeds)
        rendered = self.generator.render(ws, seeds)
        return Own(ws, rendered.images, self.codec.decode(_labels_of(rendered)))

    def _own_losses(self, ws: Tensor, own: Own, draws: Draws) -> Statistics:
        """Codes against those that the pictures were made of, in units of their spread; labels against their own."""
        if not len(ws):
            return {}
        losses = {"latent": ((ws - own.ws) / self.spread.std.clamp_min(1e-6)).square().mean()}
        if self.config.loss.generated_labels:
            logits = _labels_of(self._render(ws, draws, "own"))
            losses["generated_labels"] = torch.stack([*self._label_losses(logits, own.maps).values()]).sum()
        return losses

    def _render(self, ws: Tensor, draws: Draws, purpose: str) -> Rendering:
        noise = self.config.loss.noise
        seeds = _seeds(draws.rng(f"encoder/noise/{purpose}"), len(ws)) if noise == "random" else None
        return self.generator.render(ws, seeds)

    def _picture_losses(self, rendered: Tensor, pictures: Tensor) -> Statistics:
        apart, error = Target(self.distance, pictures).compare(rendered)
        return {"perceptual": apart.mean(), "squared_error": error.mean()}

    def _label_losses(self, logits: Tensor, maps: Tensor) -> Statistics:
        section = self.config.loss
        per_picture = section.dice_over == "picture"
        return {
            "cross_entropy": label_cross_entropy(self.codec, logits, maps, section.temperature),
            "dice": label_dice(self.codec, logits, maps, section.dice_temperature, per_picture),
        }

    def _statistics(self, losses: Mapping[str, Tensor], logits: Tensor, maps: Tensor) -> Statistics:
        known = self.codec.known(maps)[:, 0]
        right = ((self.codec.decode(logits) == maps) * known).sum() / known.sum().clamp_min(1.0)
        return {f"loss/{name}": value.detach() for name, value in losses.items()} | {"pixel_agreement": right}

    # --- what the engine asks --------------------------------------------------------------------

    def modules(self) -> dict[str, nn.Module]:
        return {"net": self.net, "average": self.average}

    @torch.no_grad()
    def end_step(self, step: int, nimg: int, statistics: Mapping[str, Tensor]) -> None:
        half_life = self.config.optimiser.ema_kimg
        beta = ema_beta(self.batch_size, nimg, half_life, EMA_RAMP) if half_life else 0.0
        update_ema(self.average, self.net, beta)

    def state_dict(self) -> dict[str, Any]:
        return {
            "modules": {name: module.state_dict() for name, module in self.modules().items()},
            "optimisers": {"encoder": self.phases[0].optimiser.state_dict()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, module in self.modules().items():
            module.load_state_dict(state["modules"][name])
        self.phases[0].optimiser.load_state_dict(state["optimisers"]["encoder"])

    def progress(self) -> dict[str, float]:
        return {"lr": float(self.phases[0].optimiser.param_groups[0]["lr"])}


def _seeds(rng: torch.Generator, count: int) -> list[int]:
    return [int(seed) for seed in torch.randint(FIRST_SEED, 1 << 62, (count,), generator=rng)]


def _labels_of(rendered: Rendering) -> Tensor:
    assert rendered.label_logits is not None, "the generator has no label branch"
    return rendered.label_logits


def build_encoder(config: EncoderConfig, generator: StyleGAN2Generator) -> FPNEncoder:
    """The configured encoder of the generator's codes, initialised from the run's seed.

    Raises ConfigError where the pictures are not of the generator's size.
    """
    if config.data.resolution != generator.resolution:
        raise ConfigError(
            f"data.resolution: {config.data.resolution}, but the generator draws {generator.resolution} px",
            f"set data.resolution: {generator.resolution}",
        )
    section = config.encoder
    with torch.random.fork_rng(devices=[]):  # initialisation draws from torch's global generator
        torch.manual_seed(derive_seed(config.seed, "init"))
        return FPNEncoder(
            generator.resolution, generator.num_ws, generator.w_dim, 3, section.width, section.blocks,
            section.channels, section.stem_stride, section.heads, section.norm,
        )  # fmt: skip


def build_recipe(
    config: EncoderConfig,
    generator: StyleGAN2Generator,
    codec: LabelCodec,
    distance: PerceptualDistance,
    device: torch.device | str = "cpu",
) -> EncoderRecipe:
    """The recipe that `train` of an encoder drives."""
    distance.network.to(device)  # type: ignore[attr-defined]
    return EncoderRecipe(config, generator, codec, distance, device)
