"""SemanticGAN's released generator and label discriminator beside ours: same weights, codes, noise and pairs.

Its two CUDA operators are replaced by plain torch; nothing else of it is touched. Widths below 64 px are fixed at 512
channels there, so a case is a resolution and what comes out.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raygseg.benchmarks.support import peers
from raygseg.benchmarks.support.agreement import Agreement
from raygseg.benchmarks.support.parity_networks import randomise
from raygseg.methods.semanticgan.label_discriminator import LabelDiscriminator
from raygseg.methods.stylegan2.generator import StyleGAN2Generator
from raygseg.methods.stylegan2.importers.rosinality import generator_name
from raygseg.seeding import torch_rng

STYLE_DIM, LAYERS, BATCH = 64, 2, 2
SCALES = 3


class Case(NamedTuple):
    resolution: int
    image_channels: int
    label_channels: int


def upfirdn2d(x: Tensor, kernel: Tensor, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0)) -> Tensor:
    """Zero-stuff, pad, convolve, decimate (spec A2)."""
    n, channels, height, width = x.shape
    stuffed = x.new_zeros(n, channels, height * up, width * up)
    stuffed[:, :, ::up, ::up] = x
    padded = F.pad(stuffed, (pad[0], pad[1], pad[0], pad[1]))
    weight = kernel.flip((0, 1))[None, None].expand(channels, 1, *kernel.shape)
    return F.conv2d(padded, weight, groups=channels)[:, :, ::down, ::down]


def fused_leaky_relu(x: Tensor, bias: Tensor, negative_slope: float = 0.2, scale: float = 2**0.5) -> Tensor:
    shape = [1, -1] + [1] * (x.ndim - 2)
    return F.leaky_relu(x + bias.reshape(shape), negative_slope) * scale


class FusedLeakyReLU(nn.Module):
    def __init__(self, channel: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channel))

    def forward(self, x: Tensor) -> Tensor:
        return fused_leaky_relu(x, self.bias)


def released() -> Any:
    """The released networks' module, with the operators above."""
    peers.enter(peers.SEMANTICGAN)
    operators = types.ModuleType("models.op")
    vars(operators).update(upfirdn2d=upfirdn2d, fused_leaky_relu=fused_leaky_relu, FusedLeakyReLU=FusedLeakyReLU)
    importlib.import_module("models")
    sys.modules["models.op"] = operators
    return importlib.import_module("models.stylegan2_seg")


def our_generator(theirs: Mapping[str, Tensor], case: Case) -> StyleGAN2Generator:
    """With the released generator's weights; the label layers are named after the picture layers."""
    ours = StyleGAN2Generator(
        case.resolution, STYLE_DIM, STYLE_DIM, LAYERS, 32768, 512, case.image_channels, case.label_channels
    )
    state = ours.state_dict()
    for name, tensor in state.items():
        if name == "mapping.w_avg":
            continue
        as_picture = generator_name(name.replace("to_labels", "to_image"))
        source = as_picture.replace("to_rgb", "to_seg") if "to_labels" in name else as_picture
        state[name] = theirs[source].reshape(tensor.shape)
    ours.load_state_dict(state)
    return ours.eval()


def our_judge(theirs: Mapping[str, Tensor], channels: int) -> LabelDiscriminator:
    """With the released label discriminator's weights; its last scale is the finest."""
    ours = LabelDiscriminator(channels)
    state: dict[str, Tensor] = {}
    for i in range(SCALES):
        scale = f"scale{SCALES - 1 - i}_layer"
        for layer, name in ((0, "first"), (4, "last")):
            for leaf in ("weight", "bias"):
                state[f"scales.{i}.{name}.{leaf}"] = theirs[f"{scale}{layer}.0.{leaf}"]
        for j in range(3):
            for leaf, source in (("weight", "weight_orig"), ("u", "weight_u"), ("v", "weight_v")):
                state[f"scales.{i}.middle.{j}.{leaf}"] = theirs[f"{scale}{j + 1}.0.0.{source}"]
    ours.load_state_dict(state)
    return ours.eval()


def compare(networks: Any, case: Case) -> Agreement:
    """Pictures, labels, patch logits and features of one case."""
    agreement = Agreement()
    mode = "RGB" if case.image_channels == 3 else "L"
    torch.manual_seed(0)
    generator = networks.GeneratorSeg(case.resolution, STYLE_DIM, LAYERS, seg_dim=case.label_channels, image_mode=mode)
    channels = case.image_channels + case.label_channels
    judge = networks.MultiscaleDiscriminator(channels, getIntermFeat=True)
    randomise(generator, judge)
    _settle(judge)
    ours = our_generator(generator.state_dict(), case)
    z = torch.randn(BATCH, STYLE_DIM, generator=torch_rng(0, "parity-z"))
    with torch.no_grad():
        images, labels = generator.eval()([z], randomize_noise=False)
        w = ours.mapping(z)
        rendering = ours.synthesis(w[:, None].expand(-1, ours.num_ws, -1))
        agreement.hold("picture", rendering.images, images)
        agreement.hold("labels", rendering.label_logits, labels)
        scales = judge.eval()(torch.cat([images, labels], dim=1))
        mine = our_judge(judge.state_dict(), channels)(images, labels)
        for i, (theirs, own) in enumerate(zip(scales, mine, strict=True)):
            agreement.hold("patch logits", own.logits, theirs[-1], str(i))
            for j, maps in enumerate(theirs[:-1]):
                agreement.hold("features", own.features[j], maps, f"{i}.{j}")
    return agreement


def _settle(judge: nn.Module) -> None:
    """A training pass each makes the singular vectors fit the weights again, as in training."""
    for module in judge.modules():
        if isinstance(module, nn.Conv2d) and hasattr(module, "weight_u"):
            with torch.no_grad():
                for _ in range(5):
                    module.train()(torch.zeros(1, module.in_channels, 8, 8))


def main(words: Sequence[str]) -> None:
    """Compare the `cases` of the JSON on the command line, and print {errors, worst} a case as JSON."""
    settings = json.loads(words[1])
    torch.set_num_threads(1)
    networks = released()
    found = [compare(networks, Case(*case)) for case in settings["cases"]]
    print(json.dumps({"errors": [a.errors for a in found], "worst": [a.worst for a in found]}))


if __name__ == "__main__":
    main(sys.argv)
