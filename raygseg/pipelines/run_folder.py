"""A run's folder: whose it is, and what it was told.

RUN/run.json      fingerprint and the configuration without `runtime`
RUN/config.yaml   the whole resolved configuration of the last start, which `raygseg train` reads back
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from raygseg.config.loader import changed_keys, fingerprint, identity, load_config, resolved_yaml
from raygseg.config.sections import Run
from raygseg.data import object_store
from raygseg.errors import DataError, FingerprintError
from raygseg.tracking.identity import RunSettings

RECORD, CONFIG = "run.json", "config.yaml"


def place_of(config: Run) -> str:
    """`runtime.output`, else runs/NAME; a local one absolute, since workers may start elsewhere."""
    place = config.runtime.output or f"runs/{config.name}"
    return place.rstrip("/") if object_store.is_s3(place) else str(object_store.local_path(place).absolute())


def claim(folder: str, config: Run) -> bool:
    """Make `folder` this configuration's, or find that it is already; True if it was.

    Raises:
        FingerprintError: it holds a run of another configuration; lists the changed keys.
        DataError: its run.json cannot be read.
    """
    record = object_store.join(folder, RECORD)
    known = object_store.exists(record)
    if known:
        _check(record, folder, config)
    else:
        document = {"fingerprint": fingerprint(config), "config": identity(config)}
        object_store.write_bytes(record, json.dumps(document, indent=1).encode())
    object_store.write_bytes(object_store.join(folder, CONFIG), resolved_yaml(config).encode())
    return known


def own_fingerprint(folder: str, config: Run) -> str:
    """What the checkpoints of the run in `folder` carry: its fingerprint when it was begun.

    It differs from today's where this version has keys that the one before lacked, all at their defaults here: those
    stand for what was done before there was a key.
    """
    record = object_store.join(folder, RECORD)
    if not object_store.exists(record):
        return fingerprint(config)
    theirs, before = _read(record)
    return theirs if _same(before, config) else fingerprint(config)


def _read(record: str) -> tuple[str, dict[str, Any]]:
    try:
        old: dict[str, Any] = json.loads(object_store.read_bytes(record))
        return str(old["fingerprint"]), dict(old["config"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{record}: not the record of a run", "delete the folder or choose another name") from error


def _same(before: dict[str, Any], config: Run) -> bool:
    """Whether what was told then means the same today."""
    try:
        return fingerprint(type(config).model_validate(before)) == fingerprint(config)
    except ValueError:  # keys that this version no longer has, or takes otherwise
        return False


def _check(record: str, folder: str, config: Run) -> None:
    theirs, before = _read(record)
    if theirs == fingerprint(config) or _same(before, config):
        return
    changes = changed_keys(before, identity(config)) or ["(keys that this version no longer has)"]
    raise FingerprintError(
        f"{folder} holds a run of another configuration; changed keys:\n    " + "\n    ".join(changes),
        f"choose another name or runtime.output, delete that folder, or go back to its {CONFIG}",
    )


def tracking_settings(config: Run, folder: str) -> RunSettings:
    """Which run of the experiment store `folder` is."""
    return RunSettings(
        name=config.name,
        fingerprint=own_fingerprint(folder, config),
        tracking_uri=config.runtime.tracking_uri,
        experiment=config.runtime.experiment,
        run_dir=folder,
        config=config.model_dump(mode="json"),
        tags={"kind": config.kind},
    )


def config_of(folder: str) -> Run:
    """What the run in `folder` was told at its last start. DataError where the folder is not a run's."""
    for name in (RECORD, CONFIG):
        if not object_store.exists(object_store.join(folder, name)):
            raise DataError(f"{folder} is not the folder of a run: no {name}", "name runs/NAME of `raygseg train`")
    place = object_store.join(folder, CONFIG)
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch, CONFIG)
        copy.write_bytes(object_store.read_bytes(place))
        return load_config(copy)
