"""StyleGAN2 generator: mapping network and skip synthesis (spec A3-A5), with an optional label branch (spec B3)."""

from __future__ import annotations

import itertools
from collections import abc
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raygseg.errors import ConfigError
from raygseg.interfaces import FeatureLayer, Rendering
from raygseg.nn.half import dtype_at
from raygseg.nn.layers import EqualLinear, recomputed
from raygseg.nn.modulation import StyledConv, ToImage
from raygseg.nn.resampling import upsample
from raygseg.seeding import torch_rng


def channels_at(resolution: int, channel_base: int, channel_max: int) -> int:
    """Width rule min(base / r, max) (spec A1)."""
    return min(channel_base // resolution, channel_max)


def check_resolution(resolution: int) -> int:
    """log2 of a power of two of at least 4; ConfigError otherwise."""
    if resolution < 4 or resolution & (resolution - 1):
        raise ConfigError(f"resolution {resolution} is not a power of two of at least 4", "use 32, 64, 128, 256, ...")
    return resolution.bit_length() - 1


class Mapping(nn.Module):
    """z [N, z_dim] -> w [N, w_dim]: unit second moment, then fully connected layers (lr multiplier 0.01)."""

    w_avg: Tensor

    def __init__(self, z_dim: int, w_dim: int, num_layers: int) -> None:
        super().__init__()
        sizes = [z_dim] + [w_dim] * num_layers
        self.layers = nn.ModuleList(
            EqualLinear(a, b, lr_multiplier=0.01, activate=True) for a, b in itertools.pairwise(sizes)
        )
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z: Tensor) -> Tensor:
        w = z * (z.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.layers:
            w = layer(w)
        return w


class SynthesisBlock(nn.Module):
    """One resolution: (up-)convolutions and what it adds to picture and labels; w indices per spec A5, B3."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        image_channels: int,
        label_channels: int = 0,
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.first_w = 0 if resolution == 4 else 2 * (resolution.bit_length() - 3) - 1
        self.const: nn.Parameter | None = None
        self.conv0: StyledConv | None = None
        if resolution == 4:
            self.const = nn.Parameter(torch.randn(out_channels, 4, 4))
        else:
            self.conv0 = StyledConv(in_channels, out_channels, w_dim, resolution, up=True)
        self.conv1 = StyledConv(out_channels, out_channels, w_dim, resolution)
        self.to_image = ToImage(out_channels, image_channels, w_dim)
        self.to_labels = ToImage(out_channels, label_channels, w_dim) if label_channels else None

    @property
    def convs(self) -> list[tuple[str, StyledConv]]:
        named = [] if self.conv0 is None else [(f"b{self.resolution}.conv0", self.conv0)]
        return [*named, (f"b{self.resolution}.conv1", self.conv1)]

    def forward(
        self,
        x: Tensor | None,
        outputs: tuple[Tensor | None, Tensor | None],
        ws: Tensor,
        noise: Sequence[Tensor | None],
        layers: Sequence[str],
        features: dict[str, Tensor],
        dtype: torch.dtype,
        labels_shape_trunk: bool,
    ) -> tuple[Tensor, tuple[Tensor, Tensor | None]]:
        """Maps and outputs (picture, labels) of the resolution below to those of this one.

        Asked layers go into `features`.
        """
        if self.const is not None:
            x = self.const.to(dtype).expand(ws.shape[0], -1, -1, -1).contiguous(memory_format=torch.channels_last)
        assert x is not None
        x = x.to(dtype)
        for offset, ((name, conv), map_) in enumerate(zip(self.convs, noise, strict=True)):
            x = conv(x, ws[:, self.first_w + offset], map_)
            if name in layers:
                features[name] = x
        image, labels = outputs
        w = ws[:, self.first_w + len(self.convs)]
        image = _accumulated(image, self.to_image(x, w))
        if self.to_labels is not None:
            maps, code = (x, w) if labels_shape_trunk else (x.detach(), w.detach())
            labels = _accumulated(labels, self.to_labels(maps, code))
        return x, (image, labels)


def _accumulated(below: Tensor | None, part: Tensor) -> Tensor:
    """The output of the resolution below at twice the size, plus this one's part."""
    return part if below is None else upsample(below) + part


class Synthesis(nn.Module):
    """W+ codes [N, num_ws, w_dim] -> picture [N, C, R, R] in [-1, 1] (not clamped), with named feature maps.

    With label channels it also gives label logits, made at every resolution from the same maps and the same w as
    the picture, and summed over the resolutions like it (spec B3).

    Attributes:
        recompute_from: blocks from this resolution on keep no activations for the backward pass but
            compute them again there (0: none do). The numbers are the same.
        labels_shape_trunk: whether gradients of the label logits reach maps and codes, or only the label
            branch's own layers (spec B11-4).
    """

    def __init__(
        self,
        w_dim: int,
        resolution: int,
        channel_base: int,
        channel_max: int,
        image_channels: int = 3,
        label_channels: int = 0,
    ) -> None:
        super().__init__()
        log2 = check_resolution(resolution)
        self.resolution, self.w_dim, self.num_ws = resolution, w_dim, 2 * log2 - 2
        self.recompute_from, self.labels_shape_trunk = 0, True
        widths = {2**i: channels_at(2**i, channel_base, channel_max) for i in range(2, log2 + 1)}
        self.blocks = nn.ModuleList(
            SynthesisBlock(widths[max(r // 2, 4)], widths[r], w_dim, r, image_channels, label_channels) for r in widths
        )
        self.feature_layers = tuple(
            FeatureLayer(name, widths[block.resolution], block.resolution)
            for block in self._blocks()
            for name, _ in block.convs
        )

    def _blocks(self) -> list[SynthesisBlock]:
        return [block for block in self.blocks if isinstance(block, SynthesisBlock)]

    def noise_shapes(self) -> list[tuple[int, int]]:
        return [(layer.resolution, layer.resolution) for layer in self.feature_layers]

    def forward(
        self,
        ws: Tensor,
        noise: Sequence[Tensor | None] | None = None,
        layers: Sequence[str] = (),
        dtype: torch.dtype = torch.float32,
    ) -> Rendering:
        """
        Args:
            noise: one [N, 1, r, r] map a convolution, in layer order; None uses the constant buffer(s).
            layers: names of the feature maps to return (taken after the activation).
            dtype: working precision of the convolutions (fp16: where `half.dtype_at` says so); picture and
                labels are always accumulated in fp32.
        """
        features: dict[str, Tensor] = {}
        x: Tensor | None = None
        outputs: tuple[Tensor | None, Tensor | None] = (None, None)
        maps = itertools.repeat(None) if noise is None else iter(noise)
        for block in self._blocks():
            own = [next(maps) for _ in block.convs]
            precision = dtype_at(block.resolution, self.resolution, dtype)
            arguments = (x, outputs, ws, own, layers, features, precision, self.labels_shape_trunk)
            if self.recompute_from and block.resolution >= self.recompute_from and not layers:
                x, outputs = recomputed(block, *arguments)
            else:
                x, outputs = block(*arguments)
        image, labels = outputs
        assert image is not None
        return Rendering(image, features, labels)


class StyleGAN2Generator(nn.Module):
    """Mapping and synthesis; implements `interfaces.Generator`.

    Args:
        resolution: power of two.
        channel_base, channel_max: channels at r are min(base / r, max).
        image_channels: 3, or 1 for grey pictures, which `render` gives as three equal channels.
        label_channels: of the label branch; 0: none, plain StyleGAN2.
    """

    def __init__(
        self,
        resolution: int,
        z_dim: int = 512,
        w_dim: int = 512,
        mapping_layers: int = 8,
        channel_base: int = 32768,
        channel_max: int = 512,
        image_channels: int = 3,
        label_channels: int = 0,
    ) -> None:
        super().__init__()
        self.build: dict[str, Any] = {
            "resolution": resolution,
            "z_dim": z_dim,
            "w_dim": w_dim,
            "mapping_layers": mapping_layers,
            "channel_base": channel_base,
            "channel_max": channel_max,
            "image_channels": image_channels,
        }
        if label_channels:
            self.build["label_channels"] = label_channels
        self.z_dim, self.label_channels = z_dim, label_channels
        self.mapping = Mapping(z_dim, w_dim, mapping_layers)
        self.synthesis = Synthesis(w_dim, resolution, channel_base, channel_max, image_channels, label_channels)
        self.resolution, self.w_dim, self.num_ws = resolution, w_dim, self.synthesis.num_ws
        self.feature_layers = self.synthesis.feature_layers

    @property
    def device(self) -> torch.device:
        return self.mapping.w_avg.device

    def truncate(self, ws: Tensor, truncation_psi: float) -> Tensor:
        """w_avg + psi * (w - w_avg)."""
        if truncation_psi == 1.0:
            return ws
        return self.mapping.w_avg.lerp(ws, truncation_psi)

    def latents(self, seeds: Sequence[int], truncation_psi: float = 1.0) -> Tensor:
        z = torch.stack([torch.randn(self.z_dim, generator=torch_rng(seed, "latent")) for seed in seeds])
        # One row at a time: matrix products round differently for other batch sizes, and a row must
        # not depend on its neighbours.
        w = torch.cat([self.mapping(row[None].to(self.device)) for row in z])
        return self.truncate(w[:, None].expand(-1, self.num_ws, -1), truncation_psi)

    def noise(self, seeds: Sequence[int]) -> list[Tensor]:
        """Per-layer noise maps [N, 1, r, r]; row i depends on seeds[i] only."""
        shapes = self.synthesis.noise_shapes()
        total = sum(h * w for h, w in shapes)
        flat = torch.stack([torch.randn(total, generator=torch_rng(seed, "noise")) for seed in seeds]).to(self.device)
        maps = flat.split([h * w for h, w in shapes], dim=1)
        return [m.reshape(len(seeds), 1, h, w) for m, (h, w) in zip(maps, shapes, strict=True)]

    def fixed_noise(self) -> list[Tensor]:
        """The constant buffers as maps [1, 1, r, r], in layer order."""
        return [conv.noise_const[None, None] for block in self.synthesis._blocks() for _, conv in block.convs]

    def render(
        self,
        ws: Tensor,
        noise_seeds: Sequence[int] | None = None,
        layers: Sequence[str] = (),
        noise: abc.Mapping[int, Tensor] | None = None,
    ) -> Rendering:
        maps: list[Tensor] | list[Tensor | None] | None = None
        if noise:
            maps = [noise.get(i) for i in range(len(self.feature_layers))]
        elif noise_seeds is not None:
            maps = self.noise(noise_seeds)
        rendering: Rendering = self.synthesis(ws, maps, layers)
        if rendering.images.shape[1] == 1:
            return rendering._replace(images=rendering.images.expand(-1, 3, -1, -1))
        return rendering
