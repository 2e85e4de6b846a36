"""Training with Ray Train: the engine's loop in any number of workers, restarted when one dies.

Ray starts, watches and restarts the workers and keeps count of their checkpoints; the files are
written by the engine in the same form as without Ray, so a run may go on either way. Whatever a
worker has to tell the outside goes over the `Noticeboard`.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import ray
import ray.train
import torch
from ray.train.torch import TorchConfig, TorchTrainer

from raygseg.config.sections import Runtime
from raygseg.data import object_store
from raygseg.distributed import cluster
from raygseg.distributed.noticeboard import (
    Failed,
    Finished,
    Images,
    Notice,
    Placed,
    PostWarnings,
    Started,
    Stepped,
    StopFlag,
    Tick,
    Written,
    open_board,
)
from raygseg.distributed.outcome import Outcome, TellLosses, reason_of
from raygseg.distributed.worker_errors import own_error
from raygseg.engine.checkpoint import Checkpoint, CheckpointFolder, read_checkpoint
from raygseg.engine.gradients import ProcessGroup
from raygseg.engine.loop import Clock, Hooks, Trainer, Training, train_loop
from raygseg.engine.process import set_up_worker
from raygseg.errors import MissingEnvironmentError, RaygsegError, StorageError, TrainingError

log = logging.getLogger(__name__)
LOOK_SECONDS = 2.0  # between two looks whether nodes are about to be taken away


@dataclass(frozen=True)
class Job:
    """What every worker is told; JSON values only.

    Attributes:
        factory: `module:function` that makes a `Training` from (config, device).
        config: the configuration as a plain dict.
        folder: the run's folder (absolute) or s3:// prefix.
        fingerprint: of the configuration.
        runtime: `Runtime` as a plain dict.
        best_by: metric whose lowest value marks a checkpoint to keep; may be empty.
    """

    factory: str
    config: Mapping[str, Any]
    folder: str
    fingerprint: str
    runtime: Mapping[str, Any]
    best_by: str = ""


# --- on the driver -------------------------------------------------------------------------------


def train_on_ray(job: Job, listen: Callable[[Notice], None], stop: Callable[[], bool] = lambda: False) -> bool:
    """Run the job on the connected cluster (`cluster.connect` is called if there is none).

    Args:
        listen: called here, in this thread, with every notice of the workers.
        stop: asked several times a second; True makes the workers save and end after their step.

    Returns:
        True if the run is complete, False if it was stopped.

    Raises:
        RaygsegError: as raised in a worker.
        TrainingError: workers died more often than `max_failures`.
        MissingEnvironmentError: the cluster has no room for the workers.
    """
    runtime = Runtime.model_validate(job.runtime)
    each = resources_of_a_worker(runtime)
    cluster.connect(cpus=runtime.workers * runtime.threads + 1)
    cluster.check_fits(runtime.fewest, each)
    forget_snapshot(job.folder)
    board = open_board()
    trainer = make_trainer(job, runtime, each, board)
    outcome = Outcome(listen)
    # Not in the main thread: there Ray would take over Ctrl-C and abort without a checkpoint.
    fit = _Fit(trainer)
    fit.start()
    asked = False
    while fit.is_alive():
        fit.join(0.25)
        if stop() and not asked:
            asked = True
            ray.get(board.ask_stop.remote())
        outcome.hear(ray.get(board.take.remote()))
        if outcome.waits_for_room() > runtime.placement_s:
            raise MissingEnvironmentError(cluster.cannot_place(runtime.fewest, each), cluster.PLACEMENT_HINT)
    outcome.hear(ray.get(board.take.remote()))
    ray.kill(board)
    if outcome.failed is not None:
        raise outcome.failed
    if fit.error is not None:
        raise explained(fit.error, job, each, runtime) from fit.error
    if outcome.finished is None:
        raise TrainingError("the workers ended without a result", "run the same command again: it goes on")
    return outcome.finished.complete


class _Fit(threading.Thread):
    """`trainer.fit()` beside the main thread; keeps the error."""

    def __init__(self, trainer: TorchTrainer) -> None:
        super().__init__(name="ray-train", daemon=True)
        self.trainer, self.error = trainer, cast("BaseException | None", None)

    def run(self) -> None:
        try:
            self.trainer.fit()
        except BaseException as error:  # noqa: BLE001 - raised again by the main thread
            self.error = error


def resources_of_a_worker(runtime: Runtime) -> dict[str, float]:
    """Ray resources of one worker. Raises MissingEnvironmentError if CUDA is asked for and absent."""
    cluster.connect()
    gpus = ray.cluster_resources().get("GPU", 0)
    if runtime.device == "cuda" and not gpus:
        raise MissingEnvironmentError("runtime.device is cuda, but the cluster has no GPU", "set runtime.device: auto")
    use_gpu = runtime.device == "cuda" or (runtime.device == "auto" and gpus >= runtime.fewest)
    return {"CPU": float(runtime.threads), "GPU": 1.0} if use_gpu else {"CPU": float(runtime.threads)}


def make_trainer(job: Job, runtime: Runtime, each: Mapping[str, float], board: Any) -> TorchTrainer:
    """Ray Train's V2 trainer for the job."""
    elastic = runtime.fewest < runtime.workers
    # After a loss Ray counts on the dead node for a while: an elastic run must soon try with fewer.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "12" if elastic else "60")
    filesystem, path = object_store.filesystem(job.folder)
    parent, _, name = path.rstrip("/").rpartition("/")
    local = not object_store.is_s3(job.folder)
    return TorchTrainer(
        _train_worker,
        train_loop_config={"job": asdict(job), "board": board},
        torch_config=TorchConfig(backend="nccl" if "GPU" in each else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=(runtime.fewest, runtime.workers) if elastic else runtime.workers,
            elastic_resize_monitor_interval_s=runtime.resize_s,
            use_gpu="GPU" in each,
            resources_per_worker=dict(each),
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=parent or "/",
            storage_filesystem=None if local else filesystem,
            # Ray tries again and again to place the workers: `train_on_ray` knows for how long.
            failure_config=ray.train.FailureConfig(max_failures=runtime.max_failures, controller_failure_limit=-1),
            callbacks=[TellLosses(board)],
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            worker_runtime_env={"env_vars": {"OMP_NUM_THREADS": str(runtime.threads)}},
        ),
    )


