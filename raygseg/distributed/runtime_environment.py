"""Runtime environments of jobs: read one, and refuse at once what cannot work, with the reason.

Ray takes almost anything and fails minutes later on some host, or not at all. Nothing of Ray is imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from raygseg.errors import ConfigError

STOP_WAIT_SECONDS = 60  # for a stopped job to finish its step and save; Ray's own are 3
STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
_KEYS = ("env_vars", "py_modules", "config")
_INSTALLS = (
    "packages would be installed on every host at the job's start: without an index that waits for minutes and fails"
)
_REFUSED: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(("pip", "uv", "conda"), (_INSTALLS, "put the packages into cluster/Dockerfile")),
    "working_dir": ("submit packs the job's files itself", "name more of them with --include"),
    "excludes": ("submit packs what the job reads and nothing else", "leave it out"),
    "image_uri": ("an image excludes the files that a job brings", "give the nodes that image"),
    "container": ("a container excludes the files that a job brings", "give the nodes that image"),
}
_SECRET_NAME = re.compile(r"(?i)secret|password|passwd|token|access_?key|api_?key|credential")
_USER_INFO = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s:@]*:[^/\s@]+@")
# What a job must take from its cluster.
_CLUSTERS_OWN = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_JOB_CONFIG_JSON_ENV_VAR")


def read_runtime_environment(file: str | Path | None) -> dict[str, Any]:
    """The checked runtime environment of a YAML file (None: an empty one), with time to save when stopped.

    Raises ConfigError naming the file, the key and why it cannot work.
    """
    document: Any = {}
    if file is not None:
        try:
            document = yaml.safe_load(Path(file).read_text()) or {}
        except (OSError, yaml.YAMLError) as error:
            hint = "give a YAML file such as cluster/runtime-env.yaml"
            raise ConfigError(f"{file}: cannot be read as a runtime environment ({error})", hint) from error
    check_runtime_environment(document, str(file or "runtime environment"))
    variables = {STOP_WAIT: str(STOP_WAIT_SECONDS), **(document.get("env_vars") or {})}
    return {**document, "env_vars": variables}


def check_runtime_environment(document: Any, where: str) -> None:
    """Raise ConfigError for whatever cannot work or must not be shown."""
    if not isinstance(document, Mapping):
        raise ConfigError(f"{where}: not a mapping", f"write keys such as {', '.join(_KEYS)}")
    for key, value in document.items():
        if key in _REFUSED:
            reason, fix = _REFUSED[key]
            raise ConfigError(f"{where}: '{key}' cannot work here: {reason}", fix)
        if key not in _KEYS:
            raise ConfigError(f"{where}: '{key}' is no key of a job's runtime environment", f"use {', '.join(_KEYS)}")
        _CHECKS[key](value, f"{where}: {key}")


def _check_variables(variables: Any, where: str) -> None:
    if variables is None:
        return
    if not isinstance(variables, Mapping):
        raise ConfigError(f"{where}: not a mapping", 'write NAME: "text"')
    for name, text in variables.items():
        if not isinstance(text, str):
            raise ConfigError(f"{where}.{name}: {text!r} is not text", f'write it in quotes: {name}: "{text}"')
        if _SECRET_NAME.search(name):
            raise ConfigError(
                f"{where}.{name}: a secret would be shown to whoever may list the cluster's jobs",
                "set it in the environment of the cluster's nodes, or mount a file there",
            )
        if name in _CLUSTERS_OWN:
            raise ConfigError(f"{where}.{name}: a job takes it from its cluster", "leave it out")
        refuse_passwords([text], f"{where}.{name}")
    if STOP_WAIT in variables and not variables[STOP_WAIT].isdigit():
        raise ConfigError(f"{where}.{STOP_WAIT}: not a number of seconds", f'write "{STOP_WAIT_SECONDS}"')


def _check_modules(modules: Any, where: str) -> None:
    if not isinstance(modules, list):
        raise ConfigError(f"{where}: not a list", "write a list of folders")
    for module in modules:
        if "://" not in str(module) and not Path(str(module)).exists():
            raise ConfigError(f"{where}: '{module}' is not here", "correct the path")


def _check_config(config: Any, where: str) -> None:
    seconds = config.get("setup_timeout_seconds", 1) if isinstance(config, Mapping) else None
    if not isinstance(seconds, int) or seconds < 1:
        raise ConfigError(f"{where}: setup_timeout_seconds must be a number of seconds", "write 120, for example")


_CHECKS = {"env_vars": _check_variables, "py_modules": _check_modules, "config": _check_config}


def refuse_passwords(texts: Iterable[str], where: str) -> None:
    """Raise ConfigError for an address with a password in it; the text itself is not repeated."""
    if any(_USER_INFO.search(text) for text in texts):
        raise ConfigError(
            f"{where}: an address with a password in it would be shown to whoever may list the cluster's jobs",
            "take it out; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD where the job runs",
        )
