"""Hosts on one machine: a network namespace each, on one bridge; processes in namespaces of their own.

The bridge lies in a namespace too, so the machine's own network is not touched, and nothing of the lab can
be reached from outside it. A network namespace alone would not do: Ray looks for other clusters in /proc.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.lab.place import DESK, Lab

PREFIX = "rgs"
SWITCH = f"{PREFIX}-switch"
OWNER = Path("/run/raygseg-lab")  # the folder of the lab that the namespaces belong to
# Of a host: its name, a shared memory, a /tmp/ray and a list of names of its own; then its command.
_HOST = """set -e
hostname "$1"
mount -t tmpfs -o size=2g shm /dev/shm
mkdir -p /tmp/ray
mount --bind "$2" /tmp/ray
mount --bind "$3" /etc/hosts
shift 3
"$@" &
child=$!
trap 'kill -TERM "$child"' TERM INT
# Process 1 of a host takes in orphans: as zombies they would count as alive, and a stopped job wait for them.
until wait "$child"; [ ! -e "/proc/$child" ]; do :; done
"""


def reason_against() -> str:
    """Why hosts cannot be separated here; empty if they can."""
    if os.geteuid() != 0:
        return "separate hosts need root"
    missing = [tool for tool in ("ip", "unshare", "hostname", "mount") if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not installed (Debian, Ubuntu: apt-get install iproute2 util-linux hostname)"
    probe = ["unshare", "--net", "--pid", "--fork", "--mount-proc", "--uts", "--mount", "true"]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"namespaces are not allowed here ({done.stderr.strip()})"


def namespace(host: str) -> str:
    return f"{PREFIX}-{host}"


def other_lab(folder: Path) -> str:
    """Folder of a lab that is up on this machine in another folder; empty for none. Names and addresses are few."""
    found = OWNER.read_text() if OWNER.is_file() else ""
    return found if found not in ("", str(folder)) and Path(found, "lab.json").is_file() else ""


def build(lab: Lab) -> None:
    """The bridge, and a namespace with an address for every host and the desk."""
    tear_down()
    OWNER.write_text(str(lab.folder))
    _ip("netns", "add", SWITCH)
    _ip("-n", SWITCH, "link", "add", "br0", "type", "bridge")
    _ip("-n", SWITCH, "link", "set", "br0", "up")
    for host in [*lab.names, DESK]:
        space = namespace(host)
        _ip("netns", "add", space)
        _ip("-n", SWITCH, "link", "add", _port(host), "type", "veth", "peer", "name", "eth0", "netns", space)
        _ip("-n", SWITCH, "link", "set", _port(host), "master", "br0", "up")
        _ip("-n", space, "link", "set", "lo", "up")
        _ip("-n", space, "addr", "add", f"{lab.address(host)}/24", "dev", "eth0")
        _ip("-n", space, "link", "set", "eth0", "up")
    lines = ["127.0.0.1 localhost", *(f"{lab.address(host)} {host}" for host in [*lab.names, DESK])]
    (lab.folder / "names").write_text("\n".join(lines) + "\n")


def tear_down() -> None:
    """Remove all namespaces of a lab; their processes must be dead."""
    done = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines():
        name = line.split()[0]
        if name.startswith(f"{PREFIX}-"):
            _ip("netns", "delete", name)
    OWNER.unlink(missing_ok=True)


def cut(host: str) -> None:
    """Pull the host's plug: nothing arrives or leaves, and nobody is told."""
    _ip("-n", SWITCH, "link", "set", _port(host), "down")


def mend(host: str) -> None:
    """Put the plug back."""
    _ip("-n", SWITCH, "link", "set", _port(host), "up")


def is_cut(host: str) -> bool:
    done = subprocess.run(
        ["ip", "-n", SWITCH, "-o", "link", "show", _port(host)], capture_output=True, text=True, check=False
    )
    return "state DOWN" in done.stdout


def start(lab: Lab, host: str, command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command as the only thing on a host; the process whose death kills all of it."""
    ray = lab.own(host) / "ray"
    ray.mkdir(exist_ok=True)
    inside = ["bash", "-c", _HOST, "host", host, str(ray), str(lab.folder / "names"), *command]
    outside = ["ip", "netns", "exec", namespace(host), "unshare", "--pid", "--fork", "--kill-child"]
    outside += ["--mount-proc", "--uts", "--mount"]
    with open(lab.log(host), "ab") as log:
        process = subprocess.Popen(
            [*outside, *inside], env=dict(environment), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            cwd=lab.own(host), start_new_session=True,
        )  # fmt: skip
    return process.pid


def at(host: str, command: Sequence[str]) -> list[str]:
    """The command line that runs a command with a host's network."""
    return ["ip", "netns", "exec", namespace(host), *command]


def _port(host: str) -> str:
    return f"to-{host}"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
