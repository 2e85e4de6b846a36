"""Item timing-256: what a StyleGAN2 training step and its inference cost on this chip, by precision.

A round is 16 steps, until every lazy regulariser has run: Gmain and Dmain each step, path length every
fourth, R1 once, as `train gan` runs them, with pictures already on the device. One record a case.
"""

from __future__ import annotations

import gc
import logging
import time
import typing
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from raygseg.benchmarks.gpu_queue.chip import kernels, matmul_tflops, mib, phase_flops, share, stated_peak
from raygseg.benchmarks.gpu_queue.compiled import MainPhasesCompiled
from raygseg.benchmarks.gpu_queue.lease import Lease
from raygseg.benchmarks.support.convolution_floor import ConvolutionLog, wait
from raygseg.config.schema import GanConfig
from raygseg.config.sections import GanOptimiser
from raygseg.engine.loop import Trainer
from raygseg.engine.memory import step_peak_bytes
from raygseg.methods.stylegan2.training import StyleGAN2Recipe, build_recipe
from raygseg.pipelines.plan import BYTES, COPIES_TRAINED

ROUND = 16
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Size:
    """Networks and how often to run them."""

    resolution: int
    channel_base: int
    channel_max: int
    w_dim: int
    mapping_layers: int
    batch: int
    warm_up: int
    rounds: int
    renders: int
    matmul: int


SIZES = {
    "full": Size(256, 16384, 512, 512, 8, 32, warm_up=5, rounds=2, renders=20, matmul=8192),
    "tiny": Size(8, 64, 8, 16, 2, 4, warm_up=1, rounds=1, renders=2, matmul=64),
}


@dataclass(frozen=True)
class Case:
    """How the step is run. `seconds`: what it may take, building and compiling included."""

    precision: str
    seconds: int
    tf32: bool = True
    compiled: bool = False
    recompute_from: int = 0
    tuned: bool = False
    augment: float = 0.0

    @property
    def key(self) -> str:
        words = [self.precision, "tf32" if self.tf32 else "no-tf32", "compiled" if self.compiled else "plain"]
        words += [f"recompute-{self.recompute_from}"] * bool(self.recompute_from)
        words += ["tuned"] * self.tuned + [f"augment-{self.augment:g}"] * bool(self.augment)
        return " ".join(words)


# In the order of what one would most want to know. tf32 concerns what is fp32: in the others the regularisers.
CASES = (
    Case("bf16", 40),
    Case("fp32", 75, tf32=False),
    Case("fp16", 40),
    Case("bf16", 240, compiled=True),
    Case("bf16", 50, recompute_from=64),
    Case("fp32", 60),
    Case("bf16", 60, tuned=True),
    Case("bf16", 60, augment=0.5),
    Case("fp32", 90, tf32=False, recompute_from=64),
    Case("fp16", 240, compiled=True),
    Case("fp32", 300, tf32=False, compiled=True),
)
TINY_CASES = (Case("bf16", 1), Case("fp32", 1, tf32=False, recompute_from=4), Case("fp16", 1))


class SamePictures:
    """Random pictures that already lie on the device. Implements `interfaces.Stream`."""

    def __init__(self, size: Size, device: str) -> None:
        shape = (size.batch, 3, size.resolution, size.resolution)
        self._images = torch.randint(0, 256, shape, dtype=torch.uint8).to(device)

    def micro_batch(self, first: int, count: int) -> dict[str, Tensor]:
        return {"images": self._images[:count]}


def run(lease: Lease, item: str) -> bool:
    """Measure the cases that are not on record while there is time; True when none is left."""
    size, cases = SIZES[lease.scale], CASES if lease.scale == "full" else TINY_CASES
    if not lease.has(item, "matmul"):
        figures = {"tflops": matmul_tflops(lease.device, size.matmul), "side": size.matmul}
        lease.record(item, "matmul", {**figures, "stated_peak": stated_peak(lease.device)})
    matmul = next(r["tflops"] for r in reversed(lease.known) if (r["item"], r["key"]) == (item, "matmul"))
    complete = True
    for case in cases:
        if lease.has(item, case.key):
            continue
        if case.precision not in precisions():
            lease.record(item, case.key, {"skipped": f"this version has no precision: {case.precision}"})
        elif lease.remaining() < case.seconds:
            complete = False
        else:
            lease.record(item, case.key, attempt(case, size, lease.device, matmul))
    return complete


def precisions() -> tuple[str, ...]:
    """What `optimiser.precision` may be in this version."""
    return typing.get_args(GanOptimiser.model_fields["precision"].annotation)


def attempt(case: Case, size: Size, device: str, matmul: float) -> dict[str, Any]:
    """The figures of a case, or the error that kept it from running."""
    start = time.perf_counter()
    try:
        with kernels(tf32=case.tf32, tuned=case.tuned):
            figures = measure(case, size, device, matmul)
    except Exception as error:
        log.exception("%s failed", case.key)
        figures = {"error": f"{type(error).__name__}: {error}"[:2000]}
    finally:
        if case.compiled:
            torch.compiler.reset()
        gc.collect()
        torch.cuda.empty_cache()
    run_as = {"case": vars(case), "size": vars(size)}
    return {**figures, **run_as, "seconds": round(time.perf_counter() - start, 1)}


