"""YAML with places: values follow YAML 1.2, and what does not belong is a fault with its line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from raygseg.config.document import Document, Origin, read_file, read_text, read_value

VALUES = [
    ("1e3", 1000.0),
    ("1e-4", 1e-4),
    ("-2.5", -2.5),
    (".5", 0.5),
    ("20_000", 20000),
    ("010", 10),
    ("+7", 7),
    ("-.inf", -math.inf),
    ("true", True),
    ("False", False),
    ("null", None),
    ("~", None),
    ("no", "no"),
    ("2024-01-01", "2024-01-01"),
    ("1:30", "1:30"),
    ("toy://default?count=3&seed=1", "toy://default?count=3&seed=1"),
    ("models:/toy@champion", "models:/toy@champion"),
    ("[1, 2.5, a]", [1, 2.5, "a"]),
    ("{a: 1}", {"a": 1}),
    ("'3'", "3"),
    ("", ""),
    ("a: b", "a: b"),
    ("- x", "- x"),
]


@pytest.mark.parametrize(("text", "value"), VALUES)
def test_value(text: str, value: Any) -> None:
    found = read_value(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["[1, 2", "{a: 1", "'open", '"open'])
def test_value_that_does_not_end(text: str) -> None:
    with pytest.raises(ValueError, match="not a YAML value"):
        read_value(text)


def test_value_runs_nothing() -> None:
    with pytest.raises(ValueError, match="tag"):
        read_value("[!!python/object/apply:os.getcwd []]")


scalars = st.one_of(
    st.integers(-(10**12), 10**12),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.none(),
    st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters="\x7f\x85\xa0\xad"), max_size=20),
)


@given(
    st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.one_of(scalars, st.lists(scalars, max_size=3)))
)
def test_reads_back_what_yaml_writes(values: dict[str, Any]) -> None:
    document = read_text(yaml.safe_dump(values), "x")
    assert document.faults == []
    assert document.values == values


def test_keys_remember_their_place() -> None:
    document = read_text("a: 1\nb:\n  c: [1,\n    2]\n", "f.yaml")
    assert document.keys[("a",)] == Origin("f.yaml", 1, 1)
    assert document.keys[("b", "c")] == Origin("f.yaml", 3, 3)
    assert document.keys[("b", "c", "1")] == Origin("f.yaml", 4, 5)
    assert document.origin(("b", "nowhere")) == Origin("f.yaml", 2, 1)
    assert str(document.origin(("nowhere",))) == "f.yaml"


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "x:4:3", "given twice, first at line 3"),
        ("a: [1\nb: 2\n", "x:2:", "not YAML"),
        ("a: 1\n\tb: 2\n", "x:2:", "not YAML"),
        ("- a\n- b\n", "x:1:1", "holds no keys"),
        ("a: &k 1\nb: *k\n", "x:2:4", "aliases"),
        ("a: !!python/name:os.system x\n", "x:1:4", "tag"),
        ("? [1, 2]\n: 3\n", "x:1:3", "plain text"),
    ],
)
def test_faults_name_their_place(text: str, place: str, words: str) -> None:
    faults = read_text(text, "x").faults
    assert len(faults) == 1
    assert str(faults[0]).startswith(place)
    assert words in str(faults[0])


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "no such file" in str(read_file(tmp_path / "absent.yaml").faults[0])
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in str(read_file(tmp_path / "bytes.yaml").faults[0])
    assert "cannot be read" in str(read_file(tmp_path).faults[0])
    assert read_text("# only a comment\n", "x").values == {}


def test_overlay_merges_sections_and_replaces_the_rest() -> None:
    below = read_text("a: {x: 1, y: [1, 2]}\nb: 1\n", "below")
    above = read_text("a: {y: [3]}\nb: {z: 2}\n", "above")
    below.overlay(above)
    assert below.values == {"a": {"x": 1, "y": [3]}, "b": {"z": 2}}
    assert below.keys[("a", "x")].source == "below"
    assert below.keys[("a", "y", "0")].source == "above"
    assert ("a", "y", "1") not in below.keys
    assert below.keys[("b", "z")].source == "above"


def test_put_makes_sections() -> None:
    document = Document()
    document.put(("a", "b", "c"), 1, Origin("o"))
    document.put(("a", "b"), {"d": 2}, Origin("p"))
    assert document.values == {"a": {"b": {"d": 2}}}
    assert document.keys[("a", "b", "d")] == Origin("p")
    assert ("a", "b", "c") not in document.keys
