"""What the fused projection saves over the explicit hypercolumn stack: the stage after the generator.

Both sides get the same twelve maps of a 256 px StyleGAN2 config F (4,864 channels) and make 128
channels at 256 px. The baseline is the explicit stack at its best: one buffer that every layer is
resized into, and one matrix product over it (not a concatenation of resized copies, which would
hold the stack twice). Time is paired within one process; peak memory is measured in a fresh
process a side, as the growth of the resident set above the maps.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from raygseg.interfaces import FeatureLayer
from raygseg.nn.hypercolumn import FusedHypercolumn
from raygseg.seeding import torch_rng

WIDTHS = {8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128}
WIDTH = 128
GRID = 256
Features = dict[str, Tensor]


def tapped_layers() -> list[FeatureLayer]:
    """The two convolutions at each of 8..256 px: 4,864 channels (spec 1.2)."""
    return [FeatureLayer(f"b{r}.conv{i}", channels, r) for r, channels in WIDTHS.items() for i in (0, 1)]


def random_maps(layers: list[FeatureLayer], batch: int = 1) -> Features:
    rng = torch_rng(0, "benchmark-maps")
    return {x.name: torch.randn(batch, x.channels, x.resolution, x.resolution, generator=rng) for x in layers}


def explicit_stack(head: FusedHypercolumn, features: Features) -> Tensor:
    """Baseline: resize every map into one [N, 4864, 256, 256] buffer, multiply once."""
    batch, grid = next(iter(features.values())).shape[0], head.resolution
    stack = torch.empty(batch, head.in_channels, grid, grid)
    first = 0
    for layer in head.layers:
        maps = features[layer.name]
        if layer.resolution != grid:
            maps = functional.interpolate(maps, size=grid, mode="bilinear", align_corners=True)
        stack[:, first : first + layer.channels] = maps
        first += layer.channels
    weight = head.weight.expand(batch, -1, -1)
    product = torch.baddbmm(head.bias[:, None], weight, stack.flatten(2))
    return product.view(batch, -1, grid, grid)


def fused(head: FusedHypercolumn, features: Features) -> Tensor:
    out: Tensor = head(features)
    return out


ARMS: dict[str, Callable[[FusedHypercolumn, Features], Tensor]] = {"explicit": explicit_stack, "fused": fused}


def _seconds(work: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak_bytes(arm: str) -> int:
    """Growth of this process's peak resident set over one forward pass; call it in a fresh process.

    A pass over tiny maps comes first, so that the kernels' own code and buffers count for neither side.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.no_grad():
        layers = tapped_layers()
        small = [FeatureLayer(x.name, 8, min(x.resolution, 16)) for x in layers]
        ARMS[arm](FusedHypercolumn(small, 8, 16), random_maps(small))
        head, features = FusedHypercolumn(layers, WIDTH, GRID), random_maps(layers)
        before = _resident_bytes("VmRSS")
        ARMS[arm](head, features)
        return _resident_bytes("VmHWM") - before


def _resident_bytes(field: str) -> int:
    """VmRSS (now) or VmHWM (peak) of this process. (getrusage's peak is inherited from the parent.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) * 1024


def _peak_in_fresh_process(arm: str) -> int:
    return int(run_python(f"from raygseg.benchmarks.hypercolumn import peak_bytes; print(peak_bytes({arm!r}))"))


def run_python(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def run(repeats: int = 5, threads: int = 1, memory_repeats: int = 3) -> dict[str, Any]:
    """Measure. `ratio`: median of explicit / fused seconds over paired repeats; memory as medians.

    Args:
        repeats: pairs of forward passes, in alternating order.
        threads: torch threads of both sides.
        memory_repeats: fresh processes a side; 0 leaves memory out. Linux only.
    """
    previous = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    layers = tapped_layers()
    head, features = FusedHypercolumn(layers, WIDTH, GRID), random_maps(layers)
    seconds: dict[str, list[float]] = {arm: [] for arm in ARMS}
    try:
        with torch.no_grad():
            ours, theirs = fused(head, features), explicit_stack(head, features)  # also the warm-up
            error = float((ours.double() - theirs.double()).norm() / theirs.double().norm())
            del ours, theirs
            for i in range(repeats):
                for arm in ARMS if i % 2 else reversed(ARMS):
                    seconds[arm].append(_seconds(lambda arm=arm: ARMS[arm](head, features)))  # type: ignore[misc]
    finally:
        torch.set_num_threads(previous)
    peaks = {arm: median(_peak_in_fresh_process(arm) for _ in range(memory_repeats)) for arm in ARMS if memory_repeats}
    return {
        "name": "hypercolumn",
        "ratio": round(median(e / f for e, f in zip(seconds["explicit"], seconds["fused"], strict=True)), 2),
        "memory_ratio": round(peaks["explicit"] / peaks["fused"], 2) if peaks else None,
        "relative_error": error,
        "explicit_seconds": round(median(seconds["explicit"]), 4),
        "fused_seconds": round(median(seconds["fused"]), 4),
        "explicit_peak_mib": round(peaks["explicit"] / 2**20, 1) if peaks else None,
        "fused_peak_mib": round(peaks["fused"] / 2**20, 1) if peaks else None,
        "settings": {
            "channels": head.in_channels,
            "maps": len(layers),
            "width": WIDTH,
            "grid": GRID,
            "batch": 1,
            "threads": threads,
            "repeats": repeats,
            "dtype": "float32",
            "torch": torch.__version__,
        },
    }
