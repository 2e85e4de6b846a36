"""A run that loses a host, grows back, and is warned of the loss of another; prints what happened as one JSON line.

A program of its own: it needs a cluster of several nodes, and a process can be in one cluster only.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

TOTAL = 100_000  # the drill stops the run when it has seen enough
PATIENCE_SECONDS = 240.0


class Drill:
    """Hears the run's notices and disturbs it, one thing after the other."""

    def __init__(self, cluster: Any, nodes: list[Any]) -> None:
        self.cluster, self.nodes = cluster, nodes
        self.events: list[tuple[float, str, Any]] = []
        self.began = time.monotonic()
        self.stage = 0

    def __call__(self, notice: Any) -> None:
        from raygseg.distributed.noticeboard import Lost, Started, Tick, Warned, Written

        if isinstance(notice, Started):
            self.note("started", [notice.nimg, len(notice.pids)])
            if self.stage == 1 and len(notice.pids) == 2:
                self.nodes.append(self.cluster.add_node(num_cpus=1))
                self.advance("host added")
            elif self.stage == 2 and len(notice.pids) == 3:
                self.stage = 3
        elif isinstance(notice, Tick) and self.stage in (0, 3) and self.has_checkpoint():
            if self.stage == 0:
                self.cluster.remove_node(self.nodes.pop(), allow_graceful=False)
                self.advance("host killed")
            else:
                self.announce(self.nodes[0])
                self.advance("notice given")
        elif isinstance(notice, Written):
            self.note("written", notice.nimg)
            if self.stage == 4 and any(what == "warned" for _, what, _ in self.events):
                self.advance("saved after the notice")
        elif isinstance(notice, Warned):
            self.note("warned", notice.text)
        elif isinstance(notice, Lost):
            self.note("lost", sorted(notice.reasons))

    def has_checkpoint(self) -> bool:
        """Of the workers that run now."""
        last = max(i for i, (_, what, _) in enumerate(self.events) if what == "started")
        return any(what == "written" for _, what, _ in self.events[last:])

    def announce(self, node: Any) -> None:
        subprocess.run(
            ["ray", "drain-node", "--address", self.cluster.address, "--node-id", node.node_id, "--reason",
             "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "drill", "--deadline-remaining-seconds", "60"],
            check=True, capture_output=True,
        )  # fmt: skip

    def note(self, what: str, value: Any = None) -> None:
        self.events.append((round(time.monotonic() - self.began, 2), what, value))

    def advance(self, what: str) -> None:
        self.note(what)
        self.stage += 1

    def over(self) -> bool:
        return self.stage >= 5 or time.monotonic() > self.began + PATIENCE_SECONDS


def main(folder: Path) -> None:
    import os

    import ray
    from ray.cluster_utils import Cluster

    # As `cluster.connect` sets them for a cluster of its own, before the nodes inherit them.
    quick = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25", "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ.update(quick)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100_000_000})
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=80_000_000) for _ in range(3)]
    os.environ["RAY_ADDRESS"] = cluster.address

    from raygseg.config.sections import Runtime
    from raygseg.distributed.training import Job, train_on_ray

    runtime = Runtime(workers=3, min_workers=1, resize_s=3, tick_kimg=0.04, checkpoint_kimg=0.4, device="cpu")
    config = {"total_images": TOTAL, "seconds": 0.05, "micro_batch": 2}
    job = Job("tests.ray.regression_training:make", config, str(folder), "f", runtime.model_dump())
    drill = Drill(cluster, nodes)
    complete = train_on_ray(job, drill, drill.over)
    drill.note("ended", complete)
    sys.stdout.write(json.dumps(drill.events) + "\n")
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