def forget_snapshot(folder: str) -> None:
    """Remove Ray's own list of a former attempt: it is refused if a listed checkpoint is gone.

    Nothing is lost: workers find the newest whole checkpoint in the folder itself.
    """
    object_store.delete(object_store.join(folder, "checkpoint_manager_snapshot.json"))


def explained(error: BaseException, job: Job, each: Mapping[str, float], runtime: Runtime) -> RaygsegError:
    """Ray Train's error as ours: which worker, why, and how to go on."""
    failures = getattr(error, "worker_failures", None)
    if failures:
        rank, cause = sorted(failures.items())[0]
        own = own_error(cause)
        if own is not None:
            return own
        return TrainingError(
            f"worker {rank} failed more than {runtime.max_failures} times; the last time: {reason_of(cause)}",
            f"read its log in Ray's session folder, mend the cause and run the same command again: "
            f"it goes on from the last checkpoint in {job.folder}",
        )
    controller_failure = getattr(error, "controller_failure", error)
    if "WorkerGroupStart" in type(controller_failure).__name__:
        return MissingEnvironmentError(cluster.cannot_place(runtime.workers, each), cluster.PLACEMENT_HINT)
    return TrainingError(f"Ray Train gave up: {controller_failure}", "mend the cause and run the same command again")


# --- in the workers ------------------------------------------------------------------------------


def _train_worker(arguments: Mapping[str, Any]) -> None:
    """One worker: make the training, go on from the newest checkpoint, loop."""
    job, board = Job(**arguments["job"]), arguments["board"]
    if ray.get(board.has_failed.remote()):
        return  # started again after an error that another start cannot cure
    logging.getLogger("raygseg").addHandler(PostWarnings(board))
    stop = StopFlag(board)
    try:
        _train(job, board, stop)
    except Exception as error:
        own = own_error(error)
        if own is not None and not isinstance(own, StorageError):  # a store may be back after a restart
            ray.get(board.post.remote(Failed(own)))
        raise  # ends the other workers too, who wait for this one's gradients
    finally:
        stop.close()


