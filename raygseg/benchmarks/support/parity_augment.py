"""Adaptive augmentation against the public pipelines, given the same random draws (spec A12)."""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from raygseg.benchmarks.support import peers
from raygseg.benchmarks.support.agreement import Agreement
from raygseg.nn.adaptive_augment import Transforms, apply_colour, apply_geometry, draw_transforms
from raygseg.seeding import torch_rng

COUNT, SIZE = 4, 32  # pictures and their side
# In the order of execution: name, the distribution of its draw, numbers drawn a picture.
TRANSFORMS = (
    ("xflip", "rand", 1),
    ("rotate90", "rand", 1),
    ("xint", "rand", 2),
    ("scale", "randn", 1),
    ("rotate", "rand", 1),
    ("aniso", "randn", 1),
    ("rotate after", "rand", 1),
    ("xfrac", "randn", 2),
    ("brightness", "randn", 1),
    ("contrast", "randn", 1),
    ("lumaflip", "rand", 1),
    ("hue", "rand", 1),
    ("saturation", "randn", 1),
)
SWITCHES = tuple(name for name, _, _ in TRANSFORMS if name != "rotate after")  # of NVIDIA's pipeline


class Script(NamedTuple):
    """The draws of one pass: values [N, k] of each transform, and which pictures it touches [N]."""

    values: dict[str, Tensor]
    active: dict[str, Tensor]

    def draws(self, pairs_at_once: bool) -> list[tuple[str, Tensor]]:
        """(function of torch, numbers) in order: a transform's values, then its gate (0 passes p = 1, 1 does not)."""
        queue: list[tuple[str, Tensor]] = []
        for name, kind, _ in TRANSFORMS:
            value = self.values[name]
            parts = [value] if pairs_at_once else list(value.unbind(dim=1))
            queue += [(kind, part) for part in parts]
            queue.append(("rand", 1.0 - self.active[name].to(torch.float32)))
        return queue


def write_script(seed: int, only: str = "") -> Script:
    """Random values; `only` one transform on every picture, or each on about half of them."""
    rng = torch_rng(seed, "parity-augment")
    values: dict[str, Tensor] = {}
    active: dict[str, Tensor] = {}
    for name, kind, size in TRANSFORMS:
        draw: Callable[..., Tensor] = torch.rand if kind == "rand" else torch.randn
        values[name] = draw(COUNT, size, generator=rng)
        chosen = torch.rand(COUNT, generator=rng) < 0.5
        active[name] = torch.full((COUNT,), name == only) if only else chosen
    return Script(values, active)


@contextlib.contextmanager
def playing(queue: list[tuple[str, Tensor]]) -> Iterator[None]:
    """`torch.rand` and `torch.randn` give the numbers of the queue, in whatever shape they are asked for."""
    left = list(queue)

    def player(kind: str) -> Callable[..., Tensor]:
        def draw(size: Any, **_: Any) -> Tensor:
            wanted, numbers = left.pop(0)
            assert wanted == kind, f"torch.{kind} where torch.{wanted} was scripted"
            return numbers.reshape(size).clone()

        return draw

    with mock.patch.object(torch, "rand", player("rand")), mock.patch.object(torch, "randn", player("randn")):
        yield
    assert not left, f"{len(left)} draws were not taken"


def our_transforms(script: Script) -> Transforms:
    with playing(script.draws(pairs_at_once=False)):
        return draw_transforms(COUNT, SIZE, 1.0, torch.Generator())


def ours(images: Tensor, script: Script) -> Tensor:
    transforms = our_transforms(script)
    return apply_colour(apply_geometry(images, transforms.inverse_geometry), transforms.colour)


def nvidia(images: Tensor, script: Script) -> Tensor:
    """The public pipeline draws its own parameters from the same numbers."""
    module: Any = importlib.import_module("training.augment")
    pipe = module.AugmentPipe(**dict.fromkeys(SWITCHES, 1))
    with playing(script.draws(pairs_at_once=True)):
        seen: Tensor = pipe(images)
    return seen


def rosinality(images: Tensor, script: Script) -> Tensor:
    """The public code applies our matrices: it draws them from other functions of torch."""
    module: Any = importlib.import_module("non_leaking")
    transforms = our_transforms(script)
    seen, _ = module.augment(images, 1.0, (transforms.inverse_geometry, transforms.colour))
    return torch.as_tensor(seen)


def compare(theirs: Callable[[Tensor, Script], Tensor], gradients: bool) -> Agreement:
    """Each transform alone, all together, and the gradient with respect to the pictures if `gradients`."""
    agreement = Agreement()
    images = torch.randn(COUNT, 3, SIZE, SIZE, generator=torch_rng(0, "parity-pictures"))
    probe = torch.randn(COUNT, 3, SIZE, SIZE, generator=torch_rng(0, "parity-probe"))
    for name, _, _ in TRANSFORMS:
        for seed in range(3):
            script = write_script(seed, only=name)
            agreement.hold(f"augmentation, {name}", ours(images, script), theirs(images, script))
    for seed in range(10):
        script = write_script(seed)
        given = [images.clone().requires_grad_(gradients) for _ in range(2)]
        seen = [ours(given[0], script), theirs(given[1], script)]
        agreement.hold("augmentation, all", seen[0], seen[1])
        if gradients:
            found = [torch.autograd.grad((s * probe).sum(), g)[0] for s, g in zip(seen, given, strict=True)]
            agreement.hold("augmentation, all, gradients", found[0], found[1])
    return agreement


def main(words: list[str]) -> None:
    """Compare as the JSON of the command line says (peer, threads), and print {errors} as JSON."""
    settings = json.loads(words[1])
    torch.set_num_threads(settings["threads"])
    peers.enter(settings["peer"])
    # rosinality's backward pass of the sampling asks a private function of torch that has changed since.
    is_rosinality = settings["peer"] == peers.ROSINALITY
    agreement = compare(rosinality, gradients=False) if is_rosinality else compare(nvidia, gradients=True)
    print(json.dumps({"errors": agreement.errors}))


if __name__ == "__main__":
    main(sys.argv)
