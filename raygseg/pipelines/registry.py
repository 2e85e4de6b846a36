"""Models in and out of the registry, as the command line and the training pipelines use it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raygseg.tracking.registry import ModelVersionInfo


def register(
    bundle: str | Path,
    name: str,
    *,
    run_id: str = "",
    metrics: Mapping[str, float] | None = None,
    tracking_uri: str = "",
    experiment: str = "raygseg",
) -> ModelVersionInfo:
    """Register a trained bundle; a generator's or sampler's newest version becomes champion at once.

    A segmenter's champion moves by evaluation only (`evaluate … promote=NAME`). Errors as `register_bundle`.
    """
    from raygseg.tracking import registry

    info = registry.register_bundle(
        bundle, name, run_id=run_id, metrics=metrics, tracking_uri=tracking_uri, experiment=experiment
    )
    if info.kind != "segmenter":
        registry.crown_newest(name, info.version, tracking_uri)
    return info


def pull(model: str, output: str | Path, tracking_uri: str = "") -> Path:
    """Copy a registered model (NAME or any address) to `output`, every file's checksum verified."""
    from raygseg.tracking import registry

    return registry.pull(model, output, tracking_uri)
