"""Train what a configuration says, with Ray or in this process, and leave a registered bundle behind.

The same call again goes on from the newest checkpoint; a finished run is only bundled and registered.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raygseg.bundle import Bundle, write_bundle
from raygseg.config.loader import fingerprint, identity
from raygseg.config.schema import BackboneHeadConfig, HeadConfig
from raygseg.config.sections import AdversarialRun, Run
from raygseg.data import object_store
from raygseg.engine.checkpoint import Checkpoint, CheckpointFolder
from raygseg.engine.interrupts import StopRequest
from raygseg.engine.local import run_local
from raygseg.engine.loop import Clock, Hooks, Training
from raygseg.errors import ConfigError, TrainingError
from raygseg.pipelines import run_folder, trainables
from raygseg.pipelines.plan import plan as plan
from raygseg.pipelines.registry import register
from raygseg.pipelines.validation import ValidationBeside
from raygseg.pipelines.watch import Watch
from raygseg.tracking.cards import model_card
from raygseg.tracking.hooks import TrackingHook

Progress = Callable[[str, float, float, Mapping[str, float]], None]  # (stage, done, total, facts)
FACTORY = "raygseg.pipelines.trainables:make_training"
STAGE = "train"
# A GAN's losses say nothing about its pictures; PANet's are those of a few episodes, and its last weights are used.
BEST_BY = {"head": "loss", "backbone-head": "loss", "segmenter": "loss"}


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    Attributes:
        run_dir: folder or s3:// prefix with checkpoints, config.yaml and the bundle.
        bundle_path: what was trained, for `generate`, `segment`, `evaluate`.
        metrics: of the last tick.
        model_name, model_version: in the registry.
        nimg: pictures seen.
    """

    run_dir: str
    bundle_path: str
    metrics: Mapping[str, float]
    model_name: str
    model_version: str
    nimg: int


def train(config: Run, progress: Progress | None = None) -> TrainResult:
    """Train, bundle, register.

    Args:
        config: of a kind that is trained.
        progress: called as (stage, done, total, facts) at every tick, in kimg.

    Raises:
        FingerprintError: the run's folder holds a run of another configuration.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the step was finished and saved.
        RaygsegError: whatever else a user can meet.
    """
    folder = run_folder.place_of(config)
    check_shares(config)
    run_folder.claim(folder, config)
    outside = Outside(config, folder, progress)
    try:
        way = _train_here if config.runtime.in_process else _train_on_ray
        complete = way(config, folder, outside)
        if not complete:
            raise KeyboardInterrupt(f"stopped after {outside.nimg / 1000:g} kimg; the same command goes on")
        result = _finish(config, folder, outside)
    except KeyboardInterrupt:
        outside.end("KILLED")
        raise
    except BaseException:
        outside.end("FAILED")
        raise
    outside.end("FINISHED")
    return result


class Outside:
    """Where a run's ticks and pictures go: the tracking store and the caller's progress."""

    def __init__(self, config: Run, folder: str, progress: Progress | None) -> None:
        settings = run_folder.tracking_settings(config, folder)
        self.hook = TrackingHook(settings)
        self.hook.start()
        self.watch = Watch(config, folder)
        self.config, self.folder, self.fingerprint = config, folder, settings.fingerprint
        self.total = total_kimg(config)
        self.progress = progress
        self.nimg = 0
        self.metrics: dict[str, float] = {}
        self.facts: dict[str, Any] = {}

    def begin(self, nimg: int, facts: Mapping[str, Any]) -> None:
        self.nimg, self.facts = nimg, dict(facts)
        self.hook.on_facts(facts)
        if self.progress is not None:
            self.progress(STAGE, nimg / 1000, self.total, {})

    def tick(self, nimg: int, metrics: Mapping[str, float]) -> None:
        self.nimg, self.metrics = nimg, dict(metrics)
        self.hook.on_tick(nimg, metrics)
        self.watch.tick(nimg, metrics)
        if self.progress is not None:
            self.progress(STAGE, nimg / 1000, self.total, metrics)

    def images(self, nimg: int, name: str, picture: NDArray[np.uint8]) -> None:
        self.hook.on_images(nimg, name, picture)

    def measured(self, nimg: int, figures: Mapping[str, float], picture: NDArray[np.uint8]) -> None:
        """Of a checkpoint, which may be older than the last tick."""
        self.hook.run.log_metrics(nimg, figures)
        self.hook.on_images(nimg, "validation", picture)
        if self.progress is not None:
            self.progress(STAGE, self.nimg / 1000, self.total, {**self.metrics, **figures, "of_kimg": nimg / 1000})

    def validation(self) -> ValidationBeside | None:
        """Of runs that ask for it."""
        asked = isinstance(self.config, AdversarialRun) and self.config.validation.every_kimg
        return ValidationBeside(self.config, self.folder, self.measured) if asked else None  # type: ignore[arg-type]

    def end(self, status: str) -> None:
        self.hook.on_end(status)  # type: ignore[arg-type]


