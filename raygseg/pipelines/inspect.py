"""What a path holds: a bundle, a checkpoint, a run, a pair set, prepared pictures, pictures. Nothing from it is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raygseg.bundle import CHECKSUMS, WEIGHTS, read_bundle
from raygseg.data import object_store
from raygseg.data.preparation.prepared_set import RECORD, read_record
from raygseg.errors import DataError
from raygseg.tracking.retrieval import SCHEME, resolve

CHECKPOINT_DOCUMENT = "state.json"


def inspect(path: str) -> dict[str, Any]:
    """Facts about `path` (folder, `s3://` or `models:/NAME@alias`), ready for a table or JSON.

    Raises:
        CheckpointError: a damaged bundle or checkpoint, naming the file.
        DataError: nothing that raygseg knows.
    """
    if path.startswith(SCHEME) or _has(path, CHECKSUMS):
        return _bundle(resolve(path))
    if _has(path, CHECKPOINT_DOCUMENT):
        return _checkpoint(path)
    if _has(path, "manifest.json"):
        return _pairs(path)
    if _has(path, RECORD):
        return _prepared(path)
    checkpoints = _checkpoints(path)
    if checkpoints:
        return {"what": "a run's folder", "checkpoints": checkpoints, **_checkpoint(checkpoints[-1])}
    return _pictures(path)


def _has(path: str, name: str) -> bool:
    return object_store.exists(object_store.join(path, name))


def _bundle(folder: Path) -> dict[str, Any]:
    bundle = read_bundle(folder)
    return {
        "what": f"a bundle: {bundle.kind}, every checksum right",
        "build": dict(bundle.build),
        "parameters": sum(tensor.numel() for tensor in bundle.tensors.values()),
        "bytes": (folder / WEIGHTS).stat().st_size,
        "classes": list(bundle.labels.names) if bundle.labels else None,
        "facts": dict(bundle.facts),
    }


def _checkpoint(path: str) -> dict[str, Any]:
    from raygseg.engine.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(path)
    modules = checkpoint.state.get("recipe", {}).get("modules", {})
    return {
        "what": "a checkpoint, whole",
        "parameters": {name: sum(tensor.numel() for tensor in state.values()) for name, state in modules.items()},
        **{key: value for key, value in checkpoint.facts.items() if key != "state"},
    }


def _checkpoints(path: str) -> list[str]:
    from raygseg.engine.checkpoint import CheckpointFolder

    folder = CheckpointFolder(path)
    return [object_store.join(path, name) for name in folder.names()]


def _pairs(path: str) -> dict[str, Any]:
    from raygseg.data.pair_set import PairSet

    pairs = PairSet.open(path)
    frequencies = dict(zip(pairs.labels.names, pairs.class_frequencies(), strict=True))
    return {
        "what": "a pair set, complete",
        "pairs": len(pairs),
        "resolution": pairs.resolution,
        "shards": len(pairs.shards),
        "class_frequencies": {name: round(value, 5) for name, value in frequencies.items()},
        "checksum": pairs.checksum(),
    }


def _prepared(path: str) -> dict[str, Any]:
    record = read_record(path)
    assert record is not None, "its file was seen"
    return {
        "what": f"prepared pictures, {'complete' if record.complete else 'not finished'}",
        "pictures": record.rows,
        "resolution": record.settings.get("resolution"),
        "classes": list(record.labels.names) if record.labels else None,
        "files": record.files,
        "shards": len(record.shards),
        "fingerprint": record.fingerprint,
    }


def _pictures(path: str) -> dict[str, Any]:
    from raygseg.data.sources import data_fingerprint, open_labelled, open_pictures

    try:
        labelled = open_labelled(path, None)
        facts: dict[str, Any] = {"what": "pictures with masks", "classes": list(labelled.labels.names)}
        return {
            **facts,
            "pictures": len(labelled),
            "bad": labelled.report.counts,
            "fingerprint": data_fingerprint(labelled),
        }
    except DataError:
        pictures = open_pictures(path, 32)
        return {
            "what": "pictures",
            "pictures": len(pictures),
            "bad": pictures.report.counts,
            "fingerprint": data_fingerprint(pictures),
        }
