"""The one training loop: plain torch, no Ray, no files.

Everything a step does is a function of (recipe state, seed, step): pictures come from the stream by
position, random draws by name. So a run that stops after any step and goes on from its state ends
with the weights of a run that never stopped.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raygseg.engine.gradients import (
    Alone,
    Group,
    broadcast_modules,
    flatten,
    own_micro_batches,
    scatter,
    split_statistics,
    tree_sum,
)
from raygseg.errors import CheckpointError, TrainingError
from raygseg.interfaces import Draws, MicroBatch, Phase, Recipe, Stream

Statistics = dict[str, Tensor]
# What one worker wants travels with the statistics, so that all of them do it after the same step.
STOP, LOOK = "_stop", "_look"


@dataclass(frozen=True)
class Clock:
    """Where a run stands: optimiser steps and pictures seen (all workers)."""

    step: int = 0
    nimg: int = 0

    @property
    def kimg(self) -> float:
        return self.nimg / 1000


@dataclass(frozen=True)
class Training:
    """All that a run needs, made anew in every worker.

    previews: pictures to show at a checkpoint by name, [H, W, 3] uint8; must not change the recipe's state.
    facts: what the run's record should say besides its configuration, such as data fingerprints; JSON values.
    """

    recipe: Recipe
    stream: Stream
    previews: Callable[[], Mapping[str, NDArray[np.uint8]]] = dict
    facts: Mapping[str, Any] = field(default_factory=dict)


class Hooks:
    """What happens around the loop; every method may be overridden. Rank checks belong here."""

    def on_start(self, clock: Clock) -> None:
        """Before the first step, or the first after a checkpoint."""

    def on_first_step(self, clock: Clock) -> None:
        """After the first step of this process."""

    def on_tick(self, clock: Clock, metrics: Mapping[str, float]) -> None:
        """Every `tick_kimg`, with the statistics averaged since the last tick."""

    def on_checkpoint(self, clock: Clock, state: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Every `checkpoint_kimg` and at the end. `state` is live: copy what is kept."""

    def wants_look(self) -> bool:
        """Whether to call `look` in all workers after the coming step; asked before every step, so cheap."""
        return False

    def look(self, clock: Clock) -> bool:
        """Look around, in all workers at once; True for a checkpoint now. All workers must answer alike."""
        return False

    def on_end(self, clock: Clock, metrics: Mapping[str, float]) -> None:
        """After the last step (or the step after which a stop was asked for)."""


class Trainer:
    """A recipe, its data and its workers, ready to step.

    Args:
        recipe: what to train.
        stream: its data, a function of position.
        group: the workers; default is this process alone.
        patience: non-finite steps in a row after which TrainingError is raised.
    """

    def __init__(self, recipe: Recipe, stream: Stream, group: Group | None = None, patience: int = 20) -> None:
        self.recipe, self.stream, self.group, self.patience = recipe, stream, group or Alone(), patience
        self.clock = Clock()
        self.nonfinite_run = 0
        self.own = own_micro_batches(recipe.batch_size // recipe.micro_batch, self.group)
        self.device = recipe.phases[0].parameters[0].device
        self._trained = {p for phase in recipe.phases for p in phase.parameters}
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="stream")
        self._ahead: tuple[int, Future[list[Mapping[str, Tensor]]]] | None = None
        for module in recipe.modules().values():
            module.train(any(p in self._trained for p in module.parameters()))
        broadcast_modules(recipe.modules(), self.group)

    def state_dict(self) -> dict[str, Any]:
        """The recipe's state and the clock: all that decides the steps to come."""
        clock = {"step": self.clock.step, "nimg": self.clock.nimg}
        return {"recipe": self.recipe.state_dict(), "clock": clock, "nonfinite_run": self.nonfinite_run}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if not {"recipe", "clock"} <= state.keys():
            raise CheckpointError("the state is not that of a training run", "name a checkpoint that `train` wrote")
        self.recipe.load_state_dict(state["recipe"])
        self.clock = Clock(int(state["clock"]["step"]), int(state["clock"]["nimg"]))
        self.nonfinite_run = int(state.get("nonfinite_run", 0))

    def step(self, stop: bool = False, look: bool = False) -> Statistics:
        """One training iteration: every phase that is due, then the recipe's end of step.

        Returns the statistics averaged over micro-batches and workers; STOP (LOOK) is positive if any
        worker was called with stop=True (look=True). Raises TrainingError after `patience` non-finite steps in a row.
        """
        step, nimg = self.clock.step, self.clock.nimg
        data = self._data(nimg)
        batches = {
            micro: MicroBatch(batch, Draws(self.recipe.seed, step, micro), nimg)
            for micro, batch in zip(self.own, data, strict=True)
        }
        statistics: Statistics = {}
        nonfinite = torch.zeros((), device=self.device)
        for phase in self.recipe.phases:
            if step % phase.interval == 0:
                own, bad = self._run_phase(phase, batches, {STOP: stop, LOOK: look})
                statistics.update(own)
                nonfinite += bad
        self.clock = Clock(step + 1, nimg + self.recipe.batch_size)
        usable = {name: value for name, value in statistics.items() if name not in (STOP, LOOK)}
        if self._watch(int(nonfinite.item())):  # running means must not swallow what is not a number
            usable = {name: value for name, value in usable.items() if bool(torch.isfinite(value).all())}
        self.recipe.end_step(step, self.clock.nimg, usable)
        statistics["nonfinite"] = nonfinite
        return statistics

    def _run_phase(
        self, phase: Phase, batches: Mapping[int, MicroBatch], wishes: Mapping[str, bool]
    ) -> tuple[Statistics, Tensor]:
        """Zero grad, loss, backward; average over micro-batches and workers; make finite; step."""
        shapes: Statistics = {}

        def gradient(micro: int) -> Tensor:
            phase.optimiser.zero_grad(set_to_none=True)
            loss, statistics = phase.loss(batches[micro])
            loss.backward()
            shapes.update({name: value.detach() for name, value in statistics.items()})
            shapes.update({name: torch.tensor(float(wish)) for name, wish in wishes.items()})
            return flatten(phase.parameters, shapes)

        for parameter in self._trained:
            parameter.requires_grad_(False)
        for parameter in phase.parameters:
            parameter.requires_grad_(True)
        flat = tree_sum(self.own, gradient)
        self.group.sum(flat)
        count = self.recipe.batch_size // self.recipe.micro_batch
        if count > 1:
            flat /= count
        nonfinite = torch.isfinite(flat).logical_not_().sum()
        scatter(flat, phase.parameters)
        phase.optimiser.step()
        phase.optimiser.zero_grad(set_to_none=True)
        tail = flat[sum(p.numel() for p in phase.parameters) :]
        return split_statistics(tail, shapes), nonfinite

    def _watch(self, nonfinite: int) -> bool:
        self.nonfinite_run = self.nonfinite_run + 1 if nonfinite else 0
        if self.nonfinite_run >= self.patience:
            raise TrainingError(
                f"{self.nonfinite_run} steps in a row had non-finite losses or gradients "
                f"(last: {nonfinite} values at {self.clock.kimg:.2f} kimg)",
                "lower the learning rate or set precision: fp32, then go on from an earlier checkpoint",
            )
        return nonfinite > 0

    def _data(self, nimg: int) -> list[Mapping[str, Tensor]]:
        """This step's micro-batches; the next step's are read in the background meanwhile."""
        if self._ahead is not None and self._ahead[0] == nimg:
            data = self._ahead[1].result()
        else:
            data = self._load(nimg)
        after = nimg + self.recipe.batch_size
        self._ahead = None
        if after < self.recipe.total_images:
            self._ahead = (after, self._loader.submit(self._load, after))
        return data

    def _load(self, nimg: int) -> list[Mapping[str, Tensor]]:
        count = self.recipe.micro_batch
        batches = [self.stream.micro_batch(nimg + micro * count, count) for micro in self.own]
        return [{name: tensor.to(self.device) for name, tensor in batch.items()} for batch in batches]

    def close(self) -> None:
        """Drop what was read ahead, close the stream if it can be, make every parameter trainable again."""
        self._loader.shutdown(wait=True, cancel_futures=True)
        close = getattr(self.stream, "close", None)
        if close is not None:
            close()
        for parameter in self._trained:
            parameter.requires_grad_(True)


