"""Submit a verb to a cluster: check, pack, start, follow, and end as the job ends."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raygseg.config.loader import files_of
from raygseg.data.object_store import is_s3
from raygseg.distributed.packing import Pack, check_inputs, inputs_of, write_pack
from raygseg.distributed.runtime_environment import read_runtime_environment, refuse_passwords
from raygseg.errors import ConfigError

PACKS = Path("runs/packs")
RUNTIME_ENV = Path("cluster/runtime-env.yaml")
CODE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Request:
    """What to submit, checked by whoever knows the verb.

    Attributes:
        verb: train, generate, ...
        words: its words, as on the command line.
        settings: what they mean: the resolved configuration, or the verb's parameters, JSON values.
        config_file: the configuration among the words; empty where there is none.
        outputs: key and place of everything the verb writes; an empty place is the default below runs/.
        include: further files and folders to take along.
        runtime_env: file; empty: cluster/runtime-env.yaml where there is one.
        address: of the cluster's dashboard; empty: from the environment.
        job: name of the job; empty: made up.
    """

    verb: str
    words: Sequence[str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    config_file: str = ""
    outputs: Mapping[str, str] = field(default_factory=dict)
    include: Sequence[str] = ()
    runtime_env: str = ""
    address: str = ""
    job: str = ""


@dataclass(frozen=True)
class Prepared:
    """A job that could start: its name, its files, its environment (with the files), its command, its cluster.

    `elsewhere`: inputs with absolute paths, which every host must have.
    """

    job: str
    pack: Pack
    runtime_env: Mapping[str, Any]
    entrypoint: str
    address: str
    elsewhere: Sequence[str] = ()

    @property
    def ray_command(self) -> str:
        """The `ray job submit` line that does the same, but for following, stopping and the exit code."""
        rest = {key: value for key, value in self.runtime_env.items() if key != "working_dir"}
        words = ["ray", "job", "submit", "--address", self.address, "--submission-id", self.job]
        words += ["--working-dir", str(self.pack.file), "--runtime-env-json", json.dumps(rest, sort_keys=True)]
        return f"{shlex.join(words)} -- {self.entrypoint}"


def prepare(request: Request, root: Path | None = None) -> Prepared:
    """Check the request and pack its files; nothing of the cluster is touched.

    Raises:
        ConfigError: an output would be lost with the job's folder, an input is not here, the files are too
            large, the runtime environment cannot work, or a password would be shown.
    """
    from raygseg.distributed.submission import api_address

    root = (root or Path.cwd()).absolute()
    refuse_passwords([*request.words, json.dumps(request.settings, default=str)], "the job's words and configuration")
    file = request.runtime_env or (str(root / RUNTIME_ENV) if (root / RUNTIME_ENV).is_file() else "")
    environment = read_runtime_environment(file or None)
    check_outputs(request.outputs)
    packed, elsewhere = check_inputs(inputs_of(request.settings), root)
    more, absolute = check_inputs({f"--include {place}": place for place in request.include}, root)
    configs = files_of(request.config_file) if request.config_file else []
    things = [*packed, *more, *(Path(os.path.relpath(f, root)) for f in configs)]
    words = [os.path.relpath(w, root) if w == request.config_file else w for w in request.words]
    address = api_address(request.address)
    pack = write_pack(root / PACKS, root, things, CODE)
    script = f"jobs/{request.verb}.py"
    start = ["python", script] if (CODE / script).is_file() else ["python", "-m", "raygseg.cli.app", request.verb]
    job = request.job or f"{request.verb}-{time.strftime('%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    runtime_env = {**environment, "working_dir": str(pack.file)}
    return Prepared(job, pack, runtime_env, shlex.join([*start, *words]), address, [*elsewhere, *absolute])


def check_outputs(outputs: Mapping[str, str]) -> None:
    """Raise ConfigError for a place below the job's own folder, which Ray deletes after the job."""
    for key, place in outputs.items():
        if not is_s3(place) and not os.path.isabs(place.removeprefix("file://")):
            shown = f"'{place}'" if place else "empty, which means a folder below runs/"
            raise ConfigError(
                f"{key} is {shown}: it would lie in the job's own folder, which Ray deletes when the job has ended",
                f"give a place that all hosts reach: {key}=s3://BUCKET/PREFIX, or an absolute path on a shared disk",
            )


def run(
    prepared: Prepared, write: Callable[[str], None], tell: Callable[[str], None], wait: bool = True
) -> tuple[int, str]:
    """Start the job and follow it to its end.

    The first Ctrl-C stops the job, which saves; the second leaves it to itself.

    Args:
        write: gets the job's log. tell: gets remarks of ours.
        wait: False returns as soon as the cluster has taken the job.

    Returns:
        The code to leave with (the job's own) and one sentence about the end.

    Raises:
        MissingEnvironmentError: no cluster, no token, or the head is gone for longer than a minute.
    """
    from raygseg.distributed.submission import Submitted
    from raygseg.engine.interrupts import StopRequest

    submitted = Submitted.submit(prepared.address, prepared.job, prepared.entrypoint, prepared.runtime_env)
    if not wait:
        return 0, f"{prepared.job} was taken; ray job logs --follow --address {prepared.address} {prepared.job}"
    tell(f"{prepared.job} runs; Ctrl-C stops it, with a checkpoint")

    def stopping() -> None:
        tell("stopping: the job finishes its step and saves; Ctrl-C again leaves it to itself")

    with StopRequest() as stop:
        outcome = submitted.follow(write, stop, stopping)
    how = f"{prepared.job} {outcome.status.lower()} (exit code {outcome.exit_code})"
    return outcome.exit_code, how if outcome.exit_code in (0, 130) else f"{how}: {_first_line(outcome.message)}"


def _first_line(message: str) -> str:
    return next((line.strip() for line in message.splitlines() if line.strip()), "no reason given")
