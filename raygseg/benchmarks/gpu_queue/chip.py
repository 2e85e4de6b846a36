"""What the chip could do: its peak by its data sheet, the largest matrix product measured, and counts of work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from torch import Tensor

from raygseg.benchmarks.support.convolution_floor import ConvolutionLog, wait
from raygseg.interfaces import Draws, MicroBatch, Recipe

# Dense bf16 with fp32 accumulation, TFLOP/s, as the makers state it; the first name that the device's contains.
BF16_PEAKS = {"H200": 989.0, "H100 PCIe": 756.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0}


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else device


def stated_peak(device: str) -> float | None:
    """TFLOP/s; None for a device that the table lacks."""
    name = device_name(device)
    return next((peak for word, peak in BF16_PEAKS.items() if word in name), None)


def matmul_tflops(device: str, side: int, repeats: int = 10) -> float:
    """Of a bf16 product of two random square matrices."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(repeats + 3):
        wait(torch.device(device))
        start = time.perf_counter()
        torch.mm(a, b)
        wait(torch.device(device))
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / median(seconds[3:]) / 1e12


@contextmanager
def kernels(*, tf32: bool, tuned: bool = False) -> Iterator[None]:
    """fp32 products in TF32 or not; convolution algorithms chosen by trial or not. As before afterwards."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark
    cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = tf32, tf32, tuned
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = before


def phase_flops(recipe: Recipe, data: dict[str, Tensor]) -> dict[str, int]:
    """Additions and multiplications in the dense convolutions of each phase, one micro-batch; on the meta device.

    Matrix products (mapping, styles, epilogue) and depthwise filters are left out: under a per cent.
    """
    batch = MicroBatch(data, Draws(recipe.seed, 0, 0), 0)
    trained = {parameter for phase in recipe.phases for parameter in phase.parameters}
    counts = {}
    for phase in recipe.phases:
        for parameter in trained:
            parameter.requires_grad_(False)
        for parameter in phase.parameters:
            parameter.requires_grad_(True)
        with ConvolutionLog() as log:
            phase.loss(batch).loss.backward()
        counts[phase.name] = log.flops
        for parameter in trained:
            parameter.grad = None
    return counts


def mib(size: float) -> float:
    return round(size / 2**20, 1)


def share(tflops: float, device: str, matmul: float) -> dict[str, Any]:
    """The same speed as shares of the stated peak and of the measured product."""
    peak = stated_peak(device)
    return {
        "tflops": round(tflops, 2),
        "share_of_bf16_peak": round(tflops / peak, 4) if peak else None,
        "share_of_matmul": round(tflops / matmul, 4),
    }
