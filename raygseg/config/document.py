"""YAML with a memory: every value knows the file, line and column it was written at.

The reader follows YAML 1.2's plain scalars where PyYAML's 1.1 surprises: `1e3` is a number, `no`
and `2024-01-01` are text, `010` is ten. Keys that repeat, aliases and tags are faults. Nothing but
plain values can come out of a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

KeyPath = tuple[str, ...]


class Origin(NamedTuple):
    """Where something was written. line and column count from 1; 0 where there is none."""

    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


class Fault(NamedTuple):
    """One thing wrong: where, at which dotted key, what, and how to mend it."""

    origin: Origin
    key: str
    what: str
    fix: str = ""

    def __str__(self) -> str:
        subject = f"'{self.key}': " if self.key else ""
        return f"{self.origin}: {subject}{self.what}" + (f"; {self.fix}" if self.fix else "")


@dataclass
class Document:
    """Nested values; `keys` says for every key path in them where it was written."""

    values: dict[str, Any] = field(default_factory=dict)
    keys: dict[KeyPath, Origin] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def origin(self, path: KeyPath) -> Origin | None:
        """Where the key, or the nearest section around it, was written."""
        for length in range(len(path), -1, -1):
            if (found := self.keys.get(path[:length])) is not None:
                return found
        return None

    def put(self, path: KeyPath, value: Any, origin: Origin) -> None:
        """Set one value; sections on the way are made, and a value in the way is replaced by a section."""
        level = self.values
        for depth, name in enumerate(path[:-1], start=1):
            self.keys.setdefault(path[:depth], origin)
            inner = level.get(name)
            if not isinstance(inner, dict):
                inner = level[name] = {}
            level = inner
        self._forget(path)
        self.keys[path] = origin
        if isinstance(value, dict):
            level[path[-1]] = {}
            for name, inner_value in value.items():
                self.put((*path, str(name)), inner_value, origin)
        else:
            level[path[-1]] = value

    def overlay(self, other: Document) -> None:
        """Lay `other` over this one: sections merge, anything else replaces."""
        self.faults.extend(other.faults)
        if () in other.keys:
            self.keys[()] = other.keys[()]
        self._merge(self.values, other, other.values, ())

    def _merge(self, mine: dict[str, Any], other: Document, theirs: dict[str, Any], path: KeyPath) -> None:
        for name, value in theirs.items():
            here = (*path, name)
            if isinstance(value, dict) and isinstance(mine.get(name), dict):
                self.keys[here] = other.keys[here]
                self._merge(mine[name], other, value, here)
                continue
            self._forget(here)
            mine[name] = value
            self.keys.update({k: v for k, v in other.keys.items() if k[: len(here)] == here})

    def _forget(self, path: KeyPath) -> None:
        for key in [k for k in self.keys if k[: len(path)] == path]:
            del self.keys[key]


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's plain scalars and no aliases."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not used here", event.start_mark)
        return super().compose_node(parent, index)


_NUMBER = r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?"
_PLAIN = [
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("int", r"^[-+]?[0-9][0-9_]*$", list("-+0123456789")),
    ("float", rf"^(?:{_NUMBER}|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", list("-+0123456789.")),
]
for _kind, _pattern, _first in _PLAIN:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(_pattern), _first)
_KINDS = {"bool", "null", "int", "float", "str", "map", "seq"}


def _number(node: yaml.Node) -> int | float:
    text = node.value.replace("_", "").lower()
    if node.tag.endswith(":int"):
        return int(text)
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


def _scalar(node: yaml.Node) -> Any:
    kind = node.tag.rpartition(":")[2]
    if kind in ("int", "float"):
        return _number(node)
    if kind == "bool":
        return node.value.lower() == "true"
    return None if kind == "null" else node.value


class _Reader:
    """Walks a node tree into a Document."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.document = Document()

    def origin(self, node: yaml.Node) -> Origin:
        return Origin(self.source, node.start_mark.line + 1, node.start_mark.column + 1)

    def read(self, node: yaml.Node, path: KeyPath = ()) -> Any:
        if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.rpartition(":")[2] not in _KINDS:
            self._fault(node, path, f"tag '{node.tag}' is not used here", "write a plain value")
            return None
        if isinstance(node, yaml.MappingNode):
            return dict(self._pairs(node, path))
        if isinstance(node, yaml.SequenceNode):
            return [self._item(item, (*path, str(i))) for i, item in enumerate(node.value)]
        return _scalar(node)

    def _item(self, node: yaml.Node, path: KeyPath) -> Any:
        self.document.keys[path] = self.origin(node)
        return self.read(node, path)

    def _pairs(self, node: yaml.MappingNode, path: KeyPath) -> Iterator[tuple[str, Any]]:
        first: dict[str, Origin] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._fault(key_node, path, "a key must be plain text", "write NAME: VALUE")
                continue
            name = str(key_node.value)
            here = (*path, name)
            if name in first:
                self._fault(key_node, here, f"is given twice, first at line {first[name].line}", "keep one of them")
                continue
            first[name] = self.document.keys[here] = self.origin(key_node)
            yield name, self.read(value_node, here)

    def _fault(self, node: yaml.Node, path: KeyPath, what: str, fix: str) -> None:
        self.document.faults.append(Fault(self.origin(node), ".".join(path), what, fix))


def read_text(text: str, source: str) -> Document:
    """The Document of one YAML text; `source` names it in faults. Never raises for bad content."""
    document = Document(keys={(): Origin(source)})
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = Origin(source, mark.line + 1, mark.column + 1) if mark else Origin(source)
        document.faults.append(Fault(where, "", f"not YAML: {error.problem}", "mend the line (indent with spaces)"))
        return document
    except yaml.YAMLError as error:
        document.faults.append(Fault(Origin(source), "", f"not YAML: {error}", "write plain UTF-8 text"))
        return document
    if node is None:
        return document
    if not isinstance(node, yaml.MappingNode):
        document.faults.append(Fault(Origin(source, 1, 1), "", "holds no keys", "write lines of KEY: VALUE"))
        return document
    reader = _Reader(source)
    reader.document.keys[()] = Origin(source)
    reader.document.values = reader.read(node)
    return reader.document


def read_file(path: Path) -> Document:
    """The Document of one YAML file; a file that cannot be read is a fault in it."""
    try:
        return read_text(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        fault = Fault(
            Origin(str(path)), "", "no such file", "give the path of a configuration, e.g. configs/toy/gan.yaml"
        )
    except (OSError, UnicodeDecodeError) as error:
        fault = Fault(Origin(str(path)), "", f"cannot be read ({error})", "give a readable UTF-8 YAML file")
    return Document(faults=[fault])


def read_value(text: str) -> Any:
    """One value as YAML reads it: `3`, `1e3`, `true`, `[1, 2]`, `{a: 1}`; anything else is text.

    Raises ValueError for a list, section or quotation that does not end.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        if text.lstrip().startswith(("[", "{", '"', "'")):
            raise ValueError(f"'{text}' is not a YAML value") from error
        return text
    if node is None or (isinstance(node, yaml.CollectionNode) and not node.flow_style):
        return text  # `a: b` or `- x` on a command line is text that happens to look like YAML
    reader = _Reader("value")
    value = reader.read(node)
    if reader.document.faults:
        raise ValueError(reader.document.faults[0].what)
    return value
