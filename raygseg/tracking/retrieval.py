"""Bundles out of the registry, a folder or S3: found by address, downloaded, verified, then moved into place."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from raygseg.bundle import CHECKSUMS, file_sha256, verify_bundle
from raygseg.data import object_store
from raygseg.errors import CheckpointError, RegistryError, StorageError
from raygseg.tracking.promotion import CHAMPION
from raygseg.tracking.store import connect, plain_errors, quieten, resolve_tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

SCHEME = "models:/"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]*")


def resolve(uri: str, tracking_uri: str = "", cache: str | Path | None = None) -> Path:
    """A local, verified bundle folder for an address.

    `models:/NAME@ALIAS`, `models:/NAME/VERSION` (or `/latest`) and `s3://` are downloaded once into `cache`
    (default ~/.cache/raygseg/models); a folder is itself. Raises RegistryError, StorageError,
    CheckpointError (a file that differs), MissingEnvironmentError (no server).
    """
    if uri.startswith(SCHEME):
        return _cached(uri, *_registered(uri, tracking_uri), cache)
    if object_store.is_s3(uri):
        checksums = object_store.read_bytes(object_store.join(uri, CHECKSUMS))
        digest = hashlib.sha256(checksums).hexdigest()
        name = f"{uri.rstrip('/').rsplit('/', 1)[-1]}-{digest[:16]}"
        return _cached(uri, name, digest, lambda folder: _download_s3(uri, folder), cache)
    folder = object_store.local_path(uri)
    if not folder.is_dir():
        hint = "give a bundle folder, s3://BUCKET/PREFIX or models:/NAME@ALIAS"
        if _NAME.fullmatch(uri):
            hint += f"; for the registry's model write {SCHEME}{uri}@{CHAMPION}"
        raise CheckpointError(f"{uri}: no such bundle folder", hint)
    verify_bundle(folder)
    return folder


def pull(name_or_uri: str, output: str | Path, tracking_uri: str = "") -> Path:
    """Copy a bundle to the folder `output`, whole and verified or not at all; `output`'s path.

    A plain NAME that is no folder means its champion. An older bundle in `output` is replaced;
    anything else there is refused with StorageError. Other errors as for `resolve`.
    """
    is_name = _NAME.fullmatch(name_or_uri) is not None and not Path(name_or_uri).is_dir()
    uri = f"{SCHEME}{name_or_uri}@{CHAMPION}" if is_name else name_or_uri
    target = Path(output)
    if target.exists() and not (target / CHECKSUMS).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise StorageError(f"{target}: exists and is not a bundle", "give a new folder, or empty this one")
    if uri.startswith(SCHEME):
        _, digest, download = _registered(uri, tracking_uri)
    elif object_store.is_s3(uri):
        digest, download = "", lambda folder: _download_s3(uri, folder)
    else:
        source = resolve(uri)
        digest, download = "", lambda folder: shutil.copytree(source, folder, dirs_exist_ok=True)
    return _into_place(target, uri, digest, download)


Download = Callable[[Path], object]


def _into_place(target: Path, origin: str, digest: str, download: Download) -> Path:
    """Download beside the target, verify, rename; nothing is left behind by a failure.

    origin: the address, for messages. digest: sha256 that the checksum list must have; empty where
    nobody recorded one.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise StorageError(f"{target}: cannot be written ({error})", "give another output folder") from error
    try:
        fresh, old = staging / "new", staging / "old"
        fresh.mkdir()
        download(fresh)
        _verify(fresh, origin)
        if digest and file_sha256(fresh / CHECKSUMS) != digest:
            raise CheckpointError(
                f"{origin}/{CHECKSUMS}: differs from the checksum in the registry (altered after registration)",
                "register the bundle again from its run folder",
            )
        if target.exists():
            os.replace(target, old)
        os.replace(fresh, target)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"{target}: cannot be written ({error})", "check free space and rights") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def _verify(fresh: Path, origin: str) -> None:
    """`verify_bundle`, with the address in the message instead of a staging folder that is gone by then."""
    try:
        verify_bundle(fresh)
    except CheckpointError as error:
        raise CheckpointError(error.message.replace(str(fresh), origin), error.hint) from error


