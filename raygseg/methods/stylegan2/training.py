"""StyleGAN2 training as four phases: Gmain, Greg, Dmain, Dreg (spec A7-A10)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raygseg.config.sections import AdversarialRun
from raygseg.interfaces import Draws, MicroBatch, Phase, PhaseLoss, Rendering
from raygseg.methods.stylegan2.augment_control import AugmentController
from raygseg.methods.stylegan2.discriminator import Discriminator
from raygseg.methods.stylegan2.generator import StyleGAN2Generator
from raygseg.methods.stylegan2.losses import (
    discriminator_loss,
    generator_loss,
    path_length_penalty,
    r1_penalty,
)
from raygseg.nn.adaptive_augment import augment
from raygseg.nn.ema import ema_beta, update_ema
from raygseg.seeding import derive_seed, torch_rng

SPREAD_PICTURES = 16
GREY = (0.299, 0.587, 0.114)  # luminance
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def to_channels(images: Tensor, channels: int) -> Tensor:
    """[N, 3, R, R] as it is, or its luminance [N, 1, R, R]."""
    if channels == 3:
        return images
    return (images * images.new_tensor(GREY)[:, None, None]).sum(dim=1, keepdim=True)


def to_signed(images: Tensor) -> Tensor:
    """uint8 [0, 255] -> float [-1, 1] (spec A1)."""
    return images.to(torch.float32) / 127.5 - 1


def spread(images: Tensor) -> Tensor:
    """How much pictures [N, C, H, W] differ from one another: standard deviation over N at 8 x 8, averaged.

    At that size per-pixel noise does not count as variety; clamped, neither does what nobody would see.
    """
    small = F.adaptive_avg_pool2d(images.clamp(-1, 1), min(8, images.shape[2]))
    return small.var(dim=0, unbiased=False).mean().sqrt()


def lazy_adam(parameters: Sequence[nn.Parameter], lr: float, interval: int) -> torch.optim.Adam:
    """Adam with lr and betas rescaled for a regulariser every `interval` steps (spec A8); 0: no regulariser."""
    c = lazy_scale(interval)
    return torch.optim.Adam(parameters, lr=lr * c, betas=(0.0, 0.99**c), eps=1e-8, fused=True)


def lazy_scale(interval: int) -> float:
    """k / (k + 1) for a regulariser every k steps (spec A8); 1 for none."""
    return interval / (interval + 1) if interval else 1.0


def build_networks(
    config: AdversarialRun, image_channels: int = 3, label_channels: int = 0
) -> tuple[StyleGAN2Generator, Discriminator]:
    """Networks of the configuration, initialised from its seed; the channels are the generator's outputs."""
    g, d = config.generator, config.discriminator
    base, most = g.widths
    sizes = {"z_dim": g.z_dim, "w_dim": g.w_dim, "mapping_layers": g.mapping_layers}
    outputs = {"image_channels": image_channels, "label_channels": label_channels}
    judged = {"mbstd_group": d.mbstd_group, "image_channels": image_channels}
    with torch.random.fork_rng(devices=[]):
        # Initialisation draws from torch's global generator; fork_rng keeps that from leaking out.
        torch.manual_seed(derive_seed(config.seed, "init"))
        generator = StyleGAN2Generator(config.data.resolution, channel_base=base, channel_max=most, **sizes, **outputs)
        discriminator = Discriminator(config.data.resolution, d.channel_base or base, d.channel_max or most, **judged)
    return generator, discriminator


