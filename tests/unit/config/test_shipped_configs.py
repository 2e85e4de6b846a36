"""Every YAML in configs/ resolves, and every key of every kind says what it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from raygseg.config.loader import load_config
from raygseg.config.reference import json_schema, keys
from raygseg.config.schema import KINDS
from raygseg.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
BUNDLES = {path.parent for path in CONFIGS.rglob("checksums.json")}  # their config.yaml is a record
FILES = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent not in BUNDLES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_file_resolves(path: Path) -> None:
    config = load_config(path)
    assert config.kind in KINDS


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_file_begins_with_its_command(path: Path) -> None:
    head = "".join(line for line in path.read_text().splitlines(True)[:12] if line.startswith("#"))
    kind = load_config(path).kind
    verb = kind if kind in ("generate", "evaluate", "episodes", "compare") else "train"
    assert f"raygseg {verb} {path.relative_to(CONFIGS.parent)}" in head


@pytest.mark.parametrize("kind", KINDS)
def test_reference_lists_every_key(kind: str) -> None:
    names = [key.name for key in keys(kind)]
    assert len(names) == len(set(names)) > 10
    assert {"name", "seed", "runtime.workers"} <= set(names)
    assert [key.name for key in keys(kind) if key.default is None]
    assert json_schema(kind)["additionalProperties"] is False


def test_reference_of_no_kind() -> None:
    with pytest.raises(ConfigError, match="no kind 'gans'"):
        keys("gans")