def _train(job: Job, board: Any, stop: StopFlag) -> None:
    runtime = Runtime.model_validate(job.runtime)
    set_up_worker(runtime.threads)
    board.post.remote(Placed(ray.train.get_context().get_world_size()))
    device = ray.train.torch.get_device()
    training = load_factory(job.factory)(job.config, str(device))
    trainer = Trainer(training.recipe, training.stream, ProcessGroup())
    folder = CheckpointFolder(job.folder, runtime.keep_checkpoints, job.best_by, job.fingerprint)
    found = agreed_checkpoint(folder)
    if found is not None:
        trainer.load_state_dict(found.state)
    pids: list[Any] = [None] * trainer.group.size
    torch.distributed.all_gather_object(pids, os.getpid())
    if trainer.group.rank == 0:
        board.post.remote(Started(trainer.clock.nimg, tuple(pids), dict(training.facts)))
    hooks = WorkerHooks(job, board, folder, training, trainer.group.rank)
    complete = train_loop(trainer, runtime.tick_kimg, runtime.checkpoint_kimg, hooks, stop)
    if trainer.group.rank == 0:
        ray.get(board.post.remote(Finished(trainer.clock.nimg, complete, hooks.last_metrics)))


def load_factory(name: str) -> Callable[[Mapping[str, Any], str], Training]:
    """The function `module:function` names."""
    module, _, function = name.partition(":")
    return cast("Callable[[Mapping[str, Any], str], Training]", getattr(importlib.import_module(module), function))


def agreed_checkpoint(folder: CheckpointFolder) -> Checkpoint | None:
    """The newest whole checkpoint as worker 0 sees it; every worker reads that one."""
    rank = torch.distributed.get_rank()
    found = folder.latest() if rank == 0 else None
    choice: list[Any] = [found.uri if found is not None else None]
    torch.distributed.broadcast_object_list(choice, src=0)
    if rank == 0 or choice[0] is None:
        return found
    return read_checkpoint(choice[0])


class WorkerHooks(Hooks):
    """Ticks and pictures to the board (worker 0), checkpoints to Ray Train (all workers take part)."""

    def __init__(self, job: Job, board: Any, folder: CheckpointFolder, training: Training, rank: int) -> None:
        self.board, self.folder, self.training, self.rank = board, folder, training, rank
        self.last_metrics: dict[str, float] = {}
        self._watched = os.environ.get("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "1") != "0"
        self._looked = time.monotonic()
        self._noticed: frozenset[str] = frozenset()
        self._filesystem, self._path = object_store.filesystem(job.folder)

    def on_first_step(self, clock: Clock) -> None:
        if self.rank == 0:
            self.board.post.remote(Stepped(clock.nimg))

    def on_tick(self, clock: Clock, metrics: Mapping[str, float]) -> None:
        self.last_metrics = dict(metrics)
        if self.rank == 0:
            self.board.post.remote(Tick(clock.step, clock.nimg, self.last_metrics))

    def on_checkpoint(self, clock: Clock, state: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Copy the state, report to Ray; the file is written by Ray's upload thread meanwhile."""
        facts = {"nimg": clock.nimg, "step": clock.step, **metrics}
        if self.rank != 0:
            ray.train.report(facts)
            return
        pending = self.folder.prepare(clock.nimg, state, metrics)
        written = ray.train.Checkpoint(f"{self._path}/{pending.name}", self._filesystem)

        def upload(_: Any, __: str) -> Any:
            pending.write()
            self.board.post.remote(Written(clock.nimg, object_store.join(self.folder.uri, pending.name)))
            return written

        ray.train.report(
            facts,
            checkpoint=written,
            checkpoint_dir_name=pending.name,
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=False,
            checkpoint_upload_fn=upload,
        )
        for title, picture in self.training.previews().items():
            self.board.post.remote(Images(clock.nimg, title, picture))

    def wants_look(self) -> bool:
        return self.rank == 0 and self._watched and time.monotonic() > self._looked + LOOK_SECONDS

    def look(self, clock: Clock) -> bool:
        """True once for every node that is about to be taken away: what is written now is newer than the notice."""
        self._looked = time.monotonic()
        info = ray.train.get_preemption_info()  # of worker 0: the same everywhere
        nodes = frozenset(info.preempted_node_ids) if info is not None else frozenset()
        fresh, self._noticed = nodes - self._noticed, self._noticed | nodes
        if info is not None and fresh and self.rank == 0:
            left = f" in {info.deadline_ms / 1000 - time.time():.0f} s" if info.deadline_ms else ""
            names = ", ".join(sorted(node[:8] for node in fresh))
            log.warning("node %s will be taken away%s: a checkpoint is written now", names, left)
        return bool(fresh)

    def on_end(self, clock: Clock, metrics: Mapping[str, float]) -> None:
        self.folder.wait()
