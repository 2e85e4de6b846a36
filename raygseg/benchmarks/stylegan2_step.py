"""A StyleGAN2 training step against the textbook form of the same step.

Both sides do one whole round of the lazy regularisers, 16 steps: Gmain and Dmain each step, path
length every fourth, R1 once, Adam and the running mean of the generator. The baseline
(`support/textbook.py`) has nothing around it; ours is the engine's `Trainer` as training runs it.
Each side has a process of its own: ours is set up as `train` sets up its workers
(`engine.process.use_cpu`), the baseline has torch's threads and the allocator as it comes. Rounds
alternate; the ratio is the median over repeats of the ratios within one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from statistics import median
from typing import Any

import torch
from torch import Tensor

from raygseg.benchmarks.support import peers
from raygseg.benchmarks.support.convolution_floor import ConvolutionLog, replay_seconds, wait
from raygseg.benchmarks.support.host import StolenTime
from raygseg.benchmarks.support.rounds import RoundProcess, Setting
from raygseg.benchmarks.support.textbook import TextbookRecipe, train_step
from raygseg.config.schema import GanConfig
from raygseg.data.sources import open_pictures
from raygseg.data.streams import PictureStream
from raygseg.engine.gradients import flatten
from raygseg.engine.loop import Trainer
from raygseg.engine.process import use_cpu
from raygseg.errors import MissingEnvironmentError
from raygseg.interfaces import Draws, MicroBatch, Phase
from raygseg.methods.stylegan2.training import StyleGAN2Recipe, build_recipe

ROUND = 16  # steps until every lazy regulariser has run


def gan_config(resolution: int, channel_base: int, channel_max: int, batch_size: int, precision: str) -> GanConfig:
    values: dict[str, Any] = {
        "name": "step-benchmark",
        "data": {"source": "toy://default?count=64&seed=0", "resolution": resolution},
        "schedule": {"total_kimg": 1000, "batch_size": batch_size},
        "generator": {
            "z_dim": 128,
            "w_dim": 128,
            "mapping_layers": 4,
            "channel_base": channel_base,
            "channel_max": channel_max,
        },
        "augment": {"mode": "none"},
        "optimiser": {"precision": precision},
    }
    return GanConfig.model_validate(values)


def our_round(config: GanConfig, device: str) -> tuple[Callable[[], None], StyleGAN2Recipe]:
    """A call that trains 16 steps as `train gan` does, data read ahead in a thread."""
    recipe = build_recipe(config, device)
    trainer = Trainer(recipe, _pictures(config))

    def work() -> None:
        for _ in range(ROUND):
            trainer.step()
        wait(torch.device(device))

    return work, recipe


def our_work(plain: dict[str, Any], device: str) -> Callable[[], None]:
    """`our_round` from plain values."""
    return our_round(GanConfig.model_validate(plain), device)[0]


def textbook_work(plain: dict[str, Any], device: str) -> Callable[[], None]:
    """`textbook_round` from plain values."""
    return textbook_round(GanConfig.model_validate(plain), device)[0]


def public_work(settings: dict[str, Any]) -> Callable[[], None]:
    """16 steps of the public PyTorch code (stylegan2-ada-pytorch) with its reference operators."""
    from raygseg.benchmarks.gpu_queue.public_step import PublicStep

    public = PublicStep(settings)

    def work() -> None:
        for _ in range(ROUND):
            public.step()
        wait(public.device)

    return work


def _public(config: GanConfig, device: str) -> dict[str, Any] | None:
    """What `public_work` needs for the same step; None without a checkout in RAYGSEG_PEERS."""
    try:
        peers.peer_folder(peers.NVIDIA_ADA)
    except MissingEnvironmentError:
        return None
    base, most = config.generator.widths
    return {
        "resolution": config.data.resolution, "channel_base": base, "channel_max": most,
        "w_dim": config.generator.w_dim, "mapping_layers": config.generator.mapping_layers,
        "batch": config.schedule.batch_size, "half": False, "device": device,
    }  # fmt: skip


def textbook_round(config: GanConfig, device: str) -> tuple[Callable[[], None], TextbookRecipe]:
    """A call that trains 16 textbook steps on pictures already decoded."""
    recipe = TextbookRecipe(config, device)
    for network in (recipe.generator, recipe.discriminator):
        network.train()
    stream, steps = _pictures(config), iter(range(10**9))
    batches: dict[int, Tensor] = {}

    def images(step: int) -> Tensor:
        first = step % ROUND * config.schedule.batch_size
        if first not in batches:
            batches[first] = stream.micro_batch(first, config.schedule.batch_size)["images"].to(device)
        return batches[first]

    def work() -> None:
        for step in (next(steps) for _ in range(ROUND)):
            train_step(recipe, images(step), step)
        wait(torch.device(device))

    return work, recipe


def _pictures(config: GanConfig) -> PictureStream:
    return PictureStream(open_pictures(config.data.source, config.data.resolution), config.seed, config.data.flip)


def run(
    resolution: int = 32,
    channel_base: int = 2048,
    channel_max: int = 64,
    batch_size: int = 16,
    repeats: int = 5,
    threads: int = 1,
    device: str = "cpu",
) -> dict[str, Any]:
    """Measure. `ratio`: textbook / ours, both fp32; `bf16_ratio`: textbook fp32 / ours with bf16 convolutions.

    `ratio_with_our_allocator`: the baseline's process set up like ours: what the arithmetic alone gains.
    `textbook_over_public`: time of the baseline over that of the public code with its reference operators, where
    RAYGSEG_PEERS names a folder with a checkout; null elsewhere.
    `relative_error`: of the gradients of the four phases at the same weights and draws.
    `floor_share`: time of the step's dense convolutions alone, replayed in the layouts that ours
    uses, over the time of our step.
    """
    stolen = StolenTime()
    config = gan_config(resolution, channel_base, channel_max, batch_size, "fp32")
    fp32 = config.model_dump(mode="json")
    bf16 = gan_config(resolution, channel_base, channel_max, batch_size, "bf16").model_dump(mode="json")
    tuned, plain = Setting(threads, True), Setting(threads, False)
    public = _public(config, device)
    seconds: dict[str, list[float]] = {}
    with (
        ExitStack() as stack,
        RoundProcess(plain, textbook_work, fp32, device) as textbook,
        RoundProcess(tuned, our_work, fp32, device) as ours,
        RoundProcess(tuned, our_work, bf16, device) as fast,
        RoundProcess(tuned, textbook_work, fp32, device) as helped,
    ):
        rounds = {"textbook": textbook, "ours": ours, "bf16": fast, "textbook_tuned": helped}
        if public is not None:
            rounds["public"] = stack.enter_context(RoundProcess(plain, public_work, public))
        for i in range(repeats):
            for name in list(rounds) if i % 2 else reversed(list(rounds)):
                seconds.setdefault(name, []).append(rounds[name]() / ROUND)
    error, log, floor = _against_oracle(config, device, threads)
    typical = {name: median(values) for name, values in seconds.items()}
    return {
        "name": "stylegan2-step",
        "ratio": round(_paired(seconds["textbook"], seconds["ours"]), 3),
        "bf16_ratio": round(_paired(seconds["textbook"], seconds["bf16"]), 3),
        "ratio_with_our_allocator": round(_paired(seconds["textbook_tuned"], seconds["ours"]), 3),
        "textbook_over_public": round(_paired(seconds["textbook"], seconds["public"]), 3) if public else None,
        "relative_error": error,
        "floor_share": round(floor / typical["ours"], 3),
        "seconds_a_step": {name: round(value, 4) for name, value in typical.items()},
        "floor_seconds_a_step": round(floor, 4),
        "convolution_gflop_a_step": round(log.flops / ROUND / 1e9, 2),
        "stolen": stolen.share(),
        "settings": {
            "resolution": resolution,
            "channel_base": channel_base,
            "channel_max": channel_max,
            "batch_size": batch_size,
            "repeats": repeats,
            "threads": threads,
            "device": device if device == "cpu" else torch.cuda.get_device_name(),
            "torch": torch.__version__,
        },
    }


def _against_oracle(config: GanConfig, device: str, threads: int) -> tuple[float, ConvolutionLog, float]:
    """(relative error of the gradients, the convolutions of a round, seconds a step that these take alone)."""
    previous = torch.get_num_threads()
    use_cpu(threads)
    try:
        ours, recipe = our_round(config, device)
        oracle = textbook_round(config, device)[1]
        first = _pictures(config).micro_batch(0, config.schedule.batch_size)["images"].to(device)
        error = _difference(recipe, oracle, first)
        with ConvolutionLog() as log:
            ours()
        return error, log, replay_seconds(log, torch.device(device)) / ROUND
    finally:
        torch.set_num_threads(previous)


def _paired(baseline: list[float], ours: list[float]) -> float:
    return median(b / o for b, o in zip(baseline, ours, strict=True))


def _difference(ours: StyleGAN2Recipe, oracle: TextbookRecipe, images: Tensor) -> float:
    """Largest relative difference of a phase's gradient (as one vector) at the same weights and draws."""
    batch = MicroBatch({"images": images}, Draws(ours.seed, 0, 0), 0)
    errors = []
    for our_phase, their_phase in zip(ours.phases, oracle.phases, strict=True):
        mine, theirs = (_gradient(phase, batch) for phase in (our_phase, their_phase))
        errors.append(float((mine - theirs).norm() / theirs.norm()))
    return max(errors)


def _gradient(phase: Phase, batch: MicroBatch) -> Tensor:
    phase.loss(batch).loss.backward()
    gradient = flatten(phase.parameters, {}).double()
    for parameter in phase.parameters:
        parameter.grad = None
    return gradient
