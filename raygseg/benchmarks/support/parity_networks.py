"""Our networks and losses against a public implementation's, given the same weights, latents and noise."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from raygseg.benchmarks.support import peers
from raygseg.benchmarks.support.agreement import Agreement
from raygseg.interfaces import Rendering
from raygseg.methods.stylegan2.discriminator import Discriminator
from raygseg.methods.stylegan2.generator import StyleGAN2Generator
from raygseg.methods.stylegan2.importers import open_weights
from raygseg.methods.stylegan2.losses import discriminator_loss, generator_loss, path_length_penalty, r1_penalty
from raygseg.seeding import torch_rng

TRUNCATION = 0.7
R1_GAMMA = 2.0
PATH_MEAN, PATH_DECAY = 0.3, 0.01


class Case(NamedTuple):
    """One pair of networks to compare.

    batch: a multiple of the standard-deviation group; twice the group shows which samples form one.
    """

    resolution: int
    channel_base: int
    channel_max: int
    mapping_layers: int
    w_dim: int
    batch: int


class Inputs(NamedTuple):
    """z [N, w_dim], noise maps [N, 1, r, r] by layer, pictures [N, 3, R, R], path noise [N, 3, R, R]."""

    z: Tensor
    noise: list[Tensor]
    real: Tensor
    path_noise: Tensor


class Peer(Protocol):
    """A public implementation. Every loss leaves its parameters' gradients behind."""

    def save(self, path: Path) -> None:
        """Write the weights as that code does."""
        ...

    def codes(self, z: Tensor) -> Tensor: ...

    def render(self, ws: Tensor, noise: Sequence[Tensor] | None, fused: bool) -> tuple[Tensor, list[Tensor]]:
        """The picture and the map of each convolution; `fused`: per-sample weights in one grouped convolution."""
        ...

    def truncated(self, z: Tensor, psi: float) -> Tensor:
        """Pictures with constant noise."""
        ...

    def logits(self, images: Tensor) -> Tensor: ...

    def generator_loss(self, inputs: Inputs) -> Tensor: ...

    def path_length(self, inputs: Inputs) -> Tensor: ...

    def discriminator_loss(self, inputs: Inputs) -> Tensor: ...

    def r1(self, inputs: Inputs) -> Tensor: ...

    def gradients(self, which: str) -> Mapping[str, Tensor]:
        """Gradients by our names; `which`: generator or discriminator. Those never reached are left out."""
        ...


def randomise(*networks: nn.Module) -> None:
    """Move every bias, noise strength and mean away from its initial value, which would hide differences."""
    rng = torch_rng(0, "parity-weights")
    with torch.no_grad():
        for network in networks:
            for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
                if tensor.ndim <= 1 or name.endswith("bias"):
                    gain = 10.0 if name.startswith(("mapping.fc", "style.")) else 0.3
                    tensor.add_(gain * torch.randn(tensor.shape, generator=rng))


def draw_inputs(case: Case, shapes: Sequence[tuple[int, int]]) -> Inputs:
    def normal(purpose: str, *shape: int) -> Tensor:
        return torch.randn(shape, generator=torch_rng(0, f"parity-{purpose}"))

    picture = (case.batch, 3, case.resolution, case.resolution)
    return Inputs(
        normal("z", case.batch, case.w_dim),
        [normal(f"noise{i}", case.batch, 1, *shape) for i, shape in enumerate(shapes)],
        normal("real", *picture).clamp(-1, 1),
        normal("path", *picture),
    )


