"""The lab of `cluster/lab` as drills use it: up, down, commands at its desk, and what runs on which host."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import raygseg
from raygseg.errors import MissingEnvironmentError, TrainingError

PROGRAM = Path(raygseg.__file__).resolve().parents[1] / "cluster" / "lab"
NAMESPACES = Path("/run/netns")
PREFIX = "rgs-"
PATIENCE_SECONDS = 600.0


class Rehearsal:
    """A running lab.

    Args:
        folder: the lab's. hosts: number of worker hosts of one CPU.
    """

    def __init__(self, folder: Path, hosts: int) -> None:
        self.folder, self.hosts = folder, [f"h{n}" for n in range(1, hosts + 1)]

    def __call__(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """One command of the lab. Raises MissingEnvironmentError with what it says where it fails."""
        done = subprocess.run(self.line(*words), capture_output=True, text=True, check=False)
        if check and done.returncode:
            said = done.stderr.strip().splitlines()[-1:] or [f"code {done.returncode}"]
            raise MissingEnvironmentError(f"the lab cannot {words[0]}: {said[0]}", f"logs: {self.folder}/hosts/*/log")
        return done

    def line(self, *words: str) -> list[str]:
        return [sys.executable, str(PROGRAM), "--folder", str(self.folder), *words]

    def address(self, host: str) -> str:
        """As the lab states it."""
        line = next(line for line in self("status", check=False).stdout.splitlines() if line.split()[0] == host)
        return line.split()[1]

    def at_desk(self, *words: str) -> Told:
        """Start a command with the desk's network and secrets."""
        return Told(self.line("exec", "--", *words))

    def asked(self, *words: str) -> dict[str, Any]:
        """The answer to a question of `at_desk`."""
        said = self("exec", "--", sys.executable, "-m", "raygseg.benchmarks.support.at_desk", *words).stdout
        answer: dict[str, Any] = json.loads(said.splitlines()[-1])
        return answer

    def processes(self, title: str) -> dict[str, list[int]]:
        """Processes whose command line holds `title`, by the host that they run on; Linux only."""
        spaces = {os.stat(file).st_ino: file.name.removeprefix(PREFIX) for file in NAMESPACES.glob(f"{PREFIX}*")}
        found: dict[str, list[int]] = {}
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                command, space = (folder / "cmdline").read_bytes(), os.stat(folder / "ns" / "net").st_ino
            except OSError:  # ended meanwhile
                continue
            if space in spaces and title in command.replace(b"\0", b" ").decode(errors="replace"):
                found.setdefault(spaces[space], []).append(int(folder.name))
        return found

    def all_answer(self) -> bool:
        return self("status", check=False).returncode == 0

    def heal(self, *hosts: str) -> None:
        """Put back and start again; waits until every host answers."""
        for host in hosts:
            self("heal", host)
        wait_until(self.all_answer, "all hosts answer", pause=2.0)


@contextmanager
def rehearsal(folder: str, hosts: int) -> Iterator[Rehearsal]:
    """A lab for the time of a drill; one that is up already in `folder` is used and left.

    Of a drill that fails the folder stays, with what the hosts wrote.

    Raises MissingEnvironmentError without the lab's program, or where it does not come up.
    """
    if not PROGRAM.is_dir():
        raise MissingEnvironmentError(f"{PROGRAM} is not there", "run this from a checkout of the project")
    lab = Rehearsal(Path(folder).absolute(), hosts)
    if (lab.folder / "lab.json").is_file():
        yield lab
        return
    try:
        lab("up", "--hosts", str(hosts))
        yield lab
    except BaseException:
        lab("down", "--keep", check=False)
        raise
    lab("down", check=False)


class Told:
    """A process whose lines are kept with the time at which they came."""

    def __init__(self, command: Sequence[str]) -> None:
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        self.lines: list[tuple[float, str]] = []
        self._reader = threading.Thread(target=self._read, name="lines", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append((time.time(), line.rstrip("\n")))

    def find(self, wanted: Callable[[str], Any], after: int = 0) -> Any:
        """The first true answer to a line from line `after` on; None if there is none."""
        return next((answer for _, line in self.lines[after:] if (answer := wanted(line))), None)

    def wait_for(self, wanted: Callable[[str], Any], what: str, after: int = 0) -> Any:
        """As `find`, waiting. Raises TrainingError with the last lines where the process ends first."""

        def look() -> Any:
            found = self.find(wanted, after)
            if not found and self.process.poll() is not None:
                self._reader.join(5)
                found = self.find(wanted, after)
                if not found:
                    raise TrainingError(f"it ended (code {self.process.returncode}) before: {what}", self.last())
            return found

        return wait_until(look, what)

    def interrupt(self) -> None:
        """Ctrl-C, as a terminal gives it: to the process and all that it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> int:
        """Wait; its exit code."""
        code = self.process.wait(PATIENCE_SECONDS)
        self._reader.join(5)
        return code

    def last(self, count: int = 12) -> str:
        return " | ".join(line for _, line in self.lines[-count:])


def wait_until(reached: Callable[[], Any], what: str, pause: float = 0.1, seconds: float = PATIENCE_SECONDS) -> Any:
    """The first true answer. Raises TrainingError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (answer := reached()):
        if time.monotonic() > deadline:
            raise TrainingError(f"not reached in {seconds:g} s: {what}", "free the machine's cores")
        time.sleep(pause)
    return answer
