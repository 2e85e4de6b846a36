"""Item public-256: the training step of the public code (stylegan2-ada-pytorch) on the same chip.

Its networks, losses and operators as its own training loop drives them: lazy regularisers, Adam, the running
mean of the generator, algorithms of convolutions chosen by trial, TF32 off. It runs in a process of its own:
`python -m ... '{"half": true, ...}'` prints the figures as the last line.
"""

from __future__ import annotations

import copy
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from raygseg.benchmarks.support import peers
from raygseg.benchmarks.support.convolution_floor import wait

if TYPE_CHECKING:
    from raygseg.benchmarks.gpu_queue.lease import Lease

ROUND = 16
HALF_RESOLUTIONS = 4  # its setting for mixed precision: the four largest resolutions in fp16, clamped
CLAMP = 256
WANTED_SECONDS = 100.0  # the first time, with building the operators
OPERATORS = ("bias_act", "upfirdn2d")


def run(lease: Lease, item: str) -> bool:
    """Its default mixed precision, then fp32; True when both are on record."""
    from raygseg.benchmarks.gpu_queue.timing import SIZES

    complete = True
    for key, half in (("mixed fp16", True), ("fp32", False)):
        if lease.has(item, key):
            continue
        if lease.scale == "full" and lease.remaining() < WANTED_SECONDS:
            complete = False
            continue
        settings = {**vars(SIZES[lease.scale]), "half": half, "device": lease.device}
        lease.record(
            item, key, {**_beside(settings, str(lease.travels / "peers"), lease.remaining()), "settings": settings}
        )
    return complete


def _beside(settings: dict[str, Any], folder: str, seconds: float) -> dict[str, Any]:
    """The figures that the process prints, or what kept it from printing them."""
    path = os.pathsep.join([str(peers.REPOSITORY), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, peers.VARIABLE: os.path.abspath(folder), "PYTHONPATH": path.rstrip(os.pathsep)}
    command = [sys.executable, "-m", "raygseg.benchmarks.gpu_queue.public_step", json.dumps(settings)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=max(seconds, 30.0))
    except subprocess.TimeoutExpired:
        return {"error": f"not over after {seconds:.0f} s"}
    if done.returncode:
        return {"error": done.stderr[-2000:]}
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    if not all(figures["cuda_operators"].values()):
        figures["said"] = done.stderr[-2000:]  # why they did not build
    return figures


class PublicStep:
    """The public networks and losses with the optimisers of its training loop."""

    def __init__(self, settings: dict[str, Any]) -> None:
        peers.enter(peers.NVIDIA_ADA)
        networks: Any = importlib.import_module("training.networks")
        self.batch, self.device = int(settings["batch"]), torch.device(settings["device"])
        half = HALF_RESOLUTIONS if settings["half"] else 0
        clamp = CLAMP if settings["half"] else None
        widths = {"channel_base": settings["channel_base"], "channel_max": settings["channel_max"]}
        synthesis = {**widths, "num_fp16_res": half, "conv_clamp": clamp}
        shape = {"img_resolution": settings["resolution"], "img_channels": 3}
        codes = {"z_dim": settings["w_dim"], "c_dim": 0, "w_dim": settings["w_dim"]}
        mapping = {"num_layers": settings["mapping_layers"]}
        g = networks.Generator(**codes, **shape, mapping_kwargs=mapping, synthesis_kwargs=synthesis)
        d = networks.Discriminator(c_dim=0, **shape, **widths, num_fp16_res=half, conv_clamp=clamp)
        self.g, self.d = (network.train().requires_grad_(False).to(self.device) for network in (g, d))
        self.average = copy.deepcopy(self.g).eval()
        self.z_dim, self.step_number = int(settings["w_dim"]), 0
        side = settings["resolution"]
        self.real = torch.rand(self.batch, 3, side, side, device=self.device) * 2 - 1
        self.loss: Any = importlib.import_module("training.loss").StyleGAN2Loss(
            device=self.device, G_mapping=self.g.mapping, G_synthesis=self.g.synthesis, D=self.d, r1_gamma=1.0
        )
        self.phases = [*self._phases("G", self.g, 4), *self._phases("D", self.d, 16)]

    def _phases(self, name: str, network: nn.Module, interval: int) -> list[tuple[str, nn.Module, Any, int]]:
        c = interval / (interval + 1)
        adam = torch.optim.Adam(network.parameters(), lr=0.0025 * c, betas=(0.0, 0.99**c), eps=1e-8)
        return [(f"{name}main", network, adam, 1), (f"{name}reg", network, adam, interval)]

    def step(self) -> None:
        for name, network, adam, interval in self.phases:
            if self.step_number % interval:
                continue
            adam.zero_grad(set_to_none=True)
            network.requires_grad_(True)
            labels = torch.zeros(self.batch, 0, device=self.device)
            z = torch.randn(self.batch, self.z_dim, device=self.device)
            self.loss.accumulate_gradients(
                phase=name, real_img=self.real, real_c=labels, gen_z=z, gen_c=labels, sync=True, gain=interval
            )
            network.requires_grad_(False)
            for parameter in network.parameters():
                if parameter.grad is not None:
                    torch.nan_to_num(parameter.grad, 0.0, 1e5, -1e5, out=parameter.grad)
            adam.step()
        with torch.no_grad():
            for average, value in zip(self.average.parameters(), self.g.parameters(), strict=True):
                average.copy_(value.lerp(average, 0.998))
        self.step_number += 1

    @torch.no_grad()
    def render(self) -> Tensor:
        ws = torch.zeros(self.batch, self.average.num_ws, self.z_dim, device=self.device)
        images: Tensor = self.average.synthesis(ws, noise_mode="const")
        return images


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    public = PublicStep(settings)
    device, rounds = public.device, int(settings["rounds"])
    for _ in range(int(settings["warm_up"])):
        public.step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = sum(_timed(public.step, device) for _ in range(rounds * ROUND))
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    public.render()
    inference = median(_timed(public.render, device) for _ in range(int(settings["renders"])))
    return {
        "training": {
            "images_per_second": round(rounds * ROUND * public.batch / seconds, 2),
            "seconds_a_round": seconds / rounds,
            "peak_mib": round(peak / 2**20, 1),
        },
        "inference": {"images_per_second": round(public.batch / inference, 1)},
        "cuda_operators": {name: _built(name) for name in OPERATORS},
    }


def _timed(work: Callable[[], object], device: torch.device) -> float:
    wait(device)
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def _built(operator: str) -> bool:
    module: Any = importlib.import_module(f"torch_utils.ops.{operator}")
    return module._plugin is not None


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
