"""From YAML files and `key=value` overrides to one frozen configuration, all faults reported at once.

Precedence: defaults < `base:` file < file < overrides. A `base:` path is relative to the file that
names it; bases may have bases.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from raygseg.config.document import Document, Fault, Origin, read_file, read_value
from raygseg.config.faults import explain
from raygseg.config.schema import KINDS
from raygseg.config.sections import Run
from raygseg.errors import ConfigError

COMMAND_LINE = "command line"


def load_config(path: str | Path | None, overrides: Sequence[str] = (), kind: str | None = None) -> Run:
    """The configuration in `path` (None: defaults only) with `overrides` such as `schedule.batch_size=16` laid over.

    kind: what the caller runs; fills in a missing `kind:` and refuses another one.
    Raises ConfigError listing every fault with file, line, column, key and fix.
    """
    document = _with_bases(Path(path), ()) if path is not None else Document(keys={(): Origin(COMMAND_LINE)})
    document.overlay(_overrides(overrides))
    faults = list(document.faults)
    model = _model(document, kind, faults)
    if model is None:
        raise _error(faults)
    try:
        config = model.model_validate(document.values)
    except ValidationError as error:
        faults += [explain(detail, document, model) for detail in error.errors(include_url=False)]
        raise _error(faults) from None
    if faults:
        raise _error(faults)
    return config


def files_of(path: str | Path) -> list[Path]:
    """The file and every file its `base:` leads to, nearest first; what must be there for it to load.

    Raises ConfigError where `load_config` would because of a base.
    """
    found, following = [], Path(path)
    if faults := _with_bases(following, ()).faults:
        raise _error(faults)
    while True:
        found.append(following)
        named = read_file(following).values.get("base")
        if named is None:
            return found
        following = following.parent / named


def resolved_yaml(config: Run) -> str:
    """Every key with its value, defaults too, in the order of the schema; `load_config` reads it back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)


def identity(config: Run) -> dict[str, Any]:
    """What decides the result, as JSON values: everything but `runtime` and the kind's `outside_fingerprint`."""
    return config.model_dump(mode="json", exclude=set(config.outside_fingerprint))


def fingerprint(config: Run) -> str:
    """Hex sha256 over the canonical JSON of `identity(config)`."""
    text = json.dumps(identity(config), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """`schedule.batch_size: 16 -> 32` for every key whose value differs, `runtime` left out; sorted."""
    before, after = _flat(old), _flat(new)
    lines = []
    for key in sorted(before.keys() | after.keys()):
        if key.split(".")[0] == "runtime" or before.get(key, _ABSENT) == after.get(key, _ABSENT):
            continue
        lines.append(f"{key}: {before.get(key, _ABSENT)} -> {after.get(key, _ABSENT)}")
    return lines


_ABSENT = "(absent)"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = list(value) if isinstance(value, tuple) else value
    return flat


def _with_bases(path: Path, seen: tuple[Path, ...]) -> Document:
    """The file laid over the file its `base:` names, and so on down."""
    mine = read_file(path)
    named = mine.values.pop("base", None)
    if named is None:
        return mine
    where = mine.keys.pop(("base",))
    chain = (*seen, path.resolve())
    if not isinstance(named, str):
        mine.faults.append(Fault(where, "base", f"must be the path of one file, not {named!r}"))
        return mine
    base = path.parent / named
    if base.resolve() in chain:
        mine.faults.append(Fault(where, "base", f"'{named}' leads back to this file", "break the circle"))
        return mine
    if not base.is_file():
        mine.faults.append(Fault(where, "base", f"'{base}' is not a file", "give a path relative to this file"))
        return mine
    below = _with_bases(base, chain)
    below.overlay(mine)
    return below


def _overrides(overrides: Sequence[str]) -> Document:
    """A Document of the `a.b=value` words of a command line; the last of equal keys wins."""
    document = Document()
    for word in overrides:
        key, equals, text = word.partition("=")
        origin = Origin(f"{COMMAND_LINE} '{word}'")
        path = tuple(key.split("."))
        if not equals or not all(path):
            document.faults.append(
                Fault(origin, "", "is not an override", "write key=value, e.g. schedule.batch_size=16")
            )
            continue
        try:
            document.put(path, read_value(text), origin)
        except ValueError as error:
            document.faults.append(Fault(origin, key, str(error), "close the bracket or quote"))
    return document


def _model(document: Document, expected: str | None, faults: list[Fault]) -> type[Run] | None:
    """The model that `kind:` names; None, with a fault noted, where there is none."""
    origin = document.origin(("kind",)) or Origin(COMMAND_LINE)
    given = document.values.setdefault("kind", expected) if expected else document.values.get("kind")
    if given is None:
        if not faults:
            faults.append(Fault(origin, "kind", "is missing", f"write one of: {', '.join(KINDS)}"))
        return None
    if given not in KINDS:
        close = difflib.get_close_matches(str(given), KINDS, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        faults.append(Fault(origin, "kind", f"there is no kind '{given}'", f"{hint}known kinds: {', '.join(KINDS)}"))
        return None
    if expected is not None and given != expected:
        fix = f"run it with `raygseg {_verb(given)}`, or give a file of kind {expected}"
        faults.append(Fault(origin, "kind", f"is '{given}', but '{expected}' is wanted here", fix))
        return None
    return KINDS[given]


def _verb(kind: str) -> str:
    return kind if kind in ("generate", "evaluate", "episodes", "compare") else "train"


def _reading_order(fault: Fault) -> tuple[bool, str, int, int]:
    source, line, column = fault.origin
    return source.startswith(COMMAND_LINE), source, line, column


def _error(faults: Sequence[Fault]) -> ConfigError:
    if len(faults) == 1:
        origin, key, what, fix = faults[0]
        return ConfigError(str(Fault(origin, key, what)), fix or "mend the value")
    lines = "\n".join(f"  {fault}" for fault in sorted(faults, key=_reading_order))
    return ConfigError(f"{len(faults)} faults in the configuration\n{lines}", "mend them all, then run again")
