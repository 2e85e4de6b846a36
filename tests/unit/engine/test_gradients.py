from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from raygseg.engine.gradients import Alone, flatten, own_micro_batches, scatter, split_statistics, tree_sum
from raygseg.errors import ConfigError
from tests.unit.engine.regression_recipe import RegressionRecipe, RegressionStream
from tests.unit.engine.two_workers import differing, train, train_together


class Member(Alone):
    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


@given(st.integers(1, 5), st.integers(0, 20))
def test_micro_batches_are_shared_out_once_each_and_evenly(size: int, more: int) -> None:
    shares = [own_micro_batches(size + more, Member(rank, size)) for rank in range(size)]
    assert [i for own in shares for i in own] == list(range(size + more))
    assert max(map(len, shares)) - min(map(len, shares)) <= ((size + more) % size > 0)


def test_more_workers_than_micro_batches_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"2 micro-batches .* 3 workers"):
        own_micro_batches(2, Member(0, 3))


@given(st.integers(2, 33))
def test_two_halves_add_up_like_the_whole(half: int) -> None:
    """Bit for bit, with terms whose plain left-to-right sum rounds differently."""
    terms = torch.randn(2 * half, 50, generator=torch.Generator().manual_seed(half)) * 10 ** torch.arange(50).sub(25)

    def term(i: int) -> Tensor:
        return terms[i].clone()

    halves = tree_sum(range(half), term) + tree_sum(range(half, 2 * half), term)
    assert torch.equal(tree_sum(range(2 * half), term), halves)


def test_flatten_and_scatter_are_inverse_and_make_finite() -> None:
    net = nn.Linear(3, 2)
    parameters = list(net.parameters())
    parameters[0].grad = torch.tensor([[1.0, float("nan"), 2.0], [float("inf"), -float("inf"), 3.0]])
    statistics = {"b": torch.tensor(5.0), "a": torch.tensor([6.0, 7.0])}
    flat = flatten(parameters, statistics)
    assert flat.tolist()[6:] == [0, 0, 6, 7, 5]  # no gradient counts as zero; statistics by name
    scatter(flat, parameters)
    assert parameters[0].grad.tolist() == [[1, 0, 2], [1e5, -1e5, 3]]
    back = split_statistics(flat[8:], statistics)
    assert back["a"].tolist() == [6, 7] and back["b"].shape == ()


def regression(batch_size: int, micro_batch: int) -> tuple[RegressionRecipe, RegressionStream]:
    return RegressionRecipe(batch_size, micro_batch), RegressionStream()


def test_two_workers_equal_one_that_accumulates(tmp_path: Path) -> None:
    """With one micro-batch a worker, and with three."""
    runs = [(8, 4), (24, 4)]
    for arguments, together in zip(runs, train_together(2, str(tmp_path), regression, runs, steps=7)):
        alone = train(Alone(), regression, arguments, steps=7)
        assert differing(together[0], alone) == []
        assert differing(together[1], alone) == []


def test_another_micro_batch_is_another_run() -> None:
    """The comparison above can fail: other draws give other weights."""
    assert differing(train(Alone(), regression, (8, 4), 7), train(Alone(), regression, (8, 8), 7)) != []
