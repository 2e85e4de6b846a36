"""The one place where raygseg meets a Ray cluster: the one named by RAY_ADDRESS, or a local one."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import ray

from raygseg.errors import MissingEnvironmentError

# Ray counts CPUs to schedule, not to pin: actors that mostly wait must fit beside the workers on a small machine.
FEWEST_CPUS = 4
OBJECT_STORE_BYTES = 512 * 2**20
# A cluster on one machine shares its cores with the workers: what only dashboards read is not measured, and
# what one node tells itself is told less often. That is a third of what Ray takes beside two workers.
QUIET = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process that watches for nodes being reclaimed
    "REPORTER_UPDATE_INTERVAL_MS": "60000",
    "RAY_enable_metrics_collection": "0",
    "RAY_metrics_report_interval_ms": "60000",
    "RAY_enable_timeline": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_raylet_report_resources_period_milliseconds": "1000",
    "RAY_gcs_pull_resource_loads_period_milliseconds": "5000",
}
_local = False


def connect(cpus: int = 0) -> None:
    """Join the cluster at RAY_ADDRESS, or start one here; does nothing if that was done before.

    Args:
        cpus: logical CPUs that a cluster started here must have; it gets at least 4 and the machine's.

    Raises:
        MissingEnvironmentError: nothing answers at RAY_ADDRESS, or Ray cannot start here.
    """
    global _local
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")  # the default makes every report wait 1.5 s
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # relative paths mean the same in every process
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray's C++ core writes harmless remarks as errors to the terminal; what matters arrives as an exception.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_worker_niceness", "0")  # as willing to run as the in-process loop
    address = os.environ.get("RAY_ADDRESS", "")
    try:
        if address and address != "local":
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
            _local = False
        else:
            for name, value in QUIET.items():
                os.environ.setdefault(name, value)
            ray.init(
                address="local",
                num_cpus=max(FEWEST_CPUS, os.cpu_count() or 1, cpus),
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
            _local = True
    except Exception as error:  # a node that is slow to start is told as a plain Exception
        where = f"the Ray cluster at RAY_ADDRESS={address}" if address else "a local Ray cluster"
        raise MissingEnvironmentError(
            f"cannot reach {where}: {error}",
            "correct or unset RAY_ADDRESS (and check RAY_AUTH_MODE, RAY_AUTH_TOKEN_PATH), or free memory and disk",
        ) from error


def quiet_data() -> Any:
    """This process's `ray.data.DataContext`, without Ray Data's own bars and plans: ours is the one status line."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return context


def shutdown() -> None:
    """Leave the cluster; one that was started here ends."""
    ray.shutdown()


def resources_in_words(resources: Mapping[str, float]) -> str:
    """`4 CPUs, 1 GPU`."""
    amounts = [(resources.get(name, 0.0), name) for name in ("CPU", "GPU")]
    return ", ".join(f"{amount:g} {name}{'' if amount == 1 else 's'}" for amount, name in amounts)


def check_fits(workers: int, each: Mapping[str, float]) -> None:
    """Raise MissingEnvironmentError if the cluster could not run the workers even when idle.

    A cluster that may grow by itself is not judged; there, starting times out instead.
    """
    if _local and not fits(workers, each):
        raise MissingEnvironmentError(cannot_place(workers, each), PLACEMENT_HINT)


def fits(workers: int, each: Mapping[str, float]) -> bool:
    """Whether the cluster as it is could run the workers when idle."""
    there = ray.cluster_resources()
    return all(workers * amount <= there.get(name, 0.0) for name, amount in each.items())


def cannot_place(workers: int, each: Mapping[str, float]) -> str:
    """What was asked for and what there is."""
    total, free = ray.cluster_resources(), ray.available_resources()
    return (
        f"{workers} workers with {resources_in_words(each)} each do not fit: the cluster has "
        f"{resources_in_words(total)}, of which {resources_in_words(free)} are free"
    )


PLACEMENT_HINT = "lower runtime.workers or runtime.threads, stop other jobs, or add nodes"
