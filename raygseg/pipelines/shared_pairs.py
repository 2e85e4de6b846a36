"""The pair sets of several label heads of one generator, every picture rendered once.

Each set is what `generate` would have written under the same configuration, and `generate` finds it complete.
The sets are written shard by shard side by side, in this process; what is there already is left.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from raygseg.config.schema import GenerateConfig
from raygseg.data.shard_stats import ShardStats
from raygseg.data.shard_writer import Recording, ShardWriter
from raygseg.data.shards import Plan, complete, plan
from raygseg.errors import ConfigError
from raygseg.interfaces import Generator, Rendering
from raygseg.methods.repurposegan.sampler import GeneratorHeadSampler
from raygseg.pipelines.generate import planned_set
from raygseg.pipelines.projection_store import network_hash

Progress = Callable[..., None]  # (stage, done, total, facts)


class SharedRenderings:
    """A generator that keeps what it rendered last (`interfaces.Generator`).

    Args:
        generator: frozen.
        kept: forward passes to keep: those of a shard.
    """

    def __init__(self, generator: Generator, kept: int) -> None:
        self._generator, self._limit = generator, kept
        self._kept: OrderedDict[tuple[Any, ...], Rendering] = OrderedDict()
        self.resolution, self.feature_layers = generator.resolution, generator.feature_layers
        self.num_ws, self.w_dim = generator.num_ws, generator.w_dim
        self.passes = 0

    def latents(self, seeds: Sequence[int], truncation_psi: float = 1.0) -> Tensor:
        """[N, num_ws, w_dim]."""
        return self._generator.latents(seeds, truncation_psi)

    def render(self, ws: Tensor, noise_seeds: Sequence[int] | None = None, layers: Sequence[str] = ()) -> Rendering:
        """The generator's; the same codes, seeds and layers again are not rendered again."""
        key = (ws.cpu().numpy().tobytes(), tuple(noise_seeds or ()), tuple(layers))
        if key not in self._kept:
            self.passes += 1
            self._kept[key] = self._generator.render(ws, noise_seeds, layers)
            while len(self._kept) > self._limit:
                self._kept.popitem(last=False)
        return self._kept[key]


@dataclass
class _Set:
    """One pair set: what is to do, who does it, what was done."""

    output: str
    todo: Plan
    writer: ShardWriter
    fresh: dict[int, ShardStats]


def write_shared(runs: Sequence[GenerateConfig], progress: Progress | None = None) -> int:
    """Complete the pair sets of `runs`; how many forward passes of the generator that took.

    Args:
        runs: of samplers (generator with head) that share their generator, shard size and batch.
        progress: called as (stage, rows done, rows, facts), rows of all sets.

    Raises:
        ConfigError: samplers of different generators, or shards of different sizes.
    """
    with ExitStack() as stack:
        sets, shared = _opened(runs, stack)
        total = sum(s.todo.manifest.num_pairs for s in sets)
        done = sum(shard.rows for s in sets for shard in s.todo.committed)
        began = time.perf_counter()
        for first_row in sorted({shard.first_row for s in sets for shard in s.todo.pending}):
            for one in sets:
                for shard in (shard for shard in one.todo.pending if shard.first_row == first_row):
                    for stats in one.writer.write([shard]):
                        one.fresh[stats.first_row] = stats
                        done += stats.rows
            if progress is not None:
                progress("generate", done, total, {})
        rate = sum(s.rows for one in sets for s in one.fresh.values()) / max(time.perf_counter() - began, 1e-9)
    for one in sets:
        if one.fresh or not one.todo.manifest.complete:
            complete(one.output, one.todo.manifest, one.fresh, rate)
    return shared.passes


def _opened(runs: Sequence[GenerateConfig], stack: ExitStack) -> tuple[list[_Set], SharedRenderings]:
    """The sets with their writers; every sampler renders through the same generator."""
    if len({(run.rows_per_shard, run.batch_size, run.first_seed) for run in runs}) != 1:
        raise ConfigError("the pair sets differ in rows_per_shard, batch_size or first_seed", "give them the same")
    shared: SharedRenderings | None = None
    sets, known = [], ""
    for run in runs:
        output, wanted, sampler = planned_set(run)
        if not isinstance(sampler, GeneratorHeadSampler):
            raise ConfigError(f"{run.sampler} is not a generator with a label head", "generate it by itself")
        found = network_hash(sampler.generator)
        if shared is None:
            shared, known = SharedRenderings(sampler.generator, -(-run.rows_per_shard // run.batch_size)), found
        elif found != known:
            raise ConfigError(f"{run.sampler} has another generator than {runs[0].sampler}", "generate it by itself")
        sampler.generator = shared
        todo = plan(output, wanted, run.mode)
        writer = stack.enter_context(ShardWriter(sampler, Recording.of(output, todo.manifest)))
        sets.append(_Set(output, todo, writer, {}))
    assert shared is not None, "there is at least one set"
    return sets, shared