def measure(case: Case, size: Size, device: str, matmul: float) -> dict[str, Any]:
    config = configuration(case, size)
    work = on_paper(config)
    recipe = build_recipe(config, device)
    if case.compiled:
        MainPhasesCompiled(recipe)
    step = training_figures(recipe, size, device)
    tflops = work["flop_a_round"] / step["seconds_a_round"] / 1e12
    trained = {parameter for phase in recipe.phases for parameter in phase.parameters}
    memory = compared(work, step, sum(parameter.numel() for parameter in trained))
    training = {**step, **share(tflops, device, matmul), **memory}
    return {"training": training, "inference": inference_figures(recipe, case, size, device, matmul)}


def configuration(case: Case, size: Size) -> GanConfig:
    sizes = {"channel_base": size.channel_base, "channel_max": size.channel_max}
    values: dict[str, Any] = {
        "name": "gpu-timing",
        "data": {"source": "on the device", "resolution": size.resolution},
        "schedule": {"total_kimg": 1e6, "batch_size": size.batch},
        "generator": {"z_dim": size.w_dim, "w_dim": size.w_dim, "mapping_layers": size.mapping_layers, **sizes},
        "augment": {"mode": "fixed", "p": case.augment} if case.augment else {"mode": "none"},
        "optimiser": {"precision": case.precision},
        "runtime": {"recompute_from": case.recompute_from},
    }
    return GanConfig.model_validate(values)


# --- training --------------------------------------------------------------------------------------


def on_paper(config: GanConfig) -> dict[str, Any]:
    """Work and memory of a step as counted without computing it, in FLOP and bytes.

    Work is that of the plain step: what recomputing adds is no use to anybody and does not count.
    """
    shape = (config.schedule.micro, 3, config.data.resolution, config.data.resolution)
    data = {"images": torch.empty(shape, dtype=torch.uint8, device="meta")}
    plain = config.model_copy(update={"runtime": config.runtime.model_copy(update={"recompute_from": 0})})
    recipe = build_recipe(plain, "meta")
    flops = phase_flops(recipe, data)
    counts = {phase.name: ROUND // phase.interval for phase in recipe.phases}
    return {
        "flop_a_round": sum(flops[name] * counts[name] for name in flops),
        "phase_bytes": step_peak_bytes(build_recipe(config, "meta"), data),
    }


def training_figures(recipe: StyleGAN2Recipe, size: Size, device: str) -> dict[str, Any]:
    """Time and memory of whole rounds after a warm-up."""
    trainer = Trainer(recipe, SamePictures(size, device))
    try:
        for _ in range(size.warm_up):
            trainer.step()
        gc.collect()
        standing = torch.cuda.memory_allocated() if device == "cuda" else 0
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds: dict[str, list[float]] = {}
        for _ in range(size.rounds * ROUND):
            due = "+".join(phase.name for phase in recipe.phases if trainer.clock.step % phase.interval == 0)
            seconds.setdefault(due, []).append(timed(trainer.step, device))
        peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    finally:
        trainer.close()
    total = sum(sum(times) for times in seconds.values())
    return {
        "images_per_second": round(size.rounds * ROUND * size.batch / total, 2),
        "seconds_a_round": total / size.rounds,
        "step_seconds": {due: round(median(times), 5) for due, times in seconds.items()},
        "standing_mib": mib(standing),
        "peak_mib": mib(peak),
    }


def timed(work: Callable[[], object], device: str) -> float:
    wait(torch.device(device))
    start = time.perf_counter()
    work()
    wait(torch.device(device))
    return time.perf_counter() - start


def compared(work: dict[str, Any], step: dict[str, Any], parameters: int) -> dict[str, Any]:
    """The estimate of the plan (`--dry-run`) beside the allocator's peak; also without what stands between steps."""
    phase, activations = max(work["phase_bytes"].items(), key=lambda pair: pair[1])
    estimate = mib(parameters * BYTES * COPIES_TRAINED + activations)
    measured, standing = step["peak_mib"], step["standing_mib"]
    return {
        "estimate_mib": estimate,
        "estimate_phase": phase,
        "estimate_by_phase_mib": {name: mib(size) for name, size in work["phase_bytes"].items()},
        "measured_over_estimate": round(measured / estimate, 3) if measured else None,
        "measured_over_estimate_in_step": round((measured - standing) / mib(activations), 3) if measured else None,
    }


# --- inference -------------------------------------------------------------------------------------


@torch.no_grad()
def inference_figures(recipe: StyleGAN2Recipe, case: Case, size: Size, device: str, matmul: float) -> dict[str, Any]:
    """Pictures from W+ codes with the constant noise, as `generator.render` makes them, in the case's precision."""
    synthesis = recipe.average.synthesis
    ws = torch.randn(size.batch, recipe.generator.num_ws, size.w_dim, device=device)
    forward = torch.compile(synthesis.forward, dynamic=False) if case.compiled else synthesis

    def render() -> None:
        forward(ws, None, (), recipe.dtype)

    meta = build_recipe(recipe.config, "meta").generator
    with ConvolutionLog() as count:
        meta.render(ws.to("meta"))
    for _ in range(3):
        render()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = median(timed(render, device) for _ in range(size.renders))
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    speed = share(count.flops / seconds / 1e12, device, matmul)
    return {"images_per_second": round(size.batch / seconds, 1), "peak_mib": mib(peak), **speed}
