from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from raygseg.benchmarks.stylegan2_step import gan_config
from raygseg.config.schema import GanConfig
from raygseg.engine.memory import LiveBytes, step_peak_bytes
from raygseg.methods.stylegan2.training import build_recipe
from raygseg.pipelines.plan import plan

KIB = 1024


def test_what_is_held_counts_and_what_is_dropped_does_not() -> None:
    with LiveBytes() as count:
        held = [torch.empty(KIB, device="meta") for _ in range(3)]
        assert count.live == 3 * 4 * KIB
        view = held[0].view(32, 32).t()  # no storage of its own
        assert count.live == 3 * 4 * KIB
        del held
        assert count.live == 4 * KIB and view.shape == (32, 32)
        del view
        assert count.live == 0 and count.peak == 3 * 4 * KIB


def test_what_autograd_keeps_counts_until_the_backward_pass() -> None:
    x = torch.empty(KIB, device="meta", requires_grad=True)
    with LiveBytes() as count:
        loss = x.exp().exp().sum()  # exp keeps its result: two maps, and the sum
        assert count.live == 2 * 4 * KIB + 4
        loss.backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None and count.live == 4 * KIB + 4


def test_every_phase_of_a_gan_is_counted_and_grows_with_the_micro_batch() -> None:
    def peaks(batch: int) -> dict[str, int]:
        recipe = build_recipe(gan_config(8, 64, 8, batch, "fp32"), "meta")
        return step_peak_bytes(recipe, {"images": torch.empty(batch, 3, 8, 8, dtype=torch.uint8, device="meta")})

    four, sixteen = peaks(4), peaks(16)
    assert set(four) == {"Gmain", "Greg", "Dmain", "Dreg"}
    for phase, size in four.items():
        assert 0 < size < sixteen[phase] < 4 * size + 1


def test_a_layer_keeps_what_it_should() -> None:
    """A 3 x 3 convolution saves its input; an activation in place shares its output."""
    weight = torch.empty(8, 8, 3, 3, device="meta", requires_grad=True)
    x = torch.empty(4, 8, 16, 16, device="meta")
    with LiveBytes() as count:
        y = F.leaky_relu(F.conv2d(x, weight, padding=1), 0.2, inplace=True)
        assert count.peak == y.numel() * 4


RESIDENT = """
from raygseg.engine.process import use_cpu
use_cpu(1)
from raygseg.benchmarks.stylegan2_step import _pictures, gan_config
from raygseg.engine.loop import Trainer
from raygseg.methods.stylegan2.training import build_recipe
config = gan_config(64, 4096, 64, 8, "bf16")
trainer = Trainer(build_recipe(config, "cpu"), _pictures(config))
for _ in range(5):
    trainer.step()
status = open("/proc/self/status").read()
print(int(status.split("VmHWM:")[1].split()[0]))
import os
os._exit(0)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_the_plan_foretells_a_process_within_a_quarter() -> None:
    plain = gan_config(64, 4096, 64, 8, "bf16").model_dump()
    told = plan(GanConfig.model_validate(plain | {"runtime": {"in_process": True}}))["memory"]["in all on a CPU"]
    done = subprocess.run([sys.executable, "-u", "-c", RESIDENT], capture_output=True, text=True, check=True)
    measured = int(done.stdout) / 1024
    assert 0.75 * measured < float(told.removesuffix(" MiB").replace(",", "")) < 1.25 * measured
