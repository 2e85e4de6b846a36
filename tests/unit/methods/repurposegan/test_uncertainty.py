"""Jensen-Shannon: its bounds, its zero, and the image score (spec 3.1, 5.2)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raygseg.methods.repurposegan.uncertainty import image_score, jensen_shannon


@settings(max_examples=30, deadline=None)
@given(members=st.integers(1, 6), classes=st.integers(2, 5), seed=st.integers(0, 2**31), sharpness=st.floats(0.1, 50))
def test_bounds(members: int, classes: int, seed: int, sharpness: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    p = (sharpness * torch.randn(2, members, classes, 3, 3, generator=rng)).softmax(2)
    js = jensen_shannon(p)
    assert bool((js >= 0).all())
    assert bool((js <= math.log(members) + 1e-5).all())


def test_zero_for_equal_members_and_for_one() -> None:
    p = torch.randn(1, 1, 4, 5, 5).softmax(2)
    assert float(jensen_shannon(p).max()) == 0.0
    assert float(jensen_shannon(p.expand(1, 7, 4, 5, 5)).max()) < 1e-6


def test_log_m_where_every_member_is_sure_of_another_class() -> None:
    p = torch.eye(4).view(1, 4, 4, 1, 1)
    assert float(jensen_shannon(p)) == pytest.approx(math.log(4), abs=1e-5)


def test_by_hand_for_two_members() -> None:
    p = torch.tensor([[0.9, 0.1], [0.5, 0.5]]).view(1, 2, 2, 1, 1)
    mean = -(0.7 * math.log(0.7) + 0.3 * math.log(0.3))
    own = (-(0.9 * math.log(0.9) + 0.1 * math.log(0.1)) + math.log(2)) / 2
    assert float(jensen_shannon(p)) == pytest.approx(mean - own, abs=1e-6)


def test_image_score_is_the_mean_of_the_top_tenth() -> None:
    js = torch.arange(100.0).view(1, 10, 10)
    assert float(image_score(js)) == pytest.approx(94.5)
    assert float(image_score(torch.full((1, 2, 2), 0.25))) == pytest.approx(0.25)