def total_kimg(config: Run) -> float:
    """Length of the run in thousands of pictures."""
    if isinstance(config, HeadConfig | BackboneHeadConfig):
        return config.training.steps * config.training.batch_size / 1000
    schedule = getattr(config, "schedule", None)
    return float(schedule.total_kimg) if schedule is not None else 0.0


def check_shares(config: Run) -> None:
    """Raise ConfigError now rather than in a worker if the micro-batches cannot be shared out."""
    schedule, workers = getattr(config, "schedule", None), config.runtime.workers
    if config.runtime.in_process and isinstance(config, AdversarialRun) and config.validation.every_kimg:
        raise ConfigError("validation.every_kimg with runtime.in_process", "use Ray, or `raygseg fidelity` afterwards")
    if config.runtime.in_process and workers != 1:
        raise ConfigError(f"runtime.in_process with runtime.workers={workers}", "set runtime.workers: 1, or use Ray")
    if schedule is None:
        return
    count = schedule.batch_size // schedule.micro
    if config.runtime.fewest < workers <= count:
        return  # shares of an elastic run differ by one
    if count % workers:
        share, rest = divmod(schedule.batch_size, workers)
        raise ConfigError(
            f"{count} micro-batches a step cannot be shared out over runtime.workers={workers}",
            f"make schedule.batch_size a multiple of {workers}" if rest else f"set schedule.micro_batch={share}",
        )


# --- in this process -----------------------------------------------------------------------------


