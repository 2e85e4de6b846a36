"""Models in and out of the registry, as the command line and the training pipelines use it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raygseg.tracking.registry import Decision, ModelVersionInfo


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

    A segmenter's champion moves by evaluation only (`promote_model`). Errors as `register_bundle`.
    """
    from raygseg.tracking import registry

    info = registry.register_bundle(
        bundle, name, run_id=run_id, metrics=metrics, tracking_uri=tracking_uri, experiment=experiment
    )
    if info.kind != "segmenter":
        registry.crown_newest(name, info.version, tracking_uri)
    return info


def promote_model(
    name: str,
    model: str,
    metric: str,
    value: float,
    data: str,
    *,
    tracking_uri: str = "",
    minimum_gain: float = 0.0,
    force: bool = False,
) -> Decision:
    """Record that `model` (any address) scores `value` on the data set `data` and let the rule decide on the alias."""
    from raygseg.tracking import registry

    return registry.promote_model(
        name, model, metric, value, data, tracking_uri=tracking_uri, minimum_gain=minimum_gain, force=force
    )


def pull(model: str, output: str | Path, tracking_uri: str = "") -> Path:
    """Copy a registered model (NAME or any address) to `output`, every file's checksum verified."""
    from raygseg.tracking import registry

    return registry.pull(model, output, tracking_uri)


def resolve(model: str, tracking_uri: str = "") -> Path:
    """A local, verified bundle folder for a model's address; downloads are cached."""
    from raygseg.tracking import registry

    return registry.resolve(model, tracking_uri)
