"""Every key a kind of run knows, for `raygseg config schema` and for reading."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from raygseg.config.schema import KINDS
from raygseg.errors import ConfigError


class Key(NamedTuple):
    """One key: dotted name, type in words, default (None: required) and what it is."""

    name: str
    type: str
    default: str | None
    description: str


def keys(kind: str) -> list[Key]:
    """All keys of `kind` in schema order. Raises ConfigError for a kind that does not exist."""
    return list(_keys(_model(kind), ""))


def json_schema(kind: str) -> dict[str, Any]:
    """The JSON schema of `kind`, for editors that complete and check YAML."""
    return _model(kind).model_json_schema()


def _model(kind: str) -> type[BaseModel]:
    if kind not in KINDS:
        raise ConfigError(f"there is no kind '{kind}'", f"use one of: {', '.join(KINDS)}")
    return KINDS[kind]


def _keys(model: type[BaseModel], prefix: str) -> list[Key]:
    found: list[Key] = []
    for name, info in model.model_fields.items():
        annotation = info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found += _keys(annotation, f"{prefix}{name}.")
            continue
        required = info.default is PydanticUndefined
        found.append(
            Key(
                f"{prefix}{name}",
                _words(annotation),
                None if required else _shown(info.default),
                info.description or "",
            )
        )
    return found


def _words(annotation: Any) -> str:
    if isinstance(annotation, type) and not hasattr(annotation, "__args__"):
        return {"str": "text", "int": "whole number", "float": "number", "bool": "true/false"}.get(
            annotation.__name__, annotation.__name__
        )
    text = re.sub(r"typing\.", "", str(annotation))
    literal = re.fullmatch(r"Literal\[(.*)\]", text)
    return " | ".join(part.strip(" '") for part in literal.group(1).split(",")) if literal else text


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "[" + ", ".join(map(str, value)) + "]" if isinstance(value, tuple) else str(value)
