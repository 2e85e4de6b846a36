"""Checkpoints: what a run needs to go on as if it had never stopped.

    RUN/checkpoint-000012800/state.safetensors   all tensors
    RUN/checkpoint-000012800/state.json          the rest, nimg, fingerprint, versions, sha256 of the tensors

Each file is written whole or not at all and state.json last, so a folder without a state.json that
matches its tensors is a checkpoint that a killed process left behind. RUN is a folder or s3:// prefix.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from raygseg.data import object_store
from raygseg.engine import state_tree
from raygseg.errors import CheckpointError, FingerprintError, StorageError

TENSORS, DOCUMENT = "state.safetensors", "state.json"
PREFIX = "checkpoint-"
FORMAT = 1
log = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    """A checkpoint read back: where it lay, the state tree, and what was written beside it."""

    uri: str
    state: dict[str, Any]
    facts: dict[str, Any]


def checkpoint_name(nimg: int) -> str:
    return f"{PREFIX}{nimg:09d}"


def checkpoint_nimg(name: str) -> int:
    """Pictures seen, from a checkpoint's name."""
    return int(name.removeprefix(PREFIX).split("-")[0])


def write_checkpoint(uri: str, state: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write the two files below `uri`; `facts` are JSON values (nimg, fingerprint, metrics, ...)."""
    tensors, skeleton = state_tree.split(state)
    content = save_tensors(tensors)
    document = {
        "format": FORMAT,
        **facts,
        "versions": {"torch": torch.__version__, "python": platform.python_version(), "machine": platform.machine()},
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "state": skeleton,
    }
    object_store.write_bytes(object_store.join(uri, TENSORS), content)
    object_store.write_bytes(object_store.join(uri, DOCUMENT), json.dumps(document).encode())


def read_checkpoint(uri: str) -> Checkpoint:
    """Read and verify. Raises CheckpointError naming the file that is missing, cut short or altered."""
    again = "name an earlier checkpoint, or the run's folder to go on from the newest whole one"
    document_uri, tensors_uri = object_store.join(uri, DOCUMENT), object_store.join(uri, TENSORS)
    try:
        document = json.loads(object_store.read_bytes(document_uri))
        skeleton, expected, size = document["state"], document["sha256"], document["bytes"]
        if document["format"] != FORMAT:
            raise CheckpointError(f"{document_uri}: format {document['format']} is not {FORMAT}", "update raygseg")
        content = object_store.read_bytes(tensors_uri)
    except StorageError as error:
        if "not found" not in error.message:
            raise
        raise CheckpointError(f"{error.message}: not a whole checkpoint", again) from error
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{document_uri}: cut short or altered ({error})", again) from error
    if len(content) != size or hashlib.sha256(content).hexdigest() != expected:
        raise CheckpointError(f"{tensors_uri}: cut short or altered ({len(content)} of {size} bytes)", again)
    try:
        state = state_tree.join(load_tensors(content), skeleton)
    except (SafetensorError, CheckpointError) as error:
        raise CheckpointError(f"{tensors_uri}: {error}", again) from error
    return Checkpoint(uri, state, {k: v for k, v in document.items() if k != "state"})


class PendingCheckpoint:
    """A copied state on its way to the disk or store."""

    def __init__(self, folder: CheckpointFolder, name: str, state: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        self.folder, self.name, self._state, self._facts = folder, name, state, facts
        self._done = threading.Event()
        self._error: BaseException | None = None

    def write(self) -> None:
        """Write it, then thin the folder out; in whatever thread."""
        try:
            write_checkpoint(object_store.join(self.folder.uri, self.name), self._state, self._facts)
            self.folder.prune()
        except BaseException as error:
            self._error = error
            raise
        finally:
            self._state = {}
            self._done.set()

    def wait(self) -> None:
        """Until it is written. Raises what `write` raised."""
        self._done.wait()
        if self._error is not None:
            raise self._error


class CheckpointFolder:
    """The checkpoints of one run: written in the background, found again, and thinned out.

    Args:
        uri: the run's folder or s3:// prefix.
        keep: how many of the newest to keep.
        best_by: a metric of `save`; the checkpoint with its lowest value is kept besides.
        fingerprint: of the run's configuration; stored, and asked for when going on.
    """

    def __init__(self, uri: str, keep: int = 3, best_by: str = "", fingerprint: str = "") -> None:
        self.uri, self.keep, self.best_by, self.fingerprint = uri, keep, best_by, fingerprint
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: PendingCheckpoint | None = None

    def names(self) -> list[str]:
        """Checkpoints that are there, whole or not, newest first."""
        found = {entry.name.split("/")[0] for entry in object_store.list_files(self.uri)}
        return sorted((name for name in found if name.startswith(PREFIX)), reverse=True)

    def latest(self) -> Checkpoint | None:
        """The newest whole checkpoint, or None. Broken ones are named in a warning and passed over.

        Raises FingerprintError if it belongs to another configuration.
        """
        for name in self.names():
            try:
                checkpoint = read_checkpoint(object_store.join(self.uri, name))
            except CheckpointError as error:
                log.warning("passing over a broken checkpoint: %s", error.message)
                continue
            self.check(checkpoint)
            return checkpoint
        return None

    def check(self, checkpoint: Checkpoint) -> None:
        """Raise FingerprintError if the checkpoint was made under another configuration."""
        theirs = checkpoint.facts.get("fingerprint", "")
        if self.fingerprint and theirs and theirs != self.fingerprint:
            raise FingerprintError(
                f"{checkpoint.uri}: made with another configuration (fingerprint {theirs}, now {self.fingerprint})",
                "choose another name or runtime.output, or go back to the configuration in config.yaml there",
            )

    def save(self, nimg: int, state: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Copy the state now, write it in the background; waits for the checkpoint before it."""
        self._writer.submit(self.prepare(nimg, state, metrics).write)

    def prepare(self, nimg: int, state: Mapping[str, Any], metrics: Mapping[str, float]) -> PendingCheckpoint:
        """Copy the state now; whoever asked calls `write`. Waits for the checkpoint before it."""
        self.wait()
        facts = {"nimg": nimg, "fingerprint": self.fingerprint, "metrics": dict(metrics)}
        self._pending = PendingCheckpoint(self, self.fresh_name(nimg), state_tree.snapshot(state), facts)
        return self._pending

    def fresh_name(self, nimg: int) -> str:
        """A name that sorts by nimg and does not reuse that of a broken checkpoint."""
        name, taken = checkpoint_name(nimg), self.names()
        tries = sum(other.startswith(name) for other in taken)
        return name if not tries else f"{name}-{tries + 1}"

    def wait(self) -> None:
        """Until the last checkpoint is safe. Raises what its writing raised."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.wait()

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self._writer.shutdown()

    def prune(self) -> None:
        """Delete all but the newest `keep` whole checkpoints and the best one."""
        facts = {name: self._facts(name) for name in self.names()}
        whole = [name for name, known in facts.items() if known is not None]
        kept = set(whole[: self.keep])
        scored = [
            (known["metrics"][self.best_by], name)
            for name, known in facts.items()
            if known and self.best_by in known.get("metrics", {})
        ]
        if scored:
            kept.add(min(scored)[1])
        for name in whole:
            if name not in kept:
                # The document goes first: what is left after a crash here is no whole checkpoint.
                for part in (DOCUMENT, TENSORS):
                    object_store.delete(object_store.join(self.uri, name, part))
                self._remove_folder(name)

    def _remove_folder(self, name: str) -> None:
        if not object_store.is_s3(self.uri):
            folder = object_store.local_path(object_store.join(self.uri, name))
            if not any(folder.iterdir()):
                folder.rmdir()

    def _facts(self, name: str) -> dict[str, Any] | None:
        """The document of a checkpoint, without reading its tensors; None where it is not whole."""
        try:
            document = json.loads(object_store.read_bytes(object_store.join(self.uri, name, DOCUMENT)))
        except (StorageError, ValueError):
            return None
        return document if isinstance(document, dict) else None
