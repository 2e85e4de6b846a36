"""The arithmetic of the parity benchmark, without the public implementations."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from raygseg.benchmarks import parity
from raygseg.benchmarks.support import parity_augment, peers
from raygseg.benchmarks.support.agreement import Agreement, largest, relative_error
from raygseg.errors import ConfigError, MissingEnvironmentError


def test_relative_error_is_of_the_largest_number() -> None:
    theirs = torch.tensor([[1.0, -4.0], [0.0, 2.0]])
    assert relative_error(theirs, theirs) == 0.0
    assert relative_error(theirs + 0.4, theirs) == pytest.approx(0.1)
    assert relative_error(torch.zeros(3), torch.zeros(3)) == 0.0
    assert relative_error(torch.ones(3), torch.zeros(3)) == math.inf
    assert relative_error(torch.ones(3), torch.ones(1)) == math.inf
    assert relative_error(torch.tensor([math.nan]), torch.ones(1)) == math.inf
    assert relative_error(torch.empty(0), torch.empty(0)) == 0.0


def test_agreement_keeps_the_worst_tensor_of_a_quantity() -> None:
    agreement = Agreement()
    ones = torch.ones(2)
    agreement.hold_all("gradients", {"a": ones, "b": ones * 1.5}, {"a": ones, "b": ones})
    assert agreement.errors == {"gradients": 0.5}
    assert agreement.worst == {"gradients": "b"}
    for ours, theirs in (({"a": ones}, {}), ({}, {"a": ones})):
        one_sided = Agreement()
        one_sided.hold_all("gradients", ours, theirs)
        assert one_sided.errors == {"gradients": math.inf}


def test_gradients_are_judged_in_fp64_and_all_else_in_both() -> None:
    fp32 = {"small": {"image": 1e-6, "r1": 1e-3}, "large": {"image": 3e-6, "r1, gradients": 0.1}}
    fp64 = {"small": {"image": 1e-15, "r1": 2e-15}, "large": {"image": 1e-15, "r1, gradients": 3e-14}}
    assert largest(fp32) == {"image": 3e-6, "r1": 1e-3, "r1, gradients": 0.1}
    assert parity.judged(fp32, fp64) == {"image": 3e-6, "r1": 2e-15, "r1, gradients": 3e-14}


def test_line_is_made_of_what_the_processes_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(module: str, settings: dict[str, Any]) -> dict[str, Any]:
        if module.endswith("augment"):
            return {"errors": {"augmentation, all": 2e-7}}
        error = 1e-6 if settings["precision"] == "fp32" else 1e-14
        errors = {"image": error, "r1, gradients": 1e3 * error}
        return {"errors": errors, "worst": {"r1, gradients": "out.weight"}, "rounding": {"r1, gradients": 2e-3}}

    monkeypatch.setattr(peers, "run_beside", answer)
    line = parity.run(sizes=(32,))
    assert line["relative_error"] == 1e-6
    assert line["quantities"] == {"image": 1e-6, "r1, gradients": 1e-11, "augmentation, all": 2e-7}
    assert line["fp32"]["r1, gradients"] == pytest.approx(1e-3)
    assert line["rounding"] == {"r1, gradients": 2e-3}
    assert len(line["settings"]["comparisons"]) == 4
    with pytest.raises(ConfigError, match="nothing to compare"):
        parity.run(only="stylegan4")


def test_missing_checkout_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.delenv(peers.VARIABLE, raising=False)
    with pytest.raises(MissingEnvironmentError, match="RAYGSEG_PEERS is not set"):
        peers.peer_folder(peers.NVIDIA_3)
    monkeypatch.setenv(peers.VARIABLE, str(tmp_path))
    with pytest.raises(MissingEnvironmentError, match="stylegan3 is not there"):
        peers.peer_folder(peers.NVIDIA_3)


def test_scripted_draws_are_given_in_order_and_all_of_them() -> None:
    with peers.scripted(randn=[torch.ones(2, 1), torch.zeros(3)], randn_like=[torch.full((2,), 5.0)]):
        assert torch.equal(torch.randn([2, 1], device="cpu"), torch.ones(2, 1))
        assert torch.equal(torch.randn_like(torch.zeros(2)), torch.full((2,), 5.0))
        assert torch.equal(torch.randn(3), torch.zeros(3))
    with pytest.raises(AssertionError, match="was scripted"), peers.scripted(randn=[torch.ones(2)]):
        torch.randn(3)
    with pytest.raises(AssertionError, match="not taken"), peers.scripted(randn=[torch.ones(2)]):
        pass


def test_script_of_one_transform_touches_nothing_else() -> None:
    script = parity_augment.write_script(0, only="contrast")
    transforms = parity_augment.our_transforms(script)
    assert torch.equal(transforms.inverse_geometry, torch.eye(3).expand(4, 3, 3))
    contrast = torch.exp2(script.values["contrast"][:, 0] * 0.5)
    torch.testing.assert_close(transforms.colour[:, 0, 0], contrast)
    torch.testing.assert_close(transforms.colour[:, 0, 1:], torch.zeros(4, 3))
    pairs, singles = script.draws(pairs_at_once=True), script.draws(pairs_at_once=False)
    assert (len(pairs), len(singles)) == (26, 28)
