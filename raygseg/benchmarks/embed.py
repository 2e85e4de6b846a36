"""What embedding many pictures at once saves against the released loop, which takes them one by one (spec B8, B11-11).

Both sides optimise codes and noise of the same untrained networks for as many steps by the same loss. The baseline is
the released loop as the specification describes it: a picture at a time, the target's features anew in every step,
and the encoder's echo of the rendered picture with a graph that is then thrown away. Each side runs in a process of
its own that is set up alike; the baseline sees fewer pictures, since one takes as long as another.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from raygseg.benchmarks.projection import features_of
from raygseg.benchmarks.support.host import StolenTime
from raygseg.benchmarks.support.rounds import RoundProcess, Setting
from raygseg.data.sources import open_pictures
from raygseg.labels import LabelSpace
from raygseg.methods.semanticgan.embedding import EmbeddingPlan, embed
from raygseg.methods.semanticgan.label_codec import LabelCodec
from raygseg.methods.stylegan2.generator import StyleGAN2Generator
from raygseg.nn.fpn_encoder import FPNEncoder
from raygseg.nn.noise_maps import NoiseMaps, render_found
from raygseg.nn.projection import LatentSpread, PerceptualDistance, latent_spread

CLASSES = LabelSpace(("background", *(f"part {i}" for i in range(7))), background=0)
WARM_STEPS = 2


class Task(NamedTuple):
    """What both sides do, as plain values."""

    resolution: int
    features: str
    steps: int
    batch: int
    alone: int
    channel_base: int
    channel_max: int
    consistency_every: int
    device: str


class Prepared(NamedTuple):
    """Networks and pictures."""

    generator: StyleGAN2Generator
    encoder: FPNEncoder
    distance: PerceptualDistance
    spread: LatentSpread
    images: Tensor
    title: str


def prepared(task: Task, count: int) -> Prepared:
    """Untrained networks cost what trained ones cost."""
    torch.manual_seed(0)
    side, channels = task.resolution, LabelCodec(CLASSES).channels
    build = {"w_dim": 128, "z_dim": 128, "mapping_layers": 2, "label_channels": channels}
    generator = StyleGAN2Generator(side, channel_base=task.channel_base, channel_max=task.channel_max, **build)
    generator = generator.eval().requires_grad_(False).to(task.device)
    encoder = FPNEncoder(side, generator.num_ws, 128, width=16, blocks=(1, 1, 1, 1), channels=128, stem_stride=2)
    spread = latent_spread(generator)
    encoder.start_from(*(part.cpu() for part in spread))
    network, title = features_of(task.features, side)
    pictures = open_pictures("toy://default?count=100&seed=5", side)
    images = torch.stack([torch.from_numpy(pictures.read(i)) for i in range(count)]).permute(0, 3, 1, 2)
    signed = (images.float() / 127.5 - 1).to(task.device)
    frozen = encoder.eval().requires_grad_(False).to(task.device)
    return Prepared(generator, frozen, PerceptualDistance(network.to(task.device), title), spread, signed, title)


def together(work: Prepared, plan: EmbeddingPlan) -> Tensor:
    """[N] distances by `methods.semanticgan.embedding.embed`, all pictures at once."""
    return embed(work.generator, work.encoder, work.distance, work.images, plan, work.spread).distances


def one_by_one(work: Prepared, plan: EmbeddingPlan) -> Tensor:
    """[N] distances by the released loop."""
    return torch.stack([_released(work, image[None], plan) for image in work.images])


def _released(work: Prepared, image: Tensor, plan: EmbeddingPlan) -> Tensor:
    """One picture; nothing is kept from step to step but codes and noise."""
    with torch.no_grad():
        start = work.encoder(image)
    offset = torch.zeros_like(start).requires_grad_()
    noise = NoiseMaps(work.generator, 1)
    adam = torch.optim.Adam([offset, *noise.parameters()], lr=plan.lr)
    valid = torch.ones_like(image[:, :1])
    encoder = work.encoder.requires_grad_(True)  # as it was left by its training
    for number in range(plan.steps):
        ws = start + work.spread.std * offset
        rendered = render_found(work.generator, ws, noise.maps).images
        apart = work.distance.between(rendered, work.distance.describe(image), valid).sum()
        echo = encoder(rendered).detach()
        loss = plan.perceptual * apart + plan.squared_error * (rendered - image).square().mean()
        loss = loss + plan.noise_penalty * noise.penalty().sum() + plan.consistency * (ws - echo).square().mean()
        adam.param_groups[0]["lr"] = plan.lr * plan.rate(number)
        adam.zero_grad()
        loss.backward()
        adam.step()
        noise.renormalise()
    encoder.requires_grad_(False)
    with torch.no_grad():
        rendered = render_found(work.generator, start + work.spread.std * offset, noise.maps).images
        return work.distance.between(rendered, work.distance.describe(image), valid)[0]


def round_of(task: tuple[Any, ...], ours: bool) -> Callable[[], None]:
    """A call that embeds all pictures of one side; the first, which warms up, takes a few steps only."""
    told = Task(*task)
    work = prepared(told, told.batch if ours else told.alone)
    steps = [WARM_STEPS]

    def once() -> None:
        plan = EmbeddingPlan(steps[0], consistency_every=told.consistency_every)
        (together if ours else one_by_one)(work, plan).sum().item()
        steps[0] = told.steps

    return once


def run(
    resolution: int = 64,
    features: str = "auto",
    steps: int = 100,
    batch: int = 16,
    alone: int = 2,
    channel_base: int = 4096,
    channel_max: int = 128,
    consistency_every: int = 4,
    repeats: int = 3,
    threads: int = 1,
    device: str = "cpu",
) -> dict[str, Any]:
    """Measure. `ratio`: median over rounds of seconds a picture one by one / seconds a picture in the batch.

    `ratio_cpu`: the same of processor time, which holds on a host that does other things meanwhile too.

    `distance_difference`: largest difference of a picture's final distance between the two sides over the first few
    steps, and `distance_mean` to hold it against: both do the same.

    Args:
        features: vgg16, discriminator (untrained), or auto: vgg16 where RAYGSEG_DATA has it.
        batch, alone: pictures at once on our side, and how many the baseline takes one by one.
        consistency_every: steps between two looks of the encoder on our side; the baseline's looks in every step.
        threads: of torch, on both sides. device: cpu or cuda.
    """
    stolen = StolenTime()
    task = Task(resolution, features, steps, batch, alone, channel_base, channel_max, consistency_every, device)
    setting = Setting(threads, True)
    seconds: dict[str, list[float]] = {"batch": [], "one by one": []}
    cpu: dict[str, list[float]] = {"batch": [], "one by one": []}
    with (
        RoundProcess(setting, round_of, tuple(task), True) as ours,
        RoundProcess(setting, round_of, tuple(task), False) as plain,
    ):
        sides = {"batch": (ours, batch), "one by one": (plain, alone)}
        for i in range(repeats):
            for name in list(sides) if i % 2 else reversed(list(sides)):
                process, count = sides[name]
                seconds[name].append(process() / count)
                cpu[name].append(process.cpu_seconds / count)
    few = EmbeddingPlan(WARM_STEPS)
    work = prepared(task, alone)
    here, there = together(work, few), one_by_one(work, few)
    return {
        "name": "embed",
        "ratio": _ratio(seconds),
        "ratio_cpu": _ratio(cpu),
        "seconds_a_picture": {name: round(median(values), 3) for name, values in seconds.items()},
        "cpu_seconds_a_picture": {name: round(median(values), 3) for name, values in cpu.items()},
        "distance_difference": float((here - there).abs().max()),
        "distance_mean": round(float(here.mean()), 4),
        "baseline": "the released loop: a picture at a time, target features and encoder graph redone each step",
        "features": work.title,
        "stolen": stolen.share(),
        "settings": {**task._asdict(), "repeats": repeats, "threads": threads, "torch": torch.__version__},
    }


def _ratio(values: dict[str, list[float]]) -> float:
    pairs = zip(values["one by one"], values["batch"], strict=True)
    return round(median(theirs / ours for theirs, ours in pairs), 3)
