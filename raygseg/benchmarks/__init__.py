"""Benchmarks by name: each module has `run(**settings) -> dict` with the figures it measured."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any

from raygseg.errors import ConfigError


def names() -> list[str]:
    """All benchmarks, sorted; none is imported."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__) if not module.ispkg)


def run(name: str, **settings: Any) -> dict[str, Any]:
    """Run one benchmark; `-` and `_` are the same in its name.

    Raises ConfigError for a name or a setting that does not exist.
    """
    name = name.replace("_", "-")
    if name not in names():
        raise ConfigError(f"there is no benchmark '{name}'", f"use one of: {', '.join(names())}")
    measure = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").run
    known = inspect.signature(measure).parameters
    if unknown := [key for key in settings if key not in known]:
        raise ConfigError(f"benchmark {name} has no setting '{unknown[0]}'", f"its settings: {', '.join(known)}")
    return {**measure(**settings), "name": name}