class StyleGAN2Recipe:
    """Implements `interfaces.Recipe`. Data: {"images": uint8 [N, 3, R, R]}."""

    name = "gan"

    def __init__(
        self,
        config: AdversarialRun,
        device: torch.device | str = "cpu",
        networks: tuple[StyleGAN2Generator, Discriminator] | None = None,
    ) -> None:
        self.config, self.device = config, torch.device(device)
        self.seed = config.seed
        self.batch_size, self.micro_batch = config.schedule.batch_size, config.schedule.micro
        self.total_images = int(config.schedule.total_kimg * 1000)
        generator, discriminator = networks or build_networks(config, config.generator.image_channels)
        self.generator, self.discriminator = generator.to(self.device), discriminator.to(self.device)
        for network in (self.generator.synthesis, self.discriminator):
            network.recompute_from = config.runtime.recompute_from
        self.average = copy.deepcopy(self.generator).requires_grad_(False).eval()
        self.controller = AugmentController(config.augment, self.batch_size)
        self.path_mean = torch.zeros((), device=self.device)
        self.dtype = DTYPES[config.optimiser.precision]
        self.phases = self._phases()

    def _phases(self) -> list[Phase]:
        loss, optimiser = self.config.loss, self.config.optimiser
        path = loss.path_interval if loss.path_weight > 0 else 0
        r1 = loss.r1_interval if loss.r1_gamma > 0 else 0
        g_adam = lazy_adam(list(self.generator.parameters()), optimiser.lr_generator, path)
        d_adam = lazy_adam(list(self.discriminator.parameters()), optimiser.lr_discriminator, r1)
        phases = [Phase("Gmain", [self.generator], g_adam, self._generator_main)]
        if path:
            phases.append(Phase("Greg", [self.generator], g_adam, self._generator_path_length, path))
        phases.append(Phase("Dmain", [self.discriminator], d_adam, self._discriminator_main))
        if r1:
            phases.append(Phase("Dreg", [self.discriminator], d_adam, self._discriminator_r1, r1))
        return phases

    # --- phases ----------------------------------------------------------------------------------

    def _generator_main(self, batch: MicroBatch) -> PhaseLoss:
        ws, w_mean = self._codes(batch.draws, "Gmain", self.micro_batch)
        fake = self._synthesise(ws, batch.draws, "Gmain", self.dtype)
        loss = generator_loss(self._judge(fake, batch.draws, "Gmain", self.dtype))
        return PhaseLoss(loss, {"loss/generator": loss, "w_mean": w_mean.detach()})

    def _generator_path_length(self, batch: MicroBatch) -> PhaseLoss:
        section = self.config.loss
        count = max(1, self.micro_batch // section.path_batch_shrink)
        ws, _ = self._codes(batch.draws, "Greg", count)
        images = self._synthesise(ws, batch.draws, "Greg", torch.float32)
        noise = self._normal(images.shape, batch.draws.rng("Greg/path", self._drawn_on))
        path = path_length_penalty(images, ws, noise, self.path_mean, section.path_decay)
        statistics = {"loss/path_length": path.penalty, "path_length": path.lengths.mean()}
        return PhaseLoss(path.penalty * (section.path_weight * section.path_interval), statistics)

    def _discriminator_main(self, batch: MicroBatch) -> PhaseLoss:
        with torch.no_grad():
            ws, _ = self._codes(batch.draws, "Dmain", self.micro_batch)
            fake = self._synthesise(ws, batch.draws, "Dmain", self.dtype)
        return self._told_apart(fake, self._real_pictures(batch.data["images"]), batch.draws)

    def _told_apart(self, fake: Tensor, real: Tensor, draws: Draws) -> PhaseLoss:
        fake_logits = self._judge(fake, draws, "Dmain/fake", self.dtype)
        real_logits = self._judge(real, draws, "Dmain/real", self.dtype)
        loss = discriminator_loss(fake_logits, real_logits)
        return PhaseLoss(
            loss,
            {
                "loss/discriminator": loss,
                "logit/real": real_logits.mean(),
                "logit/fake": fake_logits.mean(),
                "sign/real": real_logits.sign().mean(),
                "spread/real": spread(real),
            },
        )

    def _discriminator_r1(self, batch: MicroBatch) -> PhaseLoss:
        return self._smoothed(self._real_pictures(batch.data["images"]), batch.draws)

    def _smoothed(self, real: Tensor, draws: Draws) -> PhaseLoss:
        section = self.config.loss
        real = real.requires_grad_(True)
        logits = self._judge(real, draws, "Dreg", torch.float32)
        penalty = r1_penalty(real, logits, section.r1_gamma)
        # 0 * logits: every parameter gets a gradient, as in the main phase.
        return PhaseLoss((penalty + 0 * logits.mean()) * section.r1_interval, {"loss/r1": penalty})

    # --- pieces ----------------------------------------------------------------------------------

    def _real_pictures(self, images: Tensor) -> Tensor:
        return to_channels(to_signed(images), self.config.generator.image_channels)

    def _codes(self, draws: Draws, purpose: str, count: int) -> tuple[Tensor, Tensor]:
        """W codes [N, num_ws, w_dim] with style mixing (one crossover a micro-batch), and the mean of w."""
        z_dim, num_ws = self.generator.z_dim, self.generator.num_ws
        rng = draws.rng(f"{purpose}/z")
        z = torch.randn(2, count, z_dim, generator=rng).to(self.device)
        w = self.generator.mapping(z[0])
        ws = w[:, None].expand(-1, num_ws, -1)
        mix = draws.rng(f"{purpose}/mixing")
        if torch.rand([], generator=mix).item() < self.config.loss.style_mixing_prob:
            crossover = int(torch.randint(1, num_ws, [], generator=mix))
            second = self.generator.mapping(z[1])[:, None].expand(-1, num_ws - crossover, -1)
            ws = torch.cat([ws[:, :crossover], second], dim=1)
        return ws, w.mean(dim=0)

    def _synthesise(self, ws: Tensor, draws: Draws, purpose: str, dtype: torch.dtype) -> Tensor:
        return self._render(ws, draws, purpose, dtype).images

    def _render(self, ws: Tensor, draws: Draws, purpose: str, dtype: torch.dtype) -> Rendering:
        rendering: Rendering = self.generator.synthesis(ws, self._noise(draws, purpose, ws.shape[0]), dtype=dtype)
        return rendering

    @property
    def _drawn_on(self) -> str:
        """Where what is large is drawn: on the GPU that needs it, else on the CPU."""
        return str(self.device) if self.device.type == "cuda" else "cpu"

    def _normal(self, shape: Sequence[int], rng: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=rng, device=rng.device).to(self.device)

    def _noise(self, draws: Draws, purpose: str, count: int) -> list[Tensor]:
        """Noise maps [N, 1, r, r] in the order of the convolutions."""
        rng = draws.rng(f"{purpose}/noise", self._drawn_on)
        return [self._normal((count, 1, *shape), rng) for shape in self.generator.synthesis.noise_shapes()]

    def _judge(self, images: Tensor, draws: Draws, purpose: str, dtype: torch.dtype) -> Tensor:
        seen = augment(images, self.controller.p, draws.rng(f"{purpose}/augment"), self.config.augment.upright)
        logits: Tensor = self.discriminator(seen, dtype)
        return logits

    # --- what the engine asks --------------------------------------------------------------------

    def modules(self) -> dict[str, nn.Module]:
        return {"generator": self.generator, "discriminator": self.discriminator, "average": self.average}

    @torch.no_grad()
    def end_step(self, step: int, nimg: int, statistics: Mapping[str, Tensor]) -> None:
        if "w_mean" in statistics:
            self.generator.mapping.w_avg.lerp_(statistics["w_mean"], 1 - self.config.loss.w_avg_beta)
        if "path_length" in statistics:
            self.path_mean.lerp_(statistics["path_length"], self.config.loss.path_decay)
        if "sign/real" in statistics:
            self.controller.observe(float(statistics["sign/real"]))
        section = self.config.optimiser
        update_ema(self.average, self.generator, ema_beta(self.batch_size, nimg, section.ema_kimg, section.ema_ramp))

    def state_dict(self) -> dict[str, Any]:
        return {
            "modules": {name: module.state_dict() for name, module in self.modules().items()},
            "optimisers": {phase.name: phase.optimiser.state_dict() for phase in self._mains()},
            "path_mean": self.path_mean.clone(),
            "augment": self.controller.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, module in self.modules().items():
            module.load_state_dict(state["modules"][name])
        for phase in self._mains():
            phase.optimiser.load_state_dict(state["optimisers"][phase.name])
        self.path_mean.copy_(state["path_mean"])
        self.controller.load_state_dict(state["augment"])

    def _mains(self) -> list[Phase]:
        """The regularisers share the optimisers of the main phases."""
        return [phase for phase in self.phases if phase.interval == 1 and phase.name.endswith("main")]

    def progress(self) -> dict[str, float]:
        return {"augment_p": self.controller.p, "path_mean": float(self.path_mean), "spread/fake": self._spread()}

    @torch.no_grad()
    def _spread(self) -> float:
        """Of generated pictures that differ in their latents only: all have the constant noise."""
        z = torch.randn(SPREAD_PICTURES, self.generator.z_dim, generator=torch_rng(self.seed, "spread")).to(self.device)
        ws = self.generator.mapping(z)[:, None].expand(-1, self.generator.num_ws, -1)
        return float(spread(self.generator.synthesis(ws).images))


def build_recipe(config: AdversarialRun, device: torch.device | str = "cpu") -> StyleGAN2Recipe:
    """The recipe that `train gan` drives."""
    return StyleGAN2Recipe(config, device)
