"""Stage 2: one optimiser for the summed loss, a generator that stays as it is, and a run that resumes exactly."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from raygseg.config.encoder import EncoderConfig
from raygseg.engine.loop import Trainer
from raygseg.errors import ConfigError
from raygseg.interfaces import Draws, MicroBatch
from raygseg.labels import LabelSpace
from raygseg.methods.semanticgan.encoder_training import EncoderRecipe, build_recipe
from raygseg.methods.semanticgan.label_codec import LabelCodec
from raygseg.seeding import torch_rng
from tests.unit.methods.semanticgan.tiny_joint import ENCODER, THREE, TWO, joint_generator, tiny_distance

LENGTH = 12


def configure(**changes: Any) -> EncoderConfig:
    values: dict[str, Any] = {
        "name": "tiny", "generator": "tiny", "labelled": "tiny",
        "data": {"source": "tiny", "resolution": 32},
        "schedule": {"total_kimg": LENGTH * 4 / 1000, "batch_size": 4},
        "encoder": ENCODER,
        "loss": {"generated_share": 0.5},
    }  # fmt: skip
    return EncoderConfig.model_validate(values | changes)


def recipe(labels: LabelSpace = THREE, **changes: Any) -> EncoderRecipe:
    codec = LabelCodec(labels)
    return build_recipe(configure(**changes), joint_generator(codec), codec, tiny_distance())


class OwnPictures:
    """The generator's own pictures as data: unlabelled ones, and others with the generator's own label maps."""

    def __init__(self, labels: LabelSpace = THREE) -> None:
        codec = LabelCodec(labels)
        generator = joint_generator(codec)
        with torch.no_grad():
            rendered = generator.render(generator.latents(range(12)))
        assert rendered.label_logits is not None
        self.images = ((rendered.images.clamp(-1, 1) + 1) * 127.5).byte()
        self.maps = codec.decode(rendered.label_logits)

    def micro_batch(self, first: int, count: int) -> dict[str, Tensor]:
        at = [n % 12 for n in range(first, first + count)]
        known = [n % 3 for n in range(first, first + count)]
        return {"images": self.images[at], "labelled_images": self.images[known], "labels": self.maps[known]}


def losses(made: EncoderRecipe, step: int = 0) -> dict[str, float]:
    batch = MicroBatch(OwnPictures(made.codec.labels).micro_batch(0, 4), Draws(0, step, 0), 0)
    return {name: float(value) for name, value in made._loss(batch).statistics.items()}


def test_every_loss_falls_and_the_generator_stays() -> None:
    weights = {"generated_share": 0.5, "perceptual": 10.0}
    made = recipe(schedule={"total_kimg": 0.32, "batch_size": 4}, optimiser={"lr": 5e-3}, loss=weights)
    kept = copy.deepcopy(made.generator.state_dict())
    trainer = Trainer(made, OwnPictures())
    before = losses(made)
    for _ in range(30):
        trainer.step()
    after = losses(made)
    trainer.close()
    for name in ("perceptual", "squared_error", "latent", "cross_entropy"):
        assert after[f"loss/{name}"] < before[f"loss/{name}"], name
    assert after["loss"] < 0.9 * before["loss"]
    assert all(torch.equal(kept[name], tensor) for name, tensor in made.generator.state_dict().items())
    assert not any(parameter.requires_grad for parameter in made.generator.parameters())


def test_there_is_one_optimiser_for_all_of_the_encoder() -> None:
    """B11-9."""
    made = recipe()
    assert len(made.phases) == 1
    assert set(made.phases[0].parameters) == set(made.net.parameters())


def test_the_latent_loss_of_the_mean_code_is_one() -> None:
    """It is in units of the spread of w, and codes start at the mean."""
    made = recipe()
    torch.nn.init.zeros_(made.net.linear[0].weight)
    for linear in made.net.linear:
        torch.nn.init.zeros_(linear.weight)  # type: ignore[arg-type]
    values = [losses(made, step)["loss/latent"] for step in range(10)]
    assert sum(values) / len(values) == pytest.approx(1.0, abs=0.3)


def test_the_total_is_the_weighted_sum() -> None:
    weights = {
        "squared_error": 0.5, "perceptual": 2.0, "cross_entropy": 3.0, "dice": 0.25, "latent": 0.125,
        "generated_labels": 1.5, "generated_share": 0.5,
    }  # fmt: skip
    parts = losses(recipe(loss=weights))
    expected = sum(weight * parts[f"loss/{name}"] for name, weight in weights.items() if name != "generated_share")
    assert parts["loss"] == pytest.approx(expected, rel=1e-5)


def test_two_classes_take_one_channel() -> None:
    parts = losses(recipe(TWO))
    assert parts["loss/cross_entropy"] > 0 and 0 < parts["loss/dice"] <= 1


def test_terms_of_generated_pictures_can_be_left_out() -> None:
    assert not {"loss/latent", "loss/generated_labels"} & losses(recipe(loss={"latent": 0.0})).keys()
    assert "loss/generated_labels" not in losses(recipe())


def test_a_small_share_of_a_small_micro_batch_is_one_picture() -> None:
    small = {"schedule": {"total_kimg": 0.048, "batch_size": 4, "micro_batch": 2}, "loss": {"generated_share": 0.25}}
    assert "loss/latent" in losses(recipe(**small))
    assert "loss/latent" not in losses(recipe(**{**small, "loss": {"generated_share": 0.0}}))


def test_what_is_shipped_is_the_running_mean_of_the_weights() -> None:
    def apart(made: EncoderRecipe, start: dict[str, Tensor]) -> tuple[float, float]:
        """How far the mean is from the beginning, and from the weights."""
        mean, net = made.modules()["average"].state_dict(), made.modules()["net"].state_dict()
        keys = [key for key in start if start[key].is_floating_point()]
        return (
            sum(float((mean[key] - start[key]).abs().sum()) for key in keys),
            sum(float((mean[key] - net[key]).abs().sum()) for key in keys),
        )

    for kimg, follows in ((0.0, True), (1.0, False)):
        made = recipe(optimiser={"ema_kimg": kimg})
        start = {key: value.clone() for key, value in made.modules()["average"].state_dict().items()}
        for step in range(3):
            made.phases[0].optimiser.zero_grad()
            made._loss(MicroBatch(OwnPictures().micro_batch(0, 4), Draws(0, step, 0), 0)).loss.backward()
            made.phases[0].optimiser.step()
            made.end_step(step, 4 * step, {})
        moved, behind = apart(made, start)
        assert moved > 0 and (behind == 0) == follows


def test_noise_is_constant_unless_it_is_asked_for() -> None:
    """B11-12: the released training draws noise in every forward pass."""
    steady, restless = recipe(loss={"latent": 0.0}), recipe(loss={"latent": 0.0, "noise": "random"})
    assert losses(steady, 0) == losses(steady, 1)
    assert losses(restless, 0)["loss/squared_error"] != losses(restless, 1)["loss/squared_error"]
    assert losses(restless, 1) == losses(restless, 1)


def test_the_step_is_clipped_and_the_rate_held() -> None:
    made = recipe(optimiser={"clip_norm": 1e-3, "hold": 0.5, "lr": 1e-3, "final_lr_fraction": 0.1})
    norms: list[float] = []
    made.phases[0].optimiser.register_step_pre_hook(
        lambda *_: norms.append(float(sum(p.grad.square().sum() for p in made.net.parameters()).sqrt()))
    )
    trainer = Trainer(made, OwnPictures())
    rates = []
    for _ in range(LENGTH):
        trainer.step()
        rates.append(made.progress()["lr"])
    trainer.close()
    assert max(norms) <= 1.001e-3
    assert set(rates[: LENGTH // 2]) == {1e-3}
    assert rates[-1] < 1.7e-4


def test_a_run_that_stopped_ends_as_one_that_did_not() -> None:
    """With two micro-batches a step, and generated pictures: all draws follow from (seed, step, micro-batch)."""
    changes: dict[str, Any] = {"schedule": {"total_kimg": 0.1, "batch_size": 4, "micro_batch": 2}}
    whole = Trainer(recipe(**changes), OwnPictures())
    for _ in range(4):
        whole.step()
    first = Trainer(recipe(**changes), OwnPictures())
    for _ in range(2):
        first.step()
    state = copy.deepcopy(first.state_dict())
    second = Trainer(recipe(**changes), OwnPictures())
    second.load_state_dict(state)
    for _ in range(2):
        second.step()
    for name, module in whole.recipe.modules().items():
        for key, tensor in module.state_dict().items():
            assert torch.equal(tensor, second.recipe.modules()[name].state_dict()[key]), f"{name}.{key}"
    for trainer in (whole, first, second):
        trainer.close()


def test_codes_may_be_absolute_as_published() -> None:
    assert not recipe(encoder=ENCODER | {"codes": "absolute"}).net.mean.any()
    assert recipe().net.mean.any()


def test_pictures_of_another_size_are_refused() -> None:
    with pytest.raises(ConfigError, match="the generator draws 32 px"):
        recipe(data={"source": "tiny", "resolution": 64})
    with pytest.raises(ValueError, match="workers do not share"):
        configure(encoder=ENCODER | {"norm": "batch"}, runtime={"workers": 2})


def test_void_pixels_count_nothing() -> None:
    made = recipe(LabelSpace(THREE.names, void=255, background=0))
    data = OwnPictures().micro_batch(0, 4)
    torch.manual_seed(0)
    noisy = dict(data)
    noisy["labels"] = torch.where(
        torch.rand(data["labels"].shape, generator=torch_rng(0, "void")) < 0.3, 255, data["labels"]
    )
    result = made._loss(MicroBatch(noisy, Draws(0, 0, 0), 0))
    result.loss.backward()
    assert torch.isfinite(result.loss)
    assert all(torch.isfinite(p.grad).all() for p in made.net.parameters() if p.grad is not None)
