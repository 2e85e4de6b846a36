"""The champion rule as a pure function: no store, no server."""

from __future__ import annotations

import math

import pytest

from raygseg.tracking.promotion import decide, evaluation_tag

ON_A = {evaluation_tag("miou", "A"): "0.60"}


@pytest.mark.parametrize(
    ("champion", "tags", "value", "data", "gain", "force", "moves", "because"),
    [
        (None, {}, 0.1, "A", 0.0, False, True, "first with an evaluation"),
        ("1", ON_A, 0.61, "A", 0.0, False, True, "had 0.6000"),
        ("1", ON_A, 0.60, "A", 0.0, False, False, "not more than"),
        ("1", ON_A, 0.61, "A", 0.02, False, False, "minimum gain 0.02"),
        ("1", ON_A, 0.99, "B", 0.0, False, False, "cannot be compared"),
        ("1", ON_A, 0.10, "B", 0.0, True, True, "forced"),
        ("1", ON_A, 0.10, "A", 0.0, True, False, "not more than"),
        ("1", {"raygseg.kind": "segmenter"}, 0.1, "A", 0.0, False, True, "never evaluated"),
        ("2", ON_A, 0.99, "A", 0.0, False, False, "champion already"),
        ("1", ON_A, math.nan, "A", 0.0, False, False, "no finite"),
        (None, {}, math.nan, "A", 0.0, True, False, "no finite"),
    ],
)
def test_rule(
    champion: str | None,
    tags: dict[str, str],
    value: float,
    data: str,
    gain: float,
    force: bool,
    moves: bool,
    because: str,
) -> None:
    moved, reason = decide("2", champion, tags, "miou", value, data, gain, force)
    assert moved is moves
    assert because in reason and reason.endswith(".")
