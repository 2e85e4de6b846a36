"""Our StyleGAN2 against the public implementations: same weights, latents, noise and random draws.

The public code (NVIDIA's with its reference operators, rosinality's with its CPU operators) runs beside ours from the
checkouts that RAYGSEG_PEERS names. It writes its weights as it always does; ours reads them through the importer.
The error of a tensor is max |ours - theirs| / max |theirs|.

Everything is compared in fp32 and in fp64. Losses, gradients and what is made of gradients (R1, path length) have
jumps where leaky ReLU has its kink, and two correct fp32 forms of a wide network round some of its millions of
activations to different sides. Those quantities are therefore judged in fp64, where only a difference of formulas
remains, and their fp32 errors are given beside what the public code differs from itself by, with torch's other
convolution kernels (`rounding`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from raygseg.benchmarks.support import peers
from raygseg.benchmarks.support.agreement import largest
from raygseg.errors import ConfigError

SUPPORT = "raygseg.benchmarks.support"


class Comparison(NamedTuple):
    """One public implementation with one pair of networks (the numbers of `parity_networks.Case`)."""

    peer: str
    resolution: int
    channel_base: int
    channel_max: int
    mapping_layers: int
    w_dim: int
    batch: int

    @property
    def title(self) -> str:
        widths = f"base {self.channel_base} max {self.channel_max}"
        return f"{self.peer}, {self.resolution} px, {widths}, mapping {self.mapping_layers}, batch {self.batch}"


COMPARISONS = (
    Comparison(peers.NVIDIA_ADA, 32, 1024, 64, 2, 64, 8),
    Comparison(peers.NVIDIA_ADA, 32, 1024, 64, 8, 64, 8),
    Comparison(peers.NVIDIA_ADA, 64, 8192, 512, 8, 512, 4),
    Comparison(peers.NVIDIA_3, 32, 1024, 64, 2, 64, 8),
    Comparison(peers.NVIDIA_3, 64, 8192, 512, 8, 512, 4),
    Comparison(peers.ROSINALITY, 32, 16384, 512, 8, 512, 4),
)
GRADIENT_QUANTITIES = ("gradients", "path length", "r1")  # judged in fp64: they jump at kinks


def run(only: str = "", sizes: Sequence[int] = (32, 64), threads: int = 1) -> dict[str, Any]:
    """Compare. `relative_error`: the largest of `quantities`.

    Args:
        only: one public implementation, by the name of its folder; empty: all three.
        sizes: resolutions to compare at.
        threads: torch threads.

    Raises:
        MissingEnvironmentError: RAYGSEG_PEERS is not set, or lacks a checkout.
        ConfigError: nothing is left to compare.
    """
    chosen = [c for c in COMPARISONS if c.peer == (only or c.peer) and c.resolution in sizes]
    names = list(dict.fromkeys(c.peer for c in chosen))
    if not chosen:
        raise ConfigError(f"nothing to compare with only={only} sizes={list(sizes)}", "leave both out")
    cases: dict[str, dict[str, dict[str, Any]]] = {"fp32": {}, "fp64": {}}
    for comparison in chosen:
        module = f"{SUPPORT}.parity_{'rosinality' if comparison.peer == peers.ROSINALITY else 'nvidia'}"
        for precision, found in cases.items():
            settings = {"peer": comparison.peer, "case": comparison[1:], "precision": precision, "threads": threads}
            found[comparison.title] = peers.run_beside(module, settings)
    augmented = {name: _augmentation(name, threads) for name in names}
    quantities = judged(_errors(cases["fp32"]), _errors(cases["fp64"])) | largest(augmented)
    return {
        "name": "parity",
        "relative_error": max(quantities.values()),
        "quantities": quantities,
        "fp32": largest(_errors(cases["fp32"])),
        "fp64": largest(_errors(cases["fp64"])),
        "rounding": largest({title: case["rounding"] for title, case in cases["fp32"].items()}),
        "cases": {p: {t: _worst(case) for t, case in found.items()} for p, found in cases.items()},
        "settings": {
            "peers": names,
            "comparisons": [c.title for c in chosen],
            "threads": threads,
            "torch": torch.__version__,
        },
    }


def judged(fp32: dict[str, dict[str, float]], fp64: dict[str, dict[str, float]]) -> dict[str, float]:
    """The largest error of each quantity over {case: {quantity: error}}: gradients by fp64, all else by both."""
    double = largest(fp64)
    single = {quantity: 0.0 if _jumps(quantity) else error for quantity, error in largest(fp32).items()}
    return largest({"fp32": single, "fp64": double})


def _jumps(quantity: str) -> bool:
    return any(word in quantity for word in GRADIENT_QUANTITIES)


def _errors(cases: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    return {title: case["errors"] for title, case in cases.items()}


def _augmentation(name: str, threads: int) -> dict[str, float]:
    answer = peers.run_beside(f"{SUPPORT}.parity_augment", {"peer": name, "threads": threads})
    errors: dict[str, float] = answer["errors"]
    return errors


def _worst(case: dict[str, Any]) -> dict[str, Any]:
    """The largest error of a case, and where it was."""
    quantity = max(case["errors"], key=case["errors"].__getitem__)
    tensor = case["worst"].get(quantity, "")
    return {"relative_error": case["errors"][quantity], "quantity": quantity, **({"tensor": tensor} if tensor else {})}
