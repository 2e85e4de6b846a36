"""Training in this process: no Ray, one worker. The same loop, the same checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from raygseg.config.sections import Runtime
from raygseg.engine.checkpoint import CheckpointFolder
from raygseg.engine.loop import Clock, Hooks, Trainer, train_loop
from raygseg.engine.process import use_cpu
from raygseg.interfaces import Recipe, Stream


class ManyHooks(Hooks):
    """Several hooks, called in order."""

    def __init__(self, hooks: Sequence[Hooks]) -> None:
        self.hooks = tuple(hooks)

    def on_start(self, clock: Clock) -> None:
        for hook in self.hooks:
            hook.on_start(clock)

    def on_tick(self, clock: Clock, metrics: Mapping[str, float]) -> None:
        for hook in self.hooks:
            hook.on_tick(clock, metrics)

    def on_checkpoint(self, clock: Clock, state: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        for hook in self.hooks:
            hook.on_checkpoint(clock, state, metrics)

    def on_end(self, clock: Clock, metrics: Mapping[str, float]) -> None:
        for hook in self.hooks:
            hook.on_end(clock, metrics)


class SaveCheckpoints(Hooks):
    """Writes every checkpoint to a `CheckpointFolder`; the run ends only when the last one is safe."""

    def __init__(self, folder: CheckpointFolder) -> None:
        self.folder = folder

    def on_checkpoint(self, clock: Clock, state: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        self.folder.save(clock.nimg, state, metrics)

    def on_end(self, clock: Clock, metrics: Mapping[str, float]) -> None:
        self.folder.wait()


def run_local(
    recipe: Recipe,
    stream: Stream,
    folder: str,
    runtime: Runtime | None = None,
    hooks: Sequence[Hooks] = (),
    fingerprint: str = "",
    stop: Callable[[], bool] = lambda: False,
    best_by: str = "",
) -> bool:
    """Train `recipe` here, going on from the newest whole checkpoint in `folder` if there is one.

    Args:
        folder: the run's folder or s3:// prefix.
        runtime: threads, ticks, checkpoints; the defaults of `Runtime` if None.
        hooks: called on ticks, checkpoints and the end, after the checkpoint was handed to its writer.
        fingerprint: of the configuration; a checkpoint with another one is refused.
        stop: asked before every step; True ends the run after it, with a checkpoint.
        best_by: a metric whose lowest value marks the checkpoint that is kept besides the newest.

    Returns:
        True if the run is complete, False if it was stopped.

    Raises:
        FingerprintError, TrainingError, StorageError.
    """
    runtime = runtime or Runtime()
    use_cpu(runtime.threads)
    checkpoints = CheckpointFolder(folder, runtime.keep_checkpoints, best_by, fingerprint)
    trainer = Trainer(recipe, stream)
    found = checkpoints.latest()
    if found is not None:
        trainer.load_state_dict(found.state)
    every = ManyHooks([SaveCheckpoints(checkpoints), *hooks])
    try:
        return train_loop(trainer, runtime.tick_kimg, runtime.checkpoint_kimg, every, stop)
    finally:
        checkpoints.close()