class Ours:
    """Our networks with the weights that the public code wrote, read by our importer."""

    def __init__(self, peer: Peer, suffix: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"weights{suffix}"
            peer.save(path)
            source = open_weights(path)
            weights, judge = source.generator(), source.discriminator()
        self.dtype = torch.get_default_dtype()
        self.generator = StyleGAN2Generator(**weights.build)
        self.generator.load_state_dict(dict(weights.tensors))
        self.discriminator = Discriminator(**judge.build)
        self.discriminator.load_state_dict(dict(judge.tensors))

    def codes(self, z: Tensor) -> Tensor:
        w: Tensor = self.generator.mapping(z)
        return w[:, None].expand(-1, self.generator.num_ws, -1)

    def render(self, ws: Tensor, noise: Sequence[Tensor] | None, names: Sequence[str] = ()) -> Rendering:
        rendering: Rendering = self.generator.synthesis(ws, noise, names, self.dtype)
        return rendering

    def logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.discriminator(images, self.dtype)
        return logits

    def generator_loss(self, inputs: Inputs) -> Tensor:
        return generator_loss(self.logits(self.render(self.codes(inputs.z), inputs.noise).images))

    def path_length(self, inputs: Inputs) -> Tensor:
        ws = self.codes(inputs.z)
        images = self.render(ws, inputs.noise).images
        return path_length_penalty(images, ws, inputs.path_noise, PATH_MEAN, PATH_DECAY).penalty

    def discriminator_loss(self, inputs: Inputs) -> Tensor:
        with torch.no_grad():
            fake = self.render(self.codes(inputs.z), inputs.noise).images
        return discriminator_loss(self.logits(fake), self.logits(inputs.real))

    def r1(self, inputs: Inputs) -> Tensor:
        real = inputs.real.clone().requires_grad_(True)
        return r1_penalty(real, self.logits(real), R1_GAMMA)

    def gradients(self, loss: Tensor, which: str) -> dict[str, Tensor]:
        """Of the parameters that the loss reaches."""
        network = self.generator if which == "generator" else self.discriminator
        names, parameters = zip(*network.named_parameters(), strict=True)
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        return {name: g for name, g in zip(names, found, strict=True) if g is not None}


LOSSES = {
    "generator_loss": "generator",
    "path_length": "generator",
    "discriminator_loss": "discriminator",
    "r1": "discriminator",
}


def compare(peer: Peer, case: Case, suffix: str) -> tuple[Agreement, Agreement]:
    """Everything that training and sampling use: ours against theirs, and theirs against themselves.

    The second is the public code with torch's other set of convolution kernels: how far fp32 rounding alone
    moves each loss and gradient.

    Args:
        suffix: of the weight file that the peer writes.
    """
    ours, agreement, rounding = Ours(peer, suffix), Agreement(), Agreement()
    inputs = draw_inputs(case, ours.generator.synthesis.noise_shapes())
    _compare_pictures(peer, ours, inputs, agreement)
    for name, which in LOSSES.items():
        mine: Callable[[Inputs], Tensor] = getattr(ours, name)
        loss, quantity = mine(inputs), name.replace("_", " ")
        theirs = _their_loss(peer, name, inputs)
        agreement.hold(quantity, loss, theirs[0])
        agreement.hold_all(f"{quantity}, gradients", *_reached(ours.gradients(loss, which), theirs[1]))
        if ours.dtype == torch.float32:
            with torch.backends.mkldnn.flags(enabled=False):
                again = _their_loss(peer, name, inputs)
            rounding.hold(quantity, again[0], theirs[0])
            rounding.hold_all(f"{quantity}, gradients", again[1], theirs[1])
    return agreement, rounding


def _their_loss(peer: Peer, name: str, inputs: Inputs) -> tuple[Tensor, dict[str, Tensor]]:
    value: Tensor = getattr(peer, name)(inputs)
    return value, {key: g.clone() for key, g in peer.gradients(LOSSES[name]).items()}


def _compare_pictures(peer: Peer, ours: Ours, inputs: Inputs, agreement: Agreement) -> None:
    generator = ours.generator
    names = [layer.name for layer in generator.feature_layers]
    with torch.no_grad():
        ws = ours.codes(inputs.z)
        agreement.hold("w", ws, peer.codes(inputs.z))
        for title, noise in (("", inputs.noise), (", constant noise", None)):
            for fused in (False, True):
                rendering = ours.render(ws, noise, names)
                images, maps = peer.render(ws, noise, fused)
                agreement.hold(f"image{title}", rendering.images, images)
                for name, theirs in zip(names, maps, strict=True):
                    agreement.hold(f"feature map {name}", rendering.features[name], theirs)
        truncated = ours.render(generator.truncate(ws, TRUNCATION), None).images
        agreement.hold(f"image, truncation {TRUNCATION}", truncated, peer.truncated(inputs.z, TRUNCATION))
        agreement.hold("logits", ours.logits(inputs.real), peer.logits(inputs.real))


def _reached(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Both without the gradients that are zero on one side and absent on the other."""

    def real(own: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: g for name, g in own.items() if name in other or bool(g.any())}

    return real(ours, theirs), real(theirs, ours)


def main(words: Sequence[str], make: Callable[[str, Case], Peer], suffix: str) -> None:
    """Compare as the JSON of the command line says, and print {errors, worst, rounding} as JSON.

    Its keys: peer, case (the numbers of a `Case`), precision (fp32 or fp64), threads.
    """
    settings = json.loads(words[1])
    torch.set_num_threads(settings["threads"])
    if settings["precision"] == "fp64":
        peers.in_double_precision()
    case = Case(*settings["case"])
    agreement, rounding = compare(make(settings["peer"], case), case, suffix)
    worst = {quantity: name for quantity, name in agreement.worst.items() if name}
    print(json.dumps({"errors": agreement.errors, "worst": worst, "rounding": rounding.errors}))
