"""The lab's folder: which hosts there are, their secrets, logs and processes."""

from __future__ import annotations

import json
import os
import secrets
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

DEFAULT = Path("/var/tmp/raygseg-lab")
NETWORK = "10.77.0"
HEAD, DESK, S3, MLFLOW = "head", "desk", "s3", "mlflow"
_LAST = {HEAD: 1, S3: 201, MLFLOW: 202, DESK: 250}


class LabError(Exception):
    """Something a user of the lab can mend; the text says how."""


@dataclass(frozen=True)
class Lab:
    """What `up` was asked for.

    Attributes:
        folder: holds everything of the lab.
        hosts: number of worker hosts: h1, h2, ...
        cpus: logical CPUs of each.
        separate: hosts have their own network and processes; False without root, where all share this machine's.
    """

    folder: Path
    hosts: int = 2
    cpus: int = 1
    separate: bool = True

    @classmethod
    def load(cls, folder: Path) -> Lab:
        """Raises LabError where there is no lab."""
        file = folder / "lab.json"
        if not file.is_file():
            raise LabError(f"no lab in {folder}: start one with `python cluster/lab up`")
        raw = json.loads(file.read_text())
        return cls(folder, raw["hosts"], raw["cpus"], raw["separate"])

    def save(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)  # secrets and the data of runs are nobody else's
        (self.folder / "lab.json").write_text(json.dumps({**asdict(self), "folder": str(self.folder)}, indent=1))

    @property
    def workers(self) -> list[str]:
        return [f"h{number}" for number in range(1, self.hosts + 1)]

    @property
    def names(self) -> list[str]:
        """Every host that runs something, services first."""
        return [S3, MLFLOW, HEAD, *self.workers]

    def address(self, host: str) -> str:
        if not self.separate:
            return "127.0.0.1"
        return f"{NETWORK}.{_LAST.get(host) or 1 + int(host.removeprefix('h'))}"

    def check(self, host: str) -> str:
        """The name. Raises LabError where there is no such host."""
        if host not in self.names:
            raise LabError(f"there is no host '{host}'; use one of {', '.join(self.names)}")
        return host

    def own(self, host: str) -> Path:
        """A folder of the host's own."""
        folder = self.folder / "hosts" / host
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def log(self, host: str) -> Path:
        return self.own(host) / "log"

    # --- secrets ---------------------------------------------------------------------------------

    def secret(self, name: str) -> str:
        """A secret of this lab, made at first use, readable by its owner alone."""
        file = self.secret_file(name)
        return file.read_text()

    def secret_file(self, name: str) -> Path:
        folder = self.folder / "secrets"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = folder / name
        if not file.is_file():
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
                opened.write(secrets.token_hex(24))
        return file

    # --- processes -------------------------------------------------------------------------------

    def note_process(self, host: str, pid: int) -> None:
        (self.own(host) / "pid").write_text(f"{pid} {started(pid)}")

    def process(self, host: str) -> int:
        """Id of the process whose death is the host's; 0 where it does not run."""
        file = self.folder / "hosts" / host / "pid"
        if not file.is_file():
            return 0
        pid, began = file.read_text().split()
        return int(pid) if started(int(pid)) == began != "0" else 0

    def kill_process(self, host: str) -> bool:
        """SIGKILL, and wait until it is gone; whether it ran."""
        pid = self.process(host)
        if not pid:
            return False
        try:
            # Without separate hosts a service is the leader of its own process group.
            os.kill(pid, signal.SIGKILL) if self.separate else os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        deadline = time.monotonic() + 10
        while self.process(host) and time.monotonic() < deadline:
            time.sleep(0.02)
        return True


def started(pid: int) -> str:
    """When a process began, in clock ticks: tells it from a later one with its id. 0 for the dead and zombies."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "0"
    return "0" if fields[0] in "ZX" else fields[19]
