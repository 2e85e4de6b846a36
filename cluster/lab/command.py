"""A cluster of several hosts on one Linux machine, to rehearse a real one and to break on purpose.

    python cluster/lab up --hosts 2          head, two worker hosts, S3, MLflow; tokens and passwords on
    python cluster/lab exec -- raygseg submit train configs/toy/gan.yaml runtime.workers=2 \\
        runtime.output=s3://lab/toy-gan      a command at the desk: a host of its own that knows the secrets
    python cluster/lab kill h1               SIGKILL to everything on the host
    python cluster/lab cut h1                pull its network plug
    python cluster/lab heal h1               put the plug back; start the host again where it is dead
    python cluster/lab status
    python cluster/lab down

Hosts are network and process namespaces, which need root; without it all nodes share this machine's address
(`ray.cluster_utils.Cluster`), which the lab says, and nothing can be cut. Needs the extras s3-local and
mlflow-server: SeaweedFS, and what MLflow's server asks for. The hosts s3 and mlflow can be killed and cut too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.lab import fabric, one_machine, programs
from cluster.lab.place import DEFAULT, DESK, HEAD, MLFLOW, S3, Lab, LabError

ENDED = "ended.json"  # in the folder of a lab that is down, of which the hosts' files were kept


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; its exit code (2: wrong usage, 3: the lab cannot do that)."""
    arguments = parser().parse_args(words)
    try:
        return int(arguments.run(arguments) or 0)
    except LabError as error:
        say(f"error: {error}")
        return 3


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        "python cluster/lab", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--folder", type=Path, default=DEFAULT, help="everything of the lab (default: %(default)s)")
    verbs = top.add_subparsers(required=True, metavar="VERB")
    start = verbs.add_parser("up", help="start it")
    start.add_argument("--hosts", type=int, default=2, help="worker hosts (default: 2)")
    start.add_argument("--cpus", type=int, default=1, help="logical CPUs of each (default: 1)")
    start.add_argument("--patience", type=float, default=240, help="seconds until it must answer (default: 240)")
    start.add_argument("--shared", action="store_true", help="as without root: nodes that share this machine's address")
    start.set_defaults(run=up)
    end = verbs.add_parser("down", help="end it and delete its folder")
    end.add_argument("--keep", action="store_true", help="leave what the hosts wrote, until a lab comes up there again")
    end.set_defaults(run=down)
    verbs.add_parser("status", help="who runs, who answers").set_defaults(run=status)
    verbs.add_parser("env", help="print the desk's environment, secrets included").set_defaults(run=show_environment)
    for name, function in (("kill", kill), ("cut", cut), ("heal", heal)):
        verb = verbs.add_parser(name, help=(function.__doc__ or "").split(".")[0].lower())
        verb.add_argument("host")
        verb.set_defaults(run=function)
    execute = verbs.add_parser("exec", help="run a command with the desk's network and environment")
    execute.add_argument("words", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    execute.set_defaults(run=run_at_the_desk)
    return top


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def up(arguments: argparse.Namespace) -> None:
    """Start everything and wait until all of it answers."""
    folder = arguments.folder.absolute()
    if (folder / "lab.json").is_file():
        raise LabError(f"there is a lab in {folder}: `python cluster/lab down` ends it")
    if arguments.hosts < 1 or arguments.hosts > 150 or arguments.cpus < 1:
        raise LabError("a lab has 1 to 150 hosts of at least one CPU")
    why_not = "shared" if arguments.shared else fabric.reason_against()
    if not why_not and (other := fabric.other_lab(folder)):
        raise LabError(f"a lab is up in {other}: `python cluster/lab --folder {other} down` ends it")
    lab = Lab(folder, arguments.hosts, arguments.cpus, separate=not why_not)
    for name in ("ray", "weed", "mlflow"):
        programs.program(name)
    if not programs.has_artifacts():
        raise LabError("MLflow stores artifacts on S3 by boto3: install it (extra mlflow-server)")
    if sockets := programs.sockets_in_the_way():
        raise LabError(f"another user's SeaweedFS has left {sockets[0]}: end it, and have them delete the file")
    if why_not:
        say(f"{why_not}: all nodes share this machine's address and processes; nothing can be cut")
    if not programs.has_passwords():
        say("Flask-WTF is not installed (extra mlflow-server): MLflow runs without passwords")
    if (ended := folder / ENDED).is_file():
        shutil.rmtree(folder / "hosts", ignore_errors=True)
        ended.unlink()
    lab.save()
    try:
        if lab.separate:
            fabric.build(lab)
        for host in lab.names:
            start(lab, host)
        wait(lab, arguments.patience)
    except BaseException:
        say(f"the lab did not come up; logs: {folder}/hosts/*/log; `python cluster/lab down` clears it away")
        raise
    say("up; try: python cluster/lab exec -- raygseg submit benchmark list")


def start(lab: Lab, host: str) -> None:
    """Start what the host runs."""
    if not lab.separate and host not in (S3, MLFLOW):
        if host == HEAD:
            one_machine.start(lab)
        return
    command, environment = programs.commands(lab, host)
    run = fabric.start if lab.separate else one_machine.start_service
    lab.note_process(host, run(lab, host, command, environment))


def wait(lab: Lab, patience: float) -> None:
    """Until services and all nodes answer. Raises LabError naming what does not."""
    began = time.monotonic()
    while True:
        found = probe(lab)
        lacking = [name for name in (HEAD, S3, MLFLOW) if not found[name]]
        lacking += [name for name in lab.workers if found["nodes"].get(name) != "ALIVE"]
        if not lacking:
            say(f"{len(lab.workers)} hosts, S3 and MLflow answer after {time.monotonic() - began:.0f} s")
            return
        dead = [host for host in lab.names if not runs(lab, host)]
        if dead or time.monotonic() > began + patience:
            raise LabError(f"no answer from {', '.join(lacking)}" + (f"; ended: {', '.join(dead)}" if dead else ""))
        time.sleep(0.5)


def probe(lab: Lab) -> dict[str, Any]:
    """Who answers at the desk: head, s3, mlflow, and Ray's state of each node by host."""
    urls = [f"http://{lab.address(host)}:{port}" for host, port in (
        (HEAD, programs.DASHBOARD), (S3, programs.S3_PORT), (MLFLOW, programs.MLFLOW_PORT))]  # fmt: skip
    script = str(Path(__file__).with_name("probe.py"))
    done = subprocess.run(
        _desk(lab, [sys.executable, "-I", script, *urls]), env=_environment(lab), capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def runs(lab: Lab, host: str) -> bool:
    """Whether the process does whose death is the host's."""
    if lab.separate or host in (S3, MLFLOW):
        return bool(lab.process(host))
    return one_machine.runs(lab, host)


def status(arguments: argparse.Namespace) -> int:
    """A line a host; exit code 1 where one does not answer."""
    lab = Lab.load(arguments.folder.absolute())
    found, well = probe(lab), True
    for host in lab.names:
        answers = found[host] if host in found else found["nodes"].get(host) == "ALIVE"
        faults = [] if answers else ["does not answer"]
        faults += [] if runs(lab, host) else ["dead"]
        faults += ["cut off"] if lab.separate and fabric.is_cut(host) else []
        # Ray's head says so for a while of a host that is gone.
        word = "answers" if not faults else ", ".join(faults) + (" (Ray counts on it still)" if answers else "")
        well = well and not faults
        sys.stdout.write(f"{host:8} {lab.address(host):12} {word}\n")
    return 0 if well else 1


def kill(arguments: argparse.Namespace) -> None:
    """Kill a host. SIGKILL to everything on it."""
    lab = Lab.load(arguments.folder.absolute())
    host = lab.check(arguments.host)
    if not lab.separate and host not in (S3, MLFLOW):
        one_machine.kill(lab, host)
    elif not lab.kill_process(host):
        raise LabError(f"{host} is dead already; `python cluster/lab heal {host}` starts it")


def cut(arguments: argparse.Namespace) -> None:
    """Cut a host off the network. It goes on running alone."""
    lab = Lab.load(arguments.folder.absolute())
    host = lab.check(arguments.host)
    if not lab.separate:
        raise LabError("nodes that share one address cannot be cut off: run the lab as root")
    fabric.cut(host)


def heal(arguments: argparse.Namespace) -> None:
    """Heal a host. Its plug is put back; where it is dead, it starts again."""
    lab = Lab.load(arguments.folder.absolute())
    host = lab.check(arguments.host)
    if not lab.separate and host not in (S3, MLFLOW):
        raise LabError("a killed node of a shared machine does not come back: run the lab as root, or down and up")
    if lab.separate:
        fabric.mend(host)
    if not lab.process(host):
        start(lab, host)


def down(arguments: argparse.Namespace) -> None:
    """End all processes of the lab, remove its network; delete its folder unless asked to keep what the hosts wrote."""
    folder = arguments.folder.absolute()
    lab = Lab.load(folder)
    for host in reversed(lab.names):
        lab.kill_process(host)
    if lab.separate:
        fabric.tear_down()
    else:
        one_machine.stop(lab)
    if arguments.keep:
        shutil.rmtree(folder / "secrets", ignore_errors=True)
        (folder / "lab.json").rename(folder / ENDED)
        say(f"kept: {folder}/hosts")
    else:
        shutil.rmtree(folder)


def show_environment(arguments: argparse.Namespace) -> None:
    """`export NAME=VALUE` lines."""
    for name, value in programs.desk_environment(Lab.load(arguments.folder.absolute())).items():
        sys.stdout.write(f"export {name}='{value}'\n")


def run_at_the_desk(arguments: argparse.Namespace) -> int:
    """Run a command; its exit code."""
    lab = Lab.load(arguments.folder.absolute())
    words = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
    if not words:
        raise LabError("give a command: python cluster/lab exec -- raygseg doctor")
    process = subprocess.Popen(_desk(lab, words), env=_environment(lab))
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # the terminal has told the command too, which decides
            continue


def _desk(lab: Lab, words: Sequence[str]) -> list[str]:
    return fabric.at(DESK, words) if lab.separate else list(words)


def _environment(lab: Lab) -> dict[str, str]:
    """The caller's environment with the desk's over it."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_", "MLFLOW_"))}
    own["PATH"] = f"{programs.folder_of_programs()}:{own.get('PATH', '')}"
    return {**own, "RAY_USAGE_STATS_ENABLED": "0", **programs.desk_environment(lab)}
