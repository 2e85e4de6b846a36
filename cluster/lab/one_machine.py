"""The lab without root: `ray.cluster_utils.Cluster`, whose nodes share this machine's address and processes.

A process of its own holds the cluster, so that `up` can return.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.lab import programs
from cluster.lab.place import HEAD, Lab, LabError, started


def start(lab: Lab) -> None:
    """Start the holder and wait until its nodes are up."""
    root = Path(__file__).resolve().parents[2]
    with open(lab.log(HEAD), "ab") as log:
        holder = subprocess.Popen(
            [sys.executable, "-m", "cluster.lab.one_machine", str(lab.folder)], cwd=root, start_new_session=True,
            env=programs.ray_environment(lab, HEAD), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    lab.note_process(HEAD, holder.pid)
    deadline = time.monotonic() + 120
    while not _nodes(lab):
        if holder.poll() is not None or time.monotonic() > deadline:
            raise LabError(f"the cluster did not start; see {lab.log(HEAD)}")
        time.sleep(0.2)


def start_service(lab: Lab, host: str, command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Start S3 or MLflow in a process group of its own; its id."""
    with open(lab.log(host), "ab") as log:
        process = subprocess.Popen(
            list(command), env=dict(environment), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            cwd=lab.own(host), start_new_session=True,
        )  # fmt: skip
    return process.pid


def kill(lab: Lab, host: str) -> None:
    """SIGKILL to the node's raylet; its workers end with it."""
    if not runs(lab, host):
        raise LabError(f"{host} is dead already")
    os.kill(_nodes(lab)[host], signal.SIGKILL)


def runs(lab: Lab, host: str) -> bool:
    """Whether the node's raylet does; a dead one stays a zombie of the holder."""
    pid = _nodes(lab).get(host, 0)
    return bool(pid) and started(pid) != "0"


def stop(lab: Lab) -> None:
    """End the holder's process group: `down` has killed its leader."""
    for pid in _nodes(lab).values():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _nodes(lab: Lab) -> dict[str, int]:
    """Process of each node's raylet."""
    file = lab.folder / "nodes.json"
    found: dict[str, int] = json.loads(file.read_text()) if file.is_file() else {}
    return found


def hold(folder: Path) -> None:
    """Be the holder: start the nodes, then sleep."""
    from ray.cluster_utils import Cluster

    lab = Lab.load(folder)
    head = {
        "num_cpus": 0, "resources": {"head": 1}, "include_dashboard": True, "dashboard_host": "127.0.0.1",
        "dashboard_port": programs.DASHBOARD, "labels": {"host": HEAD}, "object_store_memory": 200_000_000,
    }  # fmt: skip
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = {HEAD: cluster.head_node}
    for host in lab.workers:
        nodes[host] = cluster.add_node(
            num_cpus=lab.cpus, labels={"host": host}, object_store_memory=200_000_000,
            # One for all, each node would delete and unpack a job's folder again under those that work in it.
            runtime_env_dir_name=f"runtime_resources_{host}",
        )  # fmt: skip
    raylets = {host: node.all_processes["raylet"][0].process.pid for host, node in nodes.items()}
    temporary = folder / "nodes.json.tmp"
    temporary.write_text(json.dumps(raylets))
    temporary.replace(folder / "nodes.json")
    signal.pause()


if __name__ == "__main__":
    hold(Path(sys.argv[1]))
