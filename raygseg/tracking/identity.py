"""Which run this is: plain settings that travel to other processes and find the same run again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raygseg.tracking.store import resolve_tracking_uri


@dataclass(frozen=True)
class RunSettings:
    """What makes a run and finds it again.

    Attributes:
        name, fingerprint, run_dir: together they say which run this is.
        tracking_uri: empty for MLFLOW_TRACKING_URI or the default; made absolute here.
        run_dir: the run's folder or URI; the journal lives there (for a URI, in the user's cache).
        config: the resolved configuration; `runtime` becomes tags, everything else parameters.
        data: {role: (source, fingerprint)} of the data that the run sees.
        run_id: MLflow's id where it is known already.
    """

    name: str
    fingerprint: str
    tracking_uri: str = ""
    experiment: str = "raygseg"
    run_dir: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    run_id: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tracking_uri", resolve_tracking_uri(self.tracking_uri))
        if self._is_local:
            object.__setattr__(self, "run_dir", str(Path(self.run_dir).absolute()))

    @property
    def _is_local(self) -> bool:
        return bool(self.run_dir) and "://" not in self.run_dir

    @property
    def identity(self) -> str:
        """Hex name of (name, fingerprint, run_dir): equal for a resume, different for anything else."""
        text = "\n".join((self.name, self.fingerprint, self.run_dir))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    @property
    def journal_folder(self) -> Path:
        """Where points are kept on this machine."""
        if self._is_local:
            return Path(self.run_dir)
        return Path.home() / ".cache" / "raygseg" / "tracking" / self.identity
