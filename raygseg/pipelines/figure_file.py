"""Figures of a run's checkpoints in one JSON-lines file: read back by what they are of, and replaced whole."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from raygseg.data import object_store

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    class Figure(DataclassInstance, Protocol):
        """One record: a flat dataclass of JSON values."""

        @property
        def nimg(self) -> int:
            """Pictures that the measured network was trained on; -1: not known."""

        def key(self) -> tuple[Any, ...]:
            """What the figures are of, and how they were measured."""


F = TypeVar("F", bound="Figure")


def read_figures(kind: type[F], folder: str, name: str) -> dict[tuple[Any, ...], F]:
    """Records by key; none where `folder` is empty. Those of another version are left out: measured again."""
    place = object_store.join(folder, name) if folder else ""
    if not place or not object_store.exists(place):
        return {}
    found = {}
    for line in object_store.read_bytes(place).decode().splitlines():
        try:
            record = kind(**json.loads(line))
        except (ValueError, TypeError):
            continue
        found[record.key()] = record
    return found


def write_figures(records: Iterable[F], folder: str, name: str) -> None:
    """Every key once, the later record of two, the least trained first."""
    lines = [json.dumps(dataclasses.asdict(record)) for record in oldest_first({r.key(): r for r in records}.values())]
    object_store.write_bytes(object_store.join(folder, name), ("\n".join(lines) + "\n").encode())


def oldest_first(records: Iterable[F]) -> list[F]:
    """The least trained first."""
    return sorted(records, key=lambda record: (record.nimg, record.key()))
