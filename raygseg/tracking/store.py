"""Where MLflow keeps things: the store's address, a quiet client, and its errors in plain words.

The default is a sqlite file `runs/mlflow.db` with its artifacts in `runs/mlartifacts`; a server is
given as `http://HOST:PORT` through `runtime.tracking_uri` or `MLFLOW_TRACKING_URI`.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from raygseg.errors import ConfigError, MissingEnvironmentError, RaygsegError, RegistryError, StorageError

if TYPE_CHECKING:
    from mlflow import MlflowClient

DEFAULT_URI = "sqlite:///runs/mlflow.db"
ARTIFACT_FOLDER = "mlartifacts"
_SERVERS = ("http", "https", "databricks", "databricks-uc", "uc")
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # What a store hands out is data; a model that could only be unpickled is refused.
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # Requirements are given, never guessed from lock files of the folder we happen to stand in.
    "MLFLOW_UV_AUTO_DETECT": "false",
    # mlflow's own seven retries with doubling waits would hold a dead server's caller for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}


def resolve_tracking_uri(tracking_uri: str = "") -> str:
    """The store to use: the argument, else MLFLOW_TRACKING_URI, else `sqlite:///runs/mlflow.db`.

    A sqlite path is made absolute, so that every process of a run means the same file whatever its
    working directory. Raises ConfigError for a store that MLflow cannot use.
    """
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "") or DEFAULT_URI
    scheme = urlsplit(uri).scheme.split("+")[0]
    if scheme == "sqlite":
        return "sqlite:///" + str(_sqlite_file(uri))
    if scheme in _SERVERS or scheme in _DATABASES or uri.startswith("databricks"):
        return uri
    raise ConfigError(
        f"tracking_uri '{uri}': MLflow keeps no runs in plain folders or '{scheme or 'path'}:' stores",
        f"use '{DEFAULT_URI}' (a file) or 'http://HOST:PORT' (a server)",
    )


def _sqlite_file(uri: str) -> Path:
    path = uri.split("://", 1)[-1].split("?")[0]
    if path in ("", "/", "/:memory:"):
        raise ConfigError(f"tracking_uri '{uri}' names no file", f"use a file, e.g. '{DEFAULT_URI}'")
    return Path(path[1:]).expanduser().resolve()


def artifact_location(uri: str) -> str | None:
    """Folder for a new experiment's files: `mlartifacts` beside a sqlite file; None lets a server decide."""
    if not uri.startswith("sqlite:"):
        return None
    return (_sqlite_file(uri).parent / ARTIFACT_FOLDER).as_uri()


def quieten() -> None:
    """Import mlflow without telemetry, migration logs or pip warnings; settings of the user's own win."""
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    import mlflow  # noqa: F401  (configures its loggers on import; ours come after)

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # A dead server is warned about once, by us; every retry of every request is too much.
    for name in (
        "mlflow.utils.requirements_utils",
        "mlflow.utils.environment",
        "mlflow.models.model",
        "urllib3.connectionpool",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)


def connect(uri: str) -> MlflowClient:
    """A client of the store at the resolved `uri`; makes a sqlite file's folder.

    Raises StorageError where the folder cannot be made.
    """
    quieten()
    from mlflow import MlflowClient

    if uri.startswith("sqlite:"):
        folder = _sqlite_file(uri).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"{folder}: cannot hold the MLflow store ({error})", "give another tracking_uri"
            ) from error
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def experiment_id(client: MlflowClient, uri: str, name: str) -> str:
    """Id of the experiment `name`, made with our artifact folder where it is new."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifact_location(uri)))
        except MlflowException:
            # Another process made it in between; anything else shows as a missing experiment below.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise ConfigError(
            f"MLflow experiment '{name}' in {uri} was deleted", "restore it or set another runtime.experiment"
        )
    return str(found.experiment_id)


_REFUSALS = {401: "wants a user and a password, and ours are missing or wrong", 403: "does not allow this to our user"}


@contextlib.contextmanager
def plain_errors(uri: str, doing: str) -> Iterator[None]:
    """Turn mlflow's exceptions while `doing` something into RaygsegErrors that name the store.

    MissingEnvironmentError: the server does not answer or refuses us. StorageError: files. RegistryError: the rest.
    """
    quieten()
    from mlflow.exceptions import MlflowException

    try:
        yield
    except RaygsegError:
        raise
    except MlflowException as error:
        text = str(error)
        if "Max retries exceeded" in text or "timed out" in text or "Connection" in text:
            raise MissingEnvironmentError(
                f"{doing}: the MLflow server at {uri} does not answer",
                "start it, or set MLFLOW_TRACKING_URI / runtime.tracking_uri to one that runs",
            ) from error
        if refusal := next((words for code, words in _REFUSALS.items() if f"error code {code} " in text), ""):
            raise MissingEnvironmentError(
                f"{doing}: the MLflow server at {uri} {refusal}",
                "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to a user's who may",
            ) from error
        raise RegistryError(f"{doing}: {text.splitlines()[0][:300]}", f"look into the MLflow store at {uri}") from error
    except OSError as error:
        raise StorageError(f"{doing}: {error}", "check free space and rights of the store's folder") from error
