"""Benchmarks by name: each module has `run(**settings) -> dict` with the figures it measured."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any

from raygseg.errors import ConfigError


def names() -> list[str]:
    """All benchmarks, sorted; none is imported."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def run(name: str, **settings: Any) -> dict[str, Any]:
    """Run one benchmark. Raises ConfigError for a name or a setting that does not exist."""
    if name not in names():
        raise ConfigError(f"there is no benchmark '{name}'", f"use one of: {', '.join(names())}")
    measure = importlib.import_module(f"{__name__}.{name}").run
    known = inspect.signature(measure).parameters
    if unknown := [key for key in settings if key not in known]:
        raise ConfigError(f"benchmark {name} has no setting '{unknown[0]}'", f"its settings: {', '.join(known)}")
    return {"name": name, **measure(**settings)}
