"""A light encoder: from a picture to a guess of its code, as a start for projection (RepurposeGAN spec 1.6).

Trained on the generator's own pictures, whose codes are known, so it works for any `Generator` without a photo.
It sees a small picture and gives one whitened w for all steps; what a step has of its own is left to projection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from raygseg.errors import CheckpointError
from raygseg.interfaces import Generator
from raygseg.nn.projection import LatentSpread, latent_spread
from raygseg.nn.schedules import cosine_decay, set_lr
from raygseg.seeding import derive_seed, numpy_rng

FIRST_SEED, HELD_OUT_SEED = 2_000_000, 3_000_000  # away from those of calibration, labelling and generation
SIDE = 64  # px that the encoder looks at, at most
Progress = Callable[[str, float, float, dict[str, float]], None]


@dataclass(frozen=True)
class EncoderPlan:
    """How the encoder is trained.

    Attributes:
        pictures: of the generator, each drawn once and seen `epochs` times. batch, lr: Adam, cosine to 5 %.
        width: channels of the first layer. seed: of weights and order.
    """

    pictures: int = 2000
    epochs: int = 8
    batch: int = 32
    lr: float = 2e-3
    width: int = 32
    seed: int = 0


class LatentEncoder(nn.Module):
    """[N, 3, R, R] in [-1, 1] -> codes [N, num_ws, w_dim], the same w for every step.

    Attributes:
        held_out_error: mean squared error of the whitened w on pictures that it was not trained on; the mean w
            has 1.
    """

    mean: Tensor
    std: Tensor
    held_out_error: Tensor

    def __init__(self, resolution: int, num_ws: int, w_dim: int, width: int = 32) -> None:
        super().__init__()
        self.num_ws, self.side = num_ws, min(resolution, SIDE)
        for name in ("mean", "std"):
            self.register_buffer(name, torch.ones(w_dim))
        self.register_buffer("held_out_error", torch.ones([]))
        layers: list[nn.Module] = []
        channels, side = 3, self.side
        while side > 4:
            layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.GroupNorm(4, width), nn.SiLU()]
            channels, width, side = width, min(2 * width, 256), side // 2
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * side * side, w_dim))

    def whitened(self, images: Tensor) -> Tensor:
        """[N, w_dim] in units of the spread of w."""
        if images.shape[-1] > self.side:
            images = F.adaptive_avg_pool2d(images, self.side)
        guess: Tensor = self.body(images)
        return guess

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        w = self.mean + self.std * self.whitened(images)
        return w[:, None].expand(-1, self.num_ws, -1)


def train_encoder(
    generator: Generator, plan: EncoderPlan = EncoderPlan(), progress: Progress | None = None
) -> LatentEncoder:
    """Train on `plan.pictures` pictures; minutes on a CPU, most of them the generator's."""
    spread = latent_spread(generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(plan.seed, "encoder-init"))
        encoder = LatentEncoder(generator.resolution, generator.num_ws, generator.w_dim, plan.width)
    encoder.mean.copy_(spread.mean)
    encoder.std.copy_(spread.std)
    images, codes = _drawn(generator, encoder, range(FIRST_SEED, FIRST_SEED + plan.pictures), spread, progress)
    adam = torch.optim.AdamW(encoder.parameters(), lr=plan.lr, weight_decay=0.05)
    steps = plan.epochs * (plan.pictures // plan.batch)
    for step in range(steps):
        set_lr(adam, plan.lr * cosine_decay(step, steps, 0.05))
        epoch, place = divmod(step, plan.pictures // plan.batch)
        order = numpy_rng(plan.seed, "encoder-order", epoch).permutation(plan.pictures)
        rows = torch.from_numpy(order[place * plan.batch : (place + 1) * plan.batch])
        loss = (encoder.whitened(images[rows].float() / 127) - codes[rows]).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        if progress is not None:
            progress("train encoder", step + 1, steps, {"loss": float(loss.detach())})
    held, truth = _drawn(generator, encoder, range(HELD_OUT_SEED, HELD_OUT_SEED + 64), spread)
    with torch.no_grad():
        encoder.held_out_error.copy_((encoder.whitened(held.float() / 127) - truth).square().mean())
    return encoder.eval().requires_grad_(False)


@torch.no_grad()
def _drawn(
    generator: Generator, encoder: LatentEncoder, seeds: Sequence[int], spread: LatentSpread,
    progress: Progress | None = None, batch: int = 8,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Pictures at the encoder's size, int8 in [-127, 127], with noise of their own, and their whitened w."""
    images, codes = [], []
    for first in range(0, len(seeds), batch):
        part = seeds[first : first + batch]
        ws = generator.latents(part)
        picture = generator.render(ws, part).images.clamp(-1, 1)
        if picture.shape[-1] > encoder.side:
            picture = F.adaptive_avg_pool2d(picture, encoder.side)
        images.append((picture * 127).round().to(torch.int8))
        codes.append((ws[:, 0] - spread.mean) / spread.std.clamp_min(1e-6))
        if progress is not None:
            progress("pictures for the encoder", first + len(part), len(seeds), {})
    return torch.cat(images), torch.cat(codes)


def kept_encoder(
    file: str | Path, generator: Generator, generator_hash: str, plan: EncoderPlan = EncoderPlan(),
    progress: Progress | None = None,
) -> LatentEncoder:  # fmt: skip
    """The encoder in `file`, trained and written there first where there is none.

    Raises CheckpointError where the file is damaged, or of another generator or plan.
    """
    place = Path(file)
    about = {"generator": generator_hash, "plan": repr(asdict(plan))}
    if not place.is_file():
        encoder = train_encoder(generator, plan, progress)
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_suffix(".partial")
        save_file({k: v.contiguous() for k, v in encoder.state_dict().items()}, partial, about)
        partial.rename(place)
        return encoder
    encoder = LatentEncoder(generator.resolution, generator.num_ws, generator.w_dim, plan.width)
    try:
        with safe_open(place, "pt") as content:
            if content.metadata() != about:
                raise CheckpointError(
                    f"{place}: an encoder of another generator or plan", "name another file, or delete it"
                )
            encoder.load_state_dict({name: content.get_tensor(name) for name in content.keys()})  # noqa: SIM118
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{place}: not an encoder ({str(error).splitlines()[0]})", "delete the file") from error
    return encoder.eval().requires_grad_(False)
