"""StyleGAN2 in the form its formulas suggest: the baseline of speed benchmarks, and an oracle.

Per-sample modulated weights in one grouped convolution, FIR filters over stuffed zeros, one Adam
update a tensor. It reads the parameters of our own networks, so both forms compute the same function.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from raygseg.config.schema import GanConfig
from raygseg.interfaces import Draws, MicroBatch
from raygseg.methods.stylegan2.discriminator import SQRT_HALF, Discriminator, ResidualBlock
from raygseg.methods.stylegan2.generator import Synthesis, SynthesisBlock
from raygseg.methods.stylegan2.training import StyleGAN2Recipe
from raygseg.nn.adaptive_augment import augment
from raygseg.nn.ema import ema_beta
from raygseg.nn.layers import EqualConv
from raygseg.nn.modulation import StyledConv
from raygseg.nn.resampling import fir_kernel

Padding = tuple[int, int]


def upfirdn(x: Tensor, *, up: int = 1, down: int = 1, padding: Padding = (0, 0), gain: float = 1.0) -> Tensor:
    """Stuff up - 1 zeros after every sample, pad, convolve with the 4 x 4 FIR, keep every down-th (spec A2)."""
    n, c, h, w = x.shape
    x = x.reshape(n, c, h, 1, w, 1)
    x = F.pad(x, (0, up - 1, 0, 0, 0, up - 1)).reshape(n, c, h * up, w * up)
    x = F.pad(x, (padding[0], padding[1], padding[0], padding[1]))
    kernel = (fir_kernel(x.dtype, x.device) * gain)[None, None].repeat(c, 1, 1, 1)
    return F.conv2d(x, kernel, groups=c)[:, :, ::down, ::down]


def modulated_conv(x: Tensor, weight: Tensor, styles: Tensor, *, demodulate: bool, up: bool) -> Tensor:
    """One kernel a sample, [N, O, I, k, k], and one convolution of N groups (spec A4, fused form)."""
    n, channels, h, w = x.shape
    out, _, k, _ = weight.shape
    kernels = weight[None] * styles[:, None, :, None, None]
    if demodulate:
        kernels = kernels * (kernels.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    x = x.reshape(1, n * channels, h, w)
    if up:
        kernels = kernels.transpose(1, 2).reshape(n * channels, out, k, k)
        x = F.conv_transpose2d(x, kernels, stride=2, groups=n)
        return upfirdn(x.reshape(n, out, 2 * h + 1, 2 * w + 1), padding=(1, 1), gain=4.0)
    x = F.conv2d(x, kernels.reshape(n * out, channels, k, k), padding=k // 2, groups=n)
    return x.reshape(n, out, h, w)


def styled_conv(conv: StyledConv, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
    y = modulated_conv(x, conv.weight, conv.affine(w), demodulate=True, up=conv.up)
    y = y + noise * conv.noise_strength
    return F.leaky_relu(y + conv.bias[:, None, None], 0.2) * math.sqrt(2.0)


def synthesise(synthesis: Synthesis, ws: Tensor, noise: Sequence[Tensor]) -> Tensor:
    """W+ codes [N, num_ws, w_dim] -> pictures [N, C, R, R] (spec A5)."""
    maps = iter(noise)
    x = image = torch.empty(0)
    for block in synthesis.blocks:
        assert isinstance(block, SynthesisBlock)
        if block.const is not None:
            x = block.const.expand(ws.shape[0], -1, -1, -1)
        for offset, (_, conv) in enumerate(block.convs):
            x = styled_conv(conv, x, ws[:, block.first_w + offset], next(maps))
        colour = block.to_image
        styles = colour.affine(ws[:, block.first_w + len(block.convs)]) * colour.weight_gain
        part = modulated_conv(x, colour.weight, styles, demodulate=False, up=False) + colour.bias[:, None, None]
        image = part if block.const is not None else upfirdn(image, up=2, padding=(2, 1), gain=4.0) + part
    return image


def equal_conv(conv: EqualConv, x: Tensor, gain: float = 1.0) -> Tensor:
    weight = conv.weight * conv.weight_gain
    if conv.down and conv.kernel == 1:
        y = F.conv2d(upfirdn(x, down=2, padding=(1, 1)), weight)
    elif conv.down:
        y = F.conv2d(upfirdn(x, padding=(2, 2)), weight, stride=2)
    else:
        y = F.conv2d(x, weight, padding=conv.kernel // 2)
    if conv.bias is not None:
        y = y + conv.bias[:, None, None]
    return F.leaky_relu(y, 0.2) * (math.sqrt(2.0) * gain) if conv.activate else y * gain


def judge(discriminator: Discriminator, images: Tensor) -> Tensor:
    """Pictures -> logits [N, 1] (spec A6)."""
    x = equal_conv(discriminator.from_image, images)
    for block in discriminator.blocks:
        assert isinstance(block, ResidualBlock)
        skip = equal_conv(block.skip, x, SQRT_HALF)
        x = skip + equal_conv(block.conv1, equal_conv(block.conv0, x), SQRT_HALF)
    n, _, h, w = x.shape
    group = min(discriminator.mbstd_group, n)
    y = x.reshape(group, n // group, -1)
    y = ((y - y.mean(dim=0)).square().mean(dim=0) + 1e-8).sqrt().mean(dim=1)
    x = torch.cat([x, y.repeat(group).reshape(n, 1, 1, 1).repeat(1, 1, h, w)], dim=1)
    logits: Tensor = discriminator.out(discriminator.dense(equal_conv(discriminator.conv, x).flatten(1)))
    return logits


def plain_adam(like: torch.optim.Optimizer) -> torch.optim.Adam:
    """The same update, one tensor at a time."""
    settings = like.param_groups[0]
    return torch.optim.Adam(
        settings["params"], lr=settings["lr"], betas=settings["betas"], eps=settings["eps"], foreach=False, fused=False
    )


class TextbookRecipe(StyleGAN2Recipe):
    """Our recipe with every network evaluated in the textbook form and plain optimisers; fp32 only."""

    def __init__(self, config: GanConfig, device: torch.device | str = "cpu") -> None:
        super().__init__(config, device)
        for network in (self.generator, self.discriminator, self.average):
            for parameter in network.parameters():
                parameter.data = parameter.data.contiguous()  # whatever layout ours are stored in
        plain = {id(phase.optimiser): plain_adam(phase.optimiser) for phase in self._mains()}
        self.phases = [dataclasses.replace(phase, optimiser=plain[id(phase.optimiser)]) for phase in self.phases]

    def _synthesise(self, ws: Tensor, draws: Draws, purpose: str, dtype: torch.dtype) -> Tensor:
        return synthesise(self.generator.synthesis, ws, self._noise(draws, purpose, ws.shape[0]))

    def _judge(self, images: Tensor, draws: Draws, purpose: str, dtype: torch.dtype) -> Tensor:
        return judge(self.discriminator, augment(images, self.controller.p, draws.rng(f"{purpose}/augment")))


def train_step(recipe: TextbookRecipe, images: Tensor, step: int) -> None:
    """One iteration on `images`, uint8 [batch_size, 3, R, R], as one micro-batch and with nothing around it."""
    batch = MicroBatch({"images": images}, Draws(recipe.seed, step, 0), step * recipe.batch_size)
    trained = {parameter for phase in recipe.phases for parameter in phase.parameters}
    w_mean = torch.empty(0)
    for phase in recipe.phases:
        if step % phase.interval:
            continue
        for parameter in trained:
            parameter.requires_grad_(False)
        for parameter in phase.parameters:
            parameter.requires_grad_(True)
        phase.optimiser.zero_grad(set_to_none=True)
        loss, statistics = phase.loss(batch)
        loss.backward()
        for parameter in phase.parameters:
            if parameter.grad is not None:
                torch.nan_to_num(parameter.grad, 0.0, 1e5, -1e5, out=parameter.grad)
        phase.optimiser.step()
        w_mean = statistics.get("w_mean", w_mean)
        if "path_length" in statistics:
            recipe.path_mean.lerp_(statistics["path_length"].detach(), recipe.config.loss.path_decay)
    recipe.generator.mapping.w_avg.lerp_(w_mean, 1 - recipe.config.loss.w_avg_beta)
    section = recipe.config.optimiser
    beta = ema_beta(recipe.batch_size, (step + 1) * recipe.batch_size, section.ema_kimg, section.ema_ramp)
    with torch.no_grad():
        for average, value in zip(recipe.average.parameters(), recipe.generator.parameters(), strict=True):
            average.copy_(value.lerp(average, beta))
        for kept, buffer in zip(recipe.average.buffers(), recipe.generator.buffers(), strict=True):
            kept.copy_(buffer)
