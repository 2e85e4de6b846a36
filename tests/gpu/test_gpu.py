"""What only a CUDA device can show; tests/conftest.py skips this tier, saying so, where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from raygseg.benchmarks.gpu_queue.chip import kernels
from raygseg.benchmarks.gpu_queue.resident import ResidentStream, toy_array
from raygseg.config.schema import GanConfig
from raygseg.data.sources import open_pictures
from raygseg.data.streams import PictureStream
from raygseg.engine import state_tree
from raygseg.engine.loop import Trainer
from raygseg.engine.memory import step_peak_bytes
from raygseg.interfaces import Draws, MicroBatch
from raygseg.methods.stylegan2.training import StyleGAN2Recipe, build_recipe
from raygseg.nn.adaptive_augment import augment

SOURCE = "toy://default?count=64&seed=0"


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    with kernels(tf32=False):
        yield


def gan(resolution: int = 16, batch: int = 8, base: int = 512, most: int = 32, **sections: Any) -> GanConfig:
    values: dict[str, Any] = {
        "name": "gpu-test",
        "data": {"source": SOURCE, "resolution": resolution},
        "schedule": {"total_kimg": 100, "batch_size": batch},
        "generator": {"z_dim": 32, "w_dim": 32, "mapping_layers": 2, "channel_base": base, "channel_max": most},
        "augment": {"mode": "none"},
    }
    return GanConfig.model_validate(values | sections)


def trainer_of(config: GanConfig, device: str) -> Trainer:
    pictures = open_pictures(SOURCE, config.data.resolution)
    return Trainer(build_recipe(config, device), PictureStream(pictures, config.seed, True))


def losses(trainer: Trainer, steps: int = 1) -> list[dict[str, float]]:
    return [{k: float(v) for k, v in trainer.step().items() if v.numel() == 1} for _ in range(steps)]


def phase_peak(recipe: StyleGAN2Recipe, name: str, images: torch.Tensor) -> int:
    """Bytes that the allocator adds at the peak of one phase's loss and gradient."""
    trained = {parameter for phase in recipe.phases for parameter in phase.parameters}
    phase = next(phase for phase in recipe.phases if phase.name == name)
    for parameter in trained:
        parameter.requires_grad_(False)
    for parameter in phase.parameters:
        parameter.requires_grad_(True)
    for counted in (False, True):  # the first run loads kernels and allocates handles
        for parameter in trained:
            parameter.grad = None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        phase.loss(MicroBatch({"images": images}, Draws(0, 0, 0), 0)).loss.backward()
        torch.cuda.synchronize()
        if counted:
            peak = torch.cuda.max_memory_allocated() - before
    return peak


def random_images(config: GanConfig, device: str) -> torch.Tensor:
    shape = (config.schedule.micro, 3, config.data.resolution, config.data.resolution)
    return torch.randint(0, 256, shape, dtype=torch.uint8).to(device)


def test_a_step_agrees_with_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StyleGAN2Recipe, "_drawn_on", "cpu")  # a GPU's generator draws other numbers
    config = gan(augment={"mode": "fixed", "p": 0.5})
    ours, theirs = (trainer_of(config, device) for device in ("cuda", "cpu"))
    (here,), (there,) = losses(ours), losses(theirs)
    assert {"loss/generator", "loss/discriminator", "loss/path_length", "loss/r1"} <= here.keys()
    for name, value in there.items():
        assert here[name] == pytest.approx(value, rel=2e-3, abs=2e-4), name


def test_noise_drawn_on_the_gpu_is_the_same_every_time() -> None:
    recipe = build_recipe(gan(), "cuda")
    first, again = (recipe._noise(Draws(0, 3, 1), "Gmain", 2) for _ in range(2))
    assert all(torch.equal(a, b) and a.is_cuda for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[-1], recipe._noise(Draws(0, 4, 1), "Gmain", 2)[-1])


@pytest.mark.parametrize("precision", ["bf16"])
def test_lower_precision_trains(precision: str) -> None:
    trainer = trainer_of(gan(optimiser={"precision": precision}, augment={"mode": "fixed", "p": 0.3}), "cuda")
    for step in losses(trainer, 20):
        assert step["nonfinite"] == 0
        assert all(abs(value) < 100 for name, value in step.items() if name.startswith("loss/"))


def test_lower_precision_stays_near_fp32() -> None:
    exact, rounded = (
        losses(trainer_of(gan(optimiser={"precision": precision}), "cuda"))[0] for precision in ("fp32", "bf16")
    )
    for name in ("loss/generator", "loss/discriminator"):
        assert rounded[name] == pytest.approx(exact[name], rel=0.05), name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_estimate_of_memory_holds(precision: str) -> None:
    """The hungriest phase, at a size where maps outweigh the workspaces that the estimate leaves out."""
    config = gan(128, 16, 8192, 256, optimiser={"precision": precision})
    data = {"images": random_images(config, "cpu").to("meta")}
    estimates = step_peak_bytes(build_recipe(config, "meta"), data)
    recipe = build_recipe(config, "cuda")
    measured = {name: phase_peak(recipe, name, random_images(config, "cuda")) for name in estimates}
    assert max(measured.values()) == pytest.approx(max(estimates.values()), rel=0.15), (measured, estimates)


@pytest.mark.parametrize("phase", ["Gmain", "Dmain"])
def test_recomputing_takes_less_memory(phase: str) -> None:
    peaks = []
    for recompute_from in (0, 16):
        config = gan(128, 16, 4096, 128, runtime={"recompute_from": recompute_from})
        peaks.append(phase_peak(build_recipe(config, "cuda"), phase, random_images(config, "cuda")))
    kept, recomputed = peaks
    assert recomputed < 0.8 * kept


def test_a_run_goes_on_from_its_state() -> None:
    config = gan()
    straight = trainer_of(config, "cuda")
    losses(straight, 2)
    state = state_tree.snapshot(straight.state_dict())
    resumed = trainer_of(config, "cuda")
    resumed.load_state_dict(state)
    assert resumed.clock == straight.clock
    tensors, skeleton = state_tree.split(state)
    again, same = state_tree.split(resumed.state_dict())
    assert same == skeleton
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())
    for one, other in zip(losses(straight, 3), losses(resumed, 3), strict=True):
        for name, value in one.items():
            assert other[name] == pytest.approx(value, rel=1e-2, abs=1e-3), name


def test_augmentation_agrees_with_the_cpu() -> None:
    images = torch.rand(16, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    here, there = (
        augment(images.to(device), 0.9, torch.Generator().manual_seed(1)).cpu() for device in ("cuda", "cpu")
    )
    assert (here - there).abs().max() < 2e-3
    assert (here - there).abs().mean() < 1e-5


def test_pictures_on_the_device_come_in_the_same_order() -> None:
    pictures = open_pictures(SOURCE, 16)
    resident = ResidentStream(pictures, toy_array(SOURCE, 16), 3, True, "cuda")
    batch = resident.micro_batch(40, 48)["images"]
    assert batch.is_cuda
    assert torch.equal(batch.cpu(), PictureStream(pictures, 3, True).micro_batch(40, 48)["images"])
