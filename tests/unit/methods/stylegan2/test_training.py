"""Losses on closed forms, lazy optimisers, EMA, controller and exact resume (spec A7-A9, A12, C4)."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raygseg.config.schema import GanConfig
from raygseg.config.sections import GanAugment
from raygseg.engine.loop import Trainer
from raygseg.methods.stylegan2.augment_control import AugmentController
from raygseg.methods.stylegan2.losses import path_length_penalty, r1_penalty
from raygseg.methods.stylegan2.training import StyleGAN2Recipe, build_recipe, lazy_adam
from raygseg.nn.ema import ema_beta
from raygseg.seeding import torch_rng


class NoisePictures:
    """A stream of random pictures, each a function of its number."""

    def micro_batch(self, first: int, count: int) -> Mapping[str, Tensor]:
        rows = [torch.randint(0, 256, (3, 16, 16), generator=torch_rng(0, "p", n)) for n in range(first, first + count)]
        return {"images": torch.stack(rows).to(torch.uint8)}


def tiny(**changes: Any) -> GanConfig:
    raw: dict[str, Any] = {
        "name": "tiny",
        "data": {"source": "toy://default", "resolution": 16},
        "schedule": {"total_kimg": 1, "batch_size": 8, "micro_batch": 4},
        "generator": {"z_dim": 16, "w_dim": 16, "mapping_layers": 2, "channel_base": 128, "channel_max": 16},
        "augment": {"mode": "ada", "p": 0.3, "ada_kimg": 0.5, "interval": 2},
        "loss": {"r1_interval": 3, "path_interval": 2},
    }
    return GanConfig.model_validate(raw | changes)


@pytest.mark.parametrize("batch", [2, 8])
def test_r1_on_a_linear_discriminator(batch: int) -> None:
    """D(x) = a.x has the gradient a everywhere: the penalty is gamma/2 |a|^2 for any batch size."""
    a = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))
    real = torch.randn(batch, 3, 4, 4, requires_grad=True)
    penalty = r1_penalty(real, (real * a).sum(dim=(1, 2, 3)), gamma=3.0)
    assert penalty.item() == pytest.approx(1.5 * a.square().sum().item(), rel=1e-5)


def test_path_length_of_a_linear_generator() -> None:
    """images = M w: lengths are |M^T y| / sqrt(HW) per code, averaged over num_ws, whatever w is."""
    matrix = torch.randn(3 * 4 * 4, 6, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    expected = ((noise.flatten(1) / 4) @ matrix).norm(dim=1)  # every code adds M w / num_ws ...
    results = []
    for scale in (1.0, 5.0):
        ws = (torch.randn(2, 3, 6) * scale).requires_grad_(True)
        images = (ws.sum(dim=1) @ matrix.t()).reshape(2, 3, 4, 4)
        results.append(path_length_penalty(images, ws, noise, 0.0, 0.01))
        torch.testing.assert_close(results[-1].lengths, expected, rtol=1e-4, atol=1e-5)
    target = 0.01 * expected.mean()
    assert results[0].penalty.item() == pytest.approx((expected - target).square().mean().item(), rel=1e-4)
    assert results[0].penalty.item() == pytest.approx(results[1].penalty.item(), rel=1e-4)


def test_running_path_length_converges_at_the_stated_rate() -> None:
    recipe = build_recipe(tiny())
    for _ in range(100):
        recipe.end_step(0, 8, {"path_length": torch.tensor(2.0)})
    assert recipe.path_mean.item() == pytest.approx(2.0 * (1 - 0.99**100), rel=1e-5)


def test_lazy_regularisation_rescales_adam() -> None:
    parameter = [nn.Parameter(torch.zeros(1))]
    for interval, c in ((4, 0.8), (16, 16 / 17)):
        group = lazy_adam(parameter, 0.002, interval).param_groups[0]
        assert group["lr"] == pytest.approx(0.002 * c)
        assert group["betas"] == (0.0, pytest.approx(0.99**c))


def test_ema_half_life_and_ramp() -> None:
    assert ema_beta(32, 10**6, 10) == pytest.approx(0.997784, abs=1e-6)
    assert ema_beta(16, 10**6, 10) == pytest.approx(math.sqrt(ema_beta(32, 10**6, 10)))
    assert ema_beta(64, 10**6, 10) == pytest.approx(ema_beta(32, 10**6, 10) ** 2)
    assert ema_beta(16, 640, 10, ramp=0.05) == pytest.approx(0.5**0.5)


def test_controller_moves_p_by_the_rate_and_stops_at_the_clamp() -> None:
    controller = AugmentController(GanAugment(mode="ada", ada_kimg=500), batch_size=64)
    for _ in range(4):
        controller.observe(0.9)
    assert controller.p == pytest.approx(64 * 4 / 500_000)
    for _ in range(8):
        controller.observe(-0.5)
    assert controller.p == 0.0
    controller.p = 0.7999
    for _ in range(40):
        controller.observe(1.0)
    assert controller.p == 0.8


def equal_trees(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(equal_trees(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(equal_trees(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def run(recipe: StyleGAN2Recipe, steps: int, state: Any = None) -> dict[str, Any]:
    trainer = Trainer(recipe, NoisePictures())
    if state is not None:
        trainer.load_state_dict(state)
    for _ in range(steps):
        trainer.step()
    trainer.close()
    return trainer.state_dict()


def test_resuming_at_any_step_gives_the_weights_of_an_undisturbed_run() -> None:
    whole = run(build_recipe(tiny()), 6)
    for cut in (1, 3):
        part = copy.deepcopy(run(build_recipe(tiny()), cut))
        assert equal_trees(run(build_recipe(tiny()), 6 - cut, part), whole)
    assert whole["recipe"]["augment"]["p"] > 0


def test_every_network_learns_and_the_seed_decides() -> None:
    before = build_recipe(tiny()).state_dict()
    after, again = run(build_recipe(tiny()), 3), run(build_recipe(tiny()), 3)
    other = run(build_recipe(tiny(seed=1)), 3)
    assert equal_trees(after, again)
    assert not equal_trees(after["recipe"]["modules"], other["recipe"]["modules"])
    for name in ("generator", "discriminator", "average"):
        old, new = before["modules"][name], after["recipe"]["modules"][name]
        assert any(not torch.equal(old[k], new[k]) for k in old), name


def test_losses_in_fewer_bits_agree_with_fp32() -> None:
    losses = {}
    for precision in ("fp32", "bf16", "fp16"):
        recipe = build_recipe(tiny(optimiser={"precision": precision}))
        trainer = Trainer(recipe, NoisePictures())
        losses[precision] = {k: float(v) for k, v in trainer.step().items() if v.numel() == 1}
        trainer.close()
    for precision in ("bf16", "fp16"):
        for name in ("loss/generator", "loss/discriminator"):
            assert losses[precision][name] == pytest.approx(losses["fp32"][name], rel=0.05), (precision, name)


def test_a_grey_gan_judges_luminance_and_draws_three_equal_channels() -> None:
    grey = {"z_dim": 16, "w_dim": 16, "mapping_layers": 2, "channel_base": 128, "channel_max": 16, "image_channels": 1}
    recipe = build_recipe(tiny(generator=grey))
    assert recipe.discriminator.from_image.weight.shape[1] == 1
    trainer = Trainer(recipe, NoisePictures())
    for _ in range(3):
        trainer.step()
    shown = recipe._real_pictures(torch.tensor([255, 0, 0], dtype=torch.uint8).reshape(1, 3, 1, 1))
    assert shown.item() == pytest.approx(2 * 0.299 - 1, abs=1e-6)
    drawn = recipe.average.render(recipe.average.latents([1, 2]), [1, 2]).images
    assert drawn.shape == (2, 3, 16, 16) and torch.equal(drawn[:, 0], drawn[:, 2])
    rebuilt = type(recipe.average)(**recipe.average.build)
    rebuilt.load_state_dict(recipe.average.state_dict())
    assert torch.equal(rebuilt.eval().render(rebuilt.latents([1, 2]), [1, 2]).images, drawn)
