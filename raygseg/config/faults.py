"""Pydantic's findings in the words of a configuration file: key, what is wrong, allowed values, did-you-mean."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from raygseg.config.document import Document, Fault, KeyPath, Origin

_WANTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "tuple": "a list",
    "list": "a list",
    "model": "a section (lines of KEY: VALUE below it)",
}


def explain(detail: ErrorDetails, document: Document, model: type[BaseModel]) -> Fault:
    """One of pydantic's error details as a Fault that names file, line and column."""
    path = tuple(str(part) for part in detail["loc"])
    origin = document.origin(path) or Origin("configuration")
    key = ".".join(path)
    kind, value, context = detail["type"], detail["input"], detail.get("ctx") or {}
    if kind == "extra_forbidden":
        return Fault(origin, key, "unknown key", _did_you_mean(path, model))
    if kind == "missing":
        return Fault(origin, key, "is missing", _describe(path, model) or "give it a value")
    if kind == "literal_error":
        allowed = _allowed(path, model)
        close = difflib.get_close_matches(str(value), allowed, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        return Fault(origin, key, f"cannot be {value!r}", f"{hint}allowed: {', '.join(allowed)}")
    if kind in ("value_error", "assertion_error"):
        return Fault(origin, key, str(context.get("error", detail["msg"])), "")
    return Fault(origin, key, f"{_complaint(kind, context, detail['msg'])}, not {value!r}", _describe(path, model))


def _complaint(kind: str, context: Mapping[str, Any], message: str) -> str:
    """`must be a whole number`, `must be greater than 0`, ... ."""
    bounds = {
        "greater_than": ("gt", "greater than"),
        "greater_than_equal": ("ge", "at least"),
        "less_than": ("lt", "less than"),
        "less_than_equal": ("le", "at most"),
    }
    if kind in bounds:
        name, words = bounds[kind]
        return f"must be {words} {context[name]:g}"
    if kind == "int_from_float":
        return "must be a whole number"
    if kind == "finite_number":
        return "must be finite"
    if kind == "string_pattern_mismatch":
        return f"must match {context['pattern']}"
    if kind in ("too_long", "too_short"):
        return f"must have {context.get('max_length', context.get('min_length'))} values"
    family = kind.split("_")[0]
    return f"must be {_WANTED[family]}" if family in _WANTED else message[:1].lower() + message[1:]


def _sections(model: type[BaseModel], path: KeyPath = ()) -> Iterator[tuple[KeyPath, type[BaseModel]]]:
    """The model and every section below it, with their paths."""
    yield path, model
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from _sections(info.annotation, (*path, name))


def _field(path: KeyPath, model: type[BaseModel]) -> FieldInfo | None:
    """What the schema says of a key; of the list for an item of one."""
    for section, owner in _sections(model):
        if path[: len(section)] == section and len(path) > len(section):
            info = owner.model_fields.get(path[len(section)])
            if info is not None and (len(path) == len(section) + 1 or path[len(section) + 1].isdigit()):
                return info
    return None


def _describe(path: KeyPath, model: type[BaseModel]) -> str:
    info = _field(path, model)
    return f"it is: {info.description}" if info is not None and info.description else ""


def _allowed(path: KeyPath, model: type[BaseModel]) -> list[str]:
    info = _field(path, model)
    return [str(value) for value in typing.get_args(info.annotation)] if info is not None else []


def _did_you_mean(path: KeyPath, model: type[BaseModel]) -> str:
    """The closest key of that section; else the same key in another section; else all keys of the section."""
    sections = dict(_sections(model))
    owner = sections.get(path[:-1])
    known = list(owner.model_fields) if owner is not None else []
    if close := difflib.get_close_matches(path[-1], known, n=1):
        return f"did you mean '{close[0]}'?"
    elsewhere = [".".join((*at, path[-1])) for at, section in sections.items() if path[-1] in section.model_fields]
    if elsewhere:
        return f"did you mean '{elsewhere[0]}'?"
    return f"known keys here: {', '.join(known)}"