@dataclass
class _Averages:
    """Sums of scalar statistics since the last tick, kept on their device until read."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, statistics: Mapping[str, Tensor]) -> None:
        for name, value in statistics.items():
            if value.numel() == 1 and name not in (STOP, LOOK):
                self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
                self.counts[name] = self.counts.get(name, 0) + 1

    def read(self) -> dict[str, float]:
        means = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means


def train_loop(
    trainer: Trainer,
    tick_kimg: float,
    checkpoint_kimg: float,
    hooks: Hooks,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Step until the recipe's `total_images` are seen or `stop()` asks to end after the current step.

    A last tick and a last checkpoint are always made. Returns True if the run is complete.
    """
    recipe, averages, metrics = trainer.recipe, _Averages(), dict[str, float]()
    started, tick_from, stopping, first = time.perf_counter(), trainer.clock, False, True
    try:
        hooks.on_start(trainer.clock)
        while trainer.clock.nimg < recipe.total_images and not stopping:
            before = trainer.clock.nimg
            statistics = trainer.step(stop(), hooks.wants_look())
            clock = trainer.clock
            if first:
                first = False
                hooks.on_first_step(clock)
            averages.add(statistics)
            stopping = STOP in statistics and float(statistics[STOP]) > 0
            last = stopping or clock.nimg >= recipe.total_images
            if last or crossed(before, clock.nimg, tick_kimg):
                now = time.perf_counter()
                metrics = averages.read() | dict(recipe.progress())
                metrics |= pace(tick_from, clock, now - started, recipe.total_images)
                hooks.on_tick(clock, metrics)
                started, tick_from = now, clock
            asked = LOOK in statistics and float(statistics[LOOK]) > 0 and hooks.look(clock)
            if last or asked or crossed(before, clock.nimg, checkpoint_kimg):
                hooks.on_checkpoint(clock, trainer.state_dict(), metrics)
        hooks.on_end(trainer.clock, metrics)
    finally:
        trainer.close()
    return trainer.clock.nimg >= recipe.total_images


def crossed(before: int, after: int, every_kimg: float) -> bool:
    """True if a multiple of `every_kimg` lies in (before, after]."""
    every = every_kimg * 1000
    return int(after / every) > int(before / every)


def pace(since: Clock, clock: Clock, seconds: float, total_images: int) -> dict[str, float]:
    """Speed, memory of this process and time left."""
    per_image = seconds / max(clock.nimg - since.nimg, 1)
    return {
        "s_per_kimg": 1000 * per_image,
        "eta_s": per_image * max(total_images - clock.nimg, 0),
        "rss_mib": resident_mib(),
    }


def resident_mib() -> float:
    """Resident memory of this process in MiB; 0 where the system does not say."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return 0.0
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
