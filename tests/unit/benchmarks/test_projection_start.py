"""Steps that a better start saves are read off the curves."""

from __future__ import annotations

from raygseg.benchmarks.projection_start import saved


def test_saved_steps_are_those_of_the_shortest_that_is_no_worse() -> None:
    mean = {0: 2.0, 10: 1.0, 40: 0.5}
    assert saved(mean, {0: 1.5, 10: 0.5, 40: 0.4}) == 30
    assert saved(mean, {0: 1.5, 10: 0.9, 40: 0.5}) == 0
    assert saved(mean, {0: 1.5, 10: 0.9, 40: 0.6}) == 0