class _Tell(Hooks):
    def __init__(self, outside: Outside, training: Training) -> None:
        self.outside, self.training = outside, training

    def on_start(self, clock: Clock) -> None:
        self.outside.begin(clock.nimg, self.training.facts)

    def on_tick(self, clock: Clock, metrics: Mapping[str, float]) -> None:
        self.outside.tick(clock.nimg, metrics)

    def on_checkpoint(self, clock: Clock, state: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        for name, picture in self.training.previews().items():
            self.outside.images(clock.nimg, name, picture)


def _train_here(config: Run, folder: str, outside: Outside) -> bool:
    import torch

    wanted = config.runtime.device
    device = ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted
    training = trainables.make_training(config.model_dump(mode="json"), device)
    hooks = [_Tell(outside, training)]
    with StopRequest() as stop:
        return run_local(
            training.recipe, training.stream, folder, config.runtime, hooks, outside.fingerprint, stop,
            BEST_BY.get(config.kind, ""),
        )  # fmt: skip


# --- on Ray --------------------------------------------------------------------------------------


def _train_on_ray(config: Run, folder: str, outside: Outside) -> bool:
    import logging

    from raygseg.distributed import cluster
    from raygseg.distributed.noticeboard import Images, Lost, Notice, Recovered, Started, Tick, Warned, Written
    from raygseg.distributed.training import Job, train_on_ray

    def listen(notice: Notice) -> None:
        if isinstance(notice, Tick):
            outside.tick(notice.nimg, notice.metrics)
            if validation is not None:
                validation.poll()
        elif isinstance(notice, Written) and validation is not None:
            validation.offer(notice.nimg, notice.uri)
        elif isinstance(notice, Images):
            outside.images(notice.nimg, notice.name, notice.picture)
        elif isinstance(notice, Started):
            outside.begin(notice.nimg, notice.facts)
            if validation is not None:
                validation.begin(notice.nimg)
        elif isinstance(notice, Warned):
            worker_log.warning(notice.text)
        elif isinstance(notice, Lost):
            worker_log.warning("%s: lost, and starting again from a checkpoint: %s", _now(), notice.told)
        elif isinstance(notice, Recovered):
            worker_log.warning("%s: %s", _now(), notice.told)

    worker_log = logging.getLogger("raygseg.worker")

    validation = outside.validation()
    plain = config.model_dump(mode="json")
    job = Job(FACTORY, plain, folder, outside.fingerprint, plain["runtime"], BEST_BY.get(config.kind, ""))
    beside = 1 if validation is None else 1 + validation.config.validation.threads
    cluster.connect(cpus=config.runtime.workers * config.runtime.threads + beside)
    with StopRequest() as stop:  # after connecting: Ray takes SIGTERM for itself when it starts
        complete = train_on_ray(job, listen, stop)
    if validation is not None:
        validation.finish()
    return complete


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="milliseconds")


# --- what is left behind -------------------------------------------------------------------------


def _finish(config: Run, folder: str, outside: Outside) -> TrainResult:
    """Bundle the last checkpoint, register the bundle."""
    last = CheckpointFolder(folder, fingerprint=outside.fingerprint).latest()
    if last is None:
        raise TrainingError(f"{folder}: no checkpoint after training", "check that runtime.output is shared storage")
    metrics = outside.metrics or {k: float(v) for k, v in last.facts.get("metrics", {}).items()}
    bundle = _bundle(config, last, outside.facts)
    name = config.runtime.register_as or config.name
    with tempfile.TemporaryDirectory() as scratch:
        remote = object_store.is_s3(folder)
        written = write_bundle(Path(scratch, "bundle") if remote else Path(folder, "bundle"), bundle)
        bundle_path = object_store.join(folder, "bundle")
        if remote:
            for file in sorted(written.iterdir()):
                object_store.write_bytes(object_store.join(bundle_path, file.name), file.read_bytes())
        version = register(
            written, name, run_id=outside.hook.run_id, metrics=metrics,
            tracking_uri=config.runtime.tracking_uri, experiment=config.runtime.experiment,
        )  # fmt: skip
    return TrainResult(folder, bundle_path, metrics, name, version.version, int(last.facts["nimg"]))


def _bundle(config: Run, last: Checkpoint, facts: Mapping[str, Any]) -> Bundle:
    bundle = trainables.make_bundle(config, last.state["recipe"])
    told = {
        "name": config.name,
        "fingerprint": fingerprint(config),
        "nimg": int(last.facts["nimg"]),
        "metrics": dict(last.facts.get("metrics", {})),
        "data": data_sources(config),
        **facts,
        **bundle.facts,
    }
    # What decides the result and no more: a bundle is the same wherever it was made, and gives no address away.
    bundle = replace(bundle, facts=told, config=bundle.config or identity(config))
    return bundle if bundle.card else replace(bundle, card=model_card(config.name, bundle))


def data_sources(config: Run) -> dict[str, str]:
    """What the run learns from, by role."""
    plain = config.model_dump(mode="json")
    roles = {"pictures": plain.get("data", {}).get("source", "")} if isinstance(plain.get("data"), dict) else {}
    roles |= {role: plain.get(role, "") for role in ("generator", "samples", "pairs", "labelled", "data")}
    return {role: str(source) for role, source in roles.items() if isinstance(source, str) and source}
