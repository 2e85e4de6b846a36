"""Benchmarks by name: each module has `run(**settings) -> dict` with the figures it measured."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

from raygseg.errors import ConfigError


def names() -> list[str]:
    """All benchmarks, sorted; none is imported."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__) if not module.ispkg)


def run(name: str, progress: Callable[..., None] | None = None, **settings: Any) -> dict[str, Any]:
    """Run one benchmark; `-` and `_` are the same in its name.

    progress: called as (stage, done, total, facts) by those that take long.

    Raises ConfigError for a name or a setting that does not exist.
    """
    name = name.replace("_", "-")
    if name not in names():
        raise ConfigError(f"there is no benchmark '{name}'", f"use one of: {', '.join(names())}")
    measure = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").run
    parameters = inspect.signature(measure).parameters
    known = [key for key in parameters if key != "progress"]
    told = {"progress": progress} if "progress" in parameters else {}
    if unknown := [key for key in settings if key not in known]:
        raise ConfigError(f"benchmark {name} has no setting '{unknown[0]}'", f"its settings: {', '.join(known)}")
    return {**measure(**settings, **told), "name": name}
