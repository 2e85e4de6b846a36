"""The model registry: bundles in, as pyfunc models whose code is ours and never from an artifact.

A version keeps the bundle folder as it is (`loader_module` + `data_path`), its card as description, and tags
with kind, fingerprints, figures and the checksum of `checksums.json`, by which it is known again.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from raygseg.bundle import CARD, CHECKSUMS, CONFIG, LABELS, file_sha256, verify_bundle
from raygseg.errors import CheckpointError
from raygseg.labels import LabelSpace
from raygseg.tracking.parameters import cut, safe_key
from raygseg.tracking.promotion import RULE, Decision, crown_newest, promote
from raygseg.tracking.retrieval import pull, resolve
from raygseg.tracking.signatures import requirements, signature
from raygseg.tracking.store import connect, experiment_id, plain_errors, resolve_tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

__all__ = [
    "Decision",
    "ModelVersionInfo",
    "crown_newest",
    "find_version",
    "promote",
    "pull",
    "register_bundle",
    "resolve",
]

# By name only: the module is on a floor above and is imported by whoever loads the model.
LOADER_MODULE = "raygseg.pipelines.serving"
_MAX_DESCRIPTION = 5000


@dataclass(frozen=True)
class ModelVersionInfo:
    """A registered version. `uri` is `models:/NAME/VERSION`; `created` is False if it was there already."""

    name: str
    version: str
    kind: str
    checksum: str
    run_id: str
    created: bool = True

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"


def register_bundle(
    bundle_path: str | Path,
    name: str,
    *,
    loader_module: str = LOADER_MODULE,
    run_id: str = "",
    labels: LabelSpace | None = None,
    metrics: Mapping[str, float] | None = None,
    tracking_uri: str = "",
    experiment: str = "raygseg",
) -> ModelVersionInfo:
    """Register a verified bundle folder as the next version of `name`.

    The same bundle again gives the version it already has. `labels` and `metrics` default to the
    bundle's own. Without a `run_id`, a short run in `experiment` stands for whoever made the bundle.
    Raises CheckpointError (a damaged bundle), RegistryError, StorageError, MissingEnvironmentError.
    """
    folder = Path(bundle_path)
    verify_bundle(folder)
    document = _document(folder)
    kind, checksum = str(document["kind"]), file_sha256(folder / CHECKSUMS)
    facts: Mapping[str, Any] = document.get("facts") or {}
    if labels is None and (folder / LABELS).is_file():
        labels = LabelSpace.load(folder / LABELS)
    tags = _tags(kind, checksum, facts, labels, facts.get("metrics") or {} if metrics is None else metrics)
    uri = resolve_tracking_uri(tracking_uri)
    client = connect(uri)
    with plain_errors(uri, f"registering {folder} as '{name}'"):
        _ensure_model(client, name)
        known = _version_with(client, name, checksum)
        if known is not None:
            return ModelVersionInfo(name, known, kind, checksum, run_id, created=False)
        run_id = run_id or _registering_run(client, experiment_id(client, uri, experiment), name)
        logged = _log_model(client, folder, name, kind, loader_module, run_id)
        # Not `models:/ID` as source: a local store would look that up in the process-wide store.
        version = client.create_model_version(
            name, source=logged.artifact_location, run_id=run_id, model_id=logged.model_id, tags=tags,
            description=cut(_card(folder), _MAX_DESCRIPTION),
        )  # fmt: skip
    return ModelVersionInfo(name, str(version.version), kind, checksum, run_id)


def find_version(bundle_path: str | Path, name: str, tracking_uri: str = "") -> str | None:
    """The newest version of `name` that holds exactly this bundle, or None."""
    uri = resolve_tracking_uri(tracking_uri)
    with plain_errors(uri, f"looking for '{name}'"):
        return _version_with(connect(uri), name, file_sha256(Path(bundle_path) / CHECKSUMS))


def _document(folder: Path) -> Mapping[str, Any]:
    try:
        document = yaml.safe_load((folder / CONFIG).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise CheckpointError(f"{folder / CONFIG}: cannot be read ({error})", "write the bundle again") from error
    if not isinstance(document, Mapping) or "kind" not in document:
        raise CheckpointError(f"{folder / CONFIG}: no key 'kind'", "write the bundle again")
    return document


def _card(folder: Path) -> str:
    return (folder / CARD).read_text() if (folder / CARD).is_file() else ""


def _tags(
    kind: str, checksum: str, facts: Mapping[str, Any], labels: LabelSpace | None, metrics: Mapping[str, float]
) -> dict[str, str]:
    tags = {"raygseg.kind": kind, "raygseg.checksum": checksum}
    for key in ("fingerprint", "data_fingerprint", "nimg"):
        if facts.get(key):
            tags[f"raygseg.{key}"] = cut(str(facts[key]))
    data = facts.get("data")
    for role, source in data.items() if isinstance(data, Mapping) else ():
        if isinstance(source, Mapping) and source.get("fingerprint"):
            tags[safe_key(f"raygseg.data.{role}.fingerprint")] = cut(str(source["fingerprint"]))
    if labels is not None:
        tags["raygseg.classes"] = cut(", ".join(labels.names))
    return tags | {safe_key(f"raygseg.metric.{key}"): f"{float(value):.6g}" for key, value in metrics.items()}


def _ensure_model(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description=RULE)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _version_with(client: MlflowClient, name: str, checksum: str) -> str | None:
    found = client.search_model_versions(f"name = '{name}' AND tags.`raygseg.checksum` = '{checksum}'")
    return str(max(int(v.version) for v in found)) if found else None


def _registering_run(client: MlflowClient, experiment: str, name: str) -> str:
    run_id = str(client.create_run(experiment, run_name=f"register {name}").info.run_id)
    client.set_terminated(run_id)
    return run_id


def _log_model(
    client: MlflowClient, folder: Path, name: str, kind: str, loader_module: str, run_id: str
) -> LoggedModel:
    """Upload the bundle as a pyfunc model of the run; MLflow's record of it.

    Through the client, not `mlflow.pyfunc.log_model`: that one knows only the process-wide store and
    puts a finished run's model into whatever experiment is current.
    """
    import mlflow.pyfunc
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    pyfunc_signature = signature(kind)
    experiment = client.get_run(run_id).info.experiment_id
    logged = client.create_logged_model(experiment, name=safe_key(name), source_run_id=run_id, model_type=kind)
    try:
        with tempfile.TemporaryDirectory(prefix="raygseg-model-") as temporary, warnings.catch_warnings():
            # MLflow asks for an input example, and would store pictures as JSON for it.
            warnings.simplefilter("ignore", UserWarning)
            target = str(Path(temporary) / "model")
            mlflow.pyfunc.save_model(
                target,
                loader_module=loader_module,
                data_path=str(folder.resolve()),
                signature=pyfunc_signature,
                pip_requirements=requirements(),
                mlflow_model=Model(
                    artifact_path=logged.artifact_location,
                    run_id=run_id,
                    model_id=logged.model_id,
                    model_uuid=logged.model_id,
                ),
            )
            client.log_model_artifacts(logged.model_id, target)
    except BaseException:
        client.finalize_logged_model(logged.model_id, "FAILED")
        raise
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return logged
