"""Activations that are computed again instead of kept: the same gradients from less memory."""

from __future__ import annotations

import torch

from raygseg.benchmarks.stylegan2_step import gan_config
from raygseg.config.schema import GanConfig
from raygseg.engine.gradients import flatten
from raygseg.engine.memory import step_peak_bytes
from raygseg.interfaces import Draws, MicroBatch
from raygseg.methods.stylegan2.training import StyleGAN2Recipe, build_recipe


def config(recompute_from: int, precision: str = "fp32") -> GanConfig:
    plain = gan_config(32, 512, 32, 4, precision).model_dump()
    return GanConfig.model_validate(plain | {"runtime": {"recompute_from": recompute_from}})


def gradients(recipe: StyleGAN2Recipe) -> dict[str, torch.Tensor]:
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = MicroBatch({"images": images}, Draws(0, 0, 0), 0)
    found = {}
    for phase in recipe.phases:
        phase.loss(batch).loss.backward()
        found[phase.name] = flatten(phase.parameters, {}).clone()
        phase.optimiser.zero_grad(set_to_none=True)
    return found


def test_gradients_of_all_phases_are_the_same_bits() -> None:
    for precision in ("fp32", "bf16"):
        kept, again = (gradients(build_recipe(config(r, precision))) for r in (0, 8))
        for name, gradient in kept.items():
            assert bool(gradient.any()), name
            assert torch.equal(gradient, again[name]), name


def test_it_is_no_other_run_and_takes_less_memory() -> None:
    from raygseg.config.loader import fingerprint

    assert fingerprint(config(0)) == fingerprint(config(8))
    images = torch.empty(4, 3, 32, 32, dtype=torch.uint8, device="meta")
    kept, again = (step_peak_bytes(build_recipe(config(r), "meta"), {"images": images}) for r in (0, 8))
    assert again["Gmain"] < 0.8 * kept["Gmain"]
    assert again["Dmain"] < 0.8 * kept["Dmain"]
    assert again["Dreg"] <= kept["Dreg"]
