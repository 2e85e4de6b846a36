"""Bounded memory: the oldest leave, what is too large is not kept."""

from __future__ import annotations

import torch

from raygseg.nn.tensor_cache import TensorCache


def test_the_least_recently_used_leave_first() -> None:
    cache = TensorCache(limit=3 * 40)

    def get(key: int) -> torch.Tensor:
        return cache.get(key, lambda: torch.full((10,), float(key)))

    for key in (1, 2, 3, 1, 4, 1):
        assert get(key)[0] == key
    assert cache.made == 4 and len(cache) == 3 and cache.held == cache.peak == 120
    get(3)
    assert cache.made == 4, "3 was used after 2, which left"
    get(2)
    assert cache.made == 5 and cache.held == 120


def test_what_is_larger_than_the_limit_is_made_anew() -> None:
    cache = TensorCache(limit=40)
    for _ in range(2):
        assert len(cache.get("large", lambda: torch.zeros(11))) == 11
    assert cache.made == 2 and cache.held == cache.peak == 0