def _cached(uri: str, name: str, digest: str, download: Download, cache: str | Path | None) -> Path:
    """The cache's copy of a bundle under a name that says which one it is, downloaded if need be."""
    root = Path(cache) if cache else Path.home() / ".cache" / "raygseg" / "models"
    target = root / name
    if target.is_dir():
        try:
            verify_bundle(target)
            return target
        except CheckpointError:
            # Damaged since it was downloaded: the source is asked again, and verified again.
            shutil.rmtree(target, ignore_errors=True)
    return _into_place(target, uri, digest, download)


def _download_s3(uri: str, folder: Path) -> None:
    for entry in object_store.list_files(uri):
        file = folder / entry.name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(object_store.read_bytes(object_store.join(uri, entry.name)))


def _registered(uri: str, tracking_uri: str) -> tuple[str, str, Download]:
    """(name in the cache, recorded checksum or empty, how to download it) of a `models:/` address."""
    store = resolve_tracking_uri(tracking_uri)
    client = connect(store)
    with plain_errors(store, f"looking up {uri}"):
        version = _version(client, uri)
    digest = str(version.tags.get("raygseg.checksum", ""))
    # Versions that were registered elsewhere have no checksum; where they lie then tells them apart.
    mark = digest or hashlib.sha256(f"{store}{version.source}".encode()).hexdigest()
    address = f"{SCHEME}{version.name}/{version.version}"

    def download(folder: Path) -> None:
        with plain_errors(store, f"downloading {address}"):
            source = str(client.get_model_version_download_uri(version.name, str(version.version)))
            if source.startswith(SCHEME):  # a logged model by its id
                source = str(client.get_logged_model(source.removeprefix(SCHEME)).artifact_location)
            _download_model(store, source, address, folder)

    return f"{version.name}-{version.version}-{mark[:16]}", digest, download


def _download_model(store: str, source: str, address: str, folder: Path) -> None:
    """Fetch a model's files and keep its bundle; the model's own description is read as plain YAML.

    By the files' place and not by `models:/`, which MLflow looks up in the process-wide store.
    """
    quieten()
    import mlflow.artifacts

    with tempfile.TemporaryDirectory(prefix=".model-", dir=folder.parent) as temporary:
        model = Path(mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=temporary, tracking_uri=store))
        try:
            place = yaml.safe_load((model / "MLmodel").read_text())["flavors"]["python_function"]["data"]
        except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
            raise RegistryError(f"{address} holds no raygseg bundle", "pull a model that raygseg registered") from error
        bundle = (model / str(place)).resolve()
        if not bundle.is_relative_to(model.resolve()) or not bundle.is_dir():
            raise RegistryError(f"{address} holds no raygseg bundle", "pull a model that raygseg registered")
        shutil.copytree(bundle, folder, dirs_exist_ok=True)


def _version(client: MlflowClient, uri: str) -> Any:
    """MLflow's entity for `models:/NAME@ALIAS`, `models:/NAME/VERSION` or `models:/NAME/latest`."""
    from mlflow.exceptions import MlflowException

    match = re.fullmatch(r"models:/+([^@/]+)(?:@([^@/]+)|/([0-9]+|latest))", uri)
    if match is None:
        raise RegistryError(f"'{uri}' is no model address", f"write {SCHEME}NAME@{CHAMPION} or {SCHEME}NAME/3")
    name, alias, number = match.groups()
    try:
        model = client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        known = sorted(m.name for m in client.search_registered_models(max_results=100))
        raise RegistryError(
            f"no model '{name}' in the registry; it knows {', '.join(known) or 'none'}",
            "use one of these, or set MLFLOW_TRACKING_URI to the store that holds it",
        ) from error
    versions = {str(v.version): v for v in client.search_model_versions(f"name = '{name}'")}
    if alias is not None:
        if alias not in model.aliases:
            aliases = ", ".join(f"{a} (version {v})" for a, v in sorted(model.aliases.items()))
            raise RegistryError(
                f"model '{name}' has no alias '{alias}'; its aliases: {aliases or 'none'}",
                f"evaluate a version to make it {CHAMPION}, or ask for one of the versions {_listed(versions)}",
            )
        number = str(model.aliases[alias])
    elif number == "latest" and versions:
        number = max(versions, key=int)
    if number not in versions:
        raise RegistryError(f"model '{name}' has no version {number}", f"use one of {_listed(versions) or 'none yet'}")
    return versions[number]


def _listed(versions: dict[str, Any]) -> str:
    newest = sorted(versions, key=int, reverse=True)
    return ", ".join(newest[:10]) + (", …" if len(newest) > 10 else "")
