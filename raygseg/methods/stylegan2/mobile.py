"""A pretrained face generator in the MobileStyleGAN form (Belousov 2021), behind the `Generator` interface.

The published network is a distillation of StyleGAN2 on faces: the mapping network is StyleGAN2's; the
synthesis doubles the size with an inverse Haar wavelet transform and uses modulated depthwise separable
convolutions without demodulation. Its weights are one safetensors file (`load_mobile_generator`).

The published network draws at 1024 px. Smaller pictures are exact area averages of that picture and cheaper:
the last inverse Haar step is left out, because half its low-pass channels are already the 2x2 mean.
A `Framing` crops picture and features alike, for photos that show the object closer up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raygseg.bundle import Bundle
from raygseg.errors import CheckpointError, ConfigError, MissingEnvironmentError
from raygseg.interfaces import FeatureLayer, Rendering
from raygseg.nn.framing import FULL, WHOLE, Framing, Patch
from raygseg.seeding import torch_rng

CHANNELS = (512, 512, 512, 512, 256, 128, 64)  # of the published network after layer i, at 8 * 2^i px
W_DIM = 512


def inverse_haar(x: Tensor) -> Tensor:
    """[N, 4q, H, W] -> [N, q, 2H, 2W]: q low-pass channels, then (q, 3) detail channels (channels-last inside)."""
    x = x.permute(0, 2, 3, 1)
    n, height, width, channels = x.shape
    q = channels // 4
    low, details = x[..., :q] * 0.5, x[..., q:] * 0.5
    row, column, cross = details[..., 0::3], details[..., 1::3], details[..., 2::3]
    upper, lower = low + row, low - row
    plus, minus = column + cross, column - cross
    pairs = (
        torch.stack((upper + plus, upper - plus), dim=3),
        torch.stack((lower + minus, lower - minus), dim=3),
    )
    return torch.stack(pairs, dim=2).reshape(n, 2 * height, 2 * width, q).permute(0, 3, 1, 2)


class Modulation(nn.Module):
    """An affine function of w scales the input channels (the weights hold the 1/sqrt(fan_in) factor)."""

    def __init__(self, w_dim: int, channels: int) -> None:
        super().__init__()
        self.mod = nn.Linear(w_dim, channels)

    def scale(self, x: Tensor, w: Tensor) -> Tensor:
        style: Tensor = self.mod(w)
        return x * style.to(x.dtype)[:, :, None, None]


class StyledConvolution(Modulation):
    """Modulate, convolve (plain 3x3, or depthwise 3x3 then 1x1), add noise and bias, leaky ReLU 0.2."""

    def __init__(self, w_dim: int, inputs: int, outputs: int, resolution: int, depthwise: bool) -> None:
        super().__init__(w_dim, inputs)
        if depthwise:
            self.dw = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
            self.pw = nn.Conv2d(inputs, outputs, 1, bias=False)
        else:
            self.weight = nn.Parameter(torch.empty(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(1, outputs, 1, 1))
        self.noise: Tensor
        self.register_buffer("noise", torch.zeros(1, 1, resolution, resolution))
        self.depthwise = depthwise

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None, patch: Patch = WHOLE) -> Tensor:
        """noise: [N, 1, R, R] standard normal, or None for the fixed noise; x covers `patch`."""
        bias = self.bias.flatten().to(x.dtype)
        if self.depthwise:
            x = self._pointwise(F.conv2d(x, self.dw.weight.to(x.dtype), padding=1, groups=x.shape[1]), w, bias)
        else:
            x = F.conv2d(self.scale(x, w), self.weight.to(x.dtype), bias, padding=1)
        shift = patch.cut(self.noise if noise is None else noise * self.noise.std()).to(x.dtype)
        # In-place steps on a view would make the backward pass copy between memory formats.
        return F.leaky_relu(x + shift, 0.2) if x.requires_grad else F.leaky_relu_(x.add_(shift), 0.2)

    def _pointwise(self, x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
        """The 1x1 convolution with the modulation folded into its weights: a depthwise step commutes with scaling."""
        n, channels, height, width = x.shape
        kernel = (self.pw.weight[:, :, 0, 0] * self.mod(w)[:, None]).to(x.dtype)
        flat = x.permute(0, 2, 3, 1).reshape(n, height * width, channels)
        out = torch.baddbmm(bias, flat, kernel.transpose(1, 2))
        return out.view(n, height, width, -1).permute(0, 3, 1, 2)


class SynthesisLayer(nn.Module):
    """Inverse Haar to twice the size, then two styled convolutions."""

    def __init__(self, w_dim: int, inputs: int, outputs: int, resolution: int) -> None:
        super().__init__()
        self.up = Modulation(w_dim, inputs)
        self.conv1 = StyledConvolution(w_dim, inputs // 4, outputs, resolution, depthwise=True)
        self.conv2 = StyledConvolution(w_dim, outputs, outputs, resolution, depthwise=True)

    def forward(self, x: Tensor, ws: Tensor, noise: tuple[Tensor | None, Tensor | None], patch: Patch) -> Tensor:
        """ws: [N, 3, w_dim]."""
        x = inverse_haar(self.up.scale(x, ws[:, 0]))
        x = self.conv1(x, ws[:, 1], noise[0], patch)
        return self.conv2(x, ws[:, 2], noise[1], patch)  # type: ignore[no-any-return]


class ToImage(Modulation):
    """Modulated 1x1 convolution to the 12 wavelet channels of the picture."""

    def __init__(self, w_dim: int, inputs: int) -> None:
        super().__init__(w_dim, inputs)
        self.weight = nn.Parameter(torch.empty(12, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, 12, 1, 1))

    def forward(self, x: Tensor, w: Tensor, shrink: int) -> Tensor:
        """Maps of the last layer at r px -> the picture at r / shrink px; shrink 0 gives all its 2 r px."""
        bias = self.bias.flatten()
        if shrink == 0:
            return inverse_haar(F.conv2d(self.scale(x.float(), w), self.weight, bias))
        # Averaging, scaling and the 1x1 convolution commute: average first, then touch fewer pixels.
        # Half the low-pass channel is the 2x2 mean of the full picture.
        x = F.avg_pool2d(x, shrink) if shrink > 1 else x
        return F.conv2d(self.scale(x.float(), w), self.weight[:3], bias[:3]) * 0.5


class MobileGenerator(nn.Module):
    """MobileStyleGAN with named feature layers; see `interfaces.Generator`.

    Args:
        resolution: pixels of the picture: the full resolution, 8 * 2^(number of layers), divided by a
            power of two.
        framing: the window shown; other than the whole picture, a window is cut from a picture of
            twice the resolution and from every feature map (which keeps its size).
        precision: bf16 runs the convolutions in bfloat16.
        channels: after each layer; the default is the published network, 1024 px.
        w_dim: of z and w.

    Raises ConfigError for a resolution that it cannot draw.
    """

    def __init__(
        self,
        resolution: int = 1024,
        framing: Framing = FULL,
        precision: Literal["fp32", "bf16"] = "fp32",
        channels: Sequence[int] = CHANNELS,
        w_dim: int = W_DIM,
    ) -> None:
        super().__init__()
        self.full_resolution = 8 << len(channels)
        if resolution < 8 or resolution > self.full_resolution or resolution & (resolution - 1):
            raise ConfigError(
                f"the generator cannot draw {resolution} px", f"use a power of two from 8 to {self.full_resolution}"
            )
        self.resolution, self.framing, self.precision = resolution, framing, precision
        self.channels, self.w_dim = tuple(channels), w_dim
        self.num_ws = 1 + 3 * len(channels) + 1  # a w for every modulated step: conv1, (up, conv1, conv2) ..., to_img
        self.window_at = self.full_resolution // 8  # px of the last maps computed whole
        self.feature_layers = tuple(FeatureLayer(f"layers.{i}", c, 8 << i) for i, c in enumerate(channels))
        self.mapping = nn.ModuleList(nn.Linear(w_dim, w_dim) for _ in range(8))
        self.w_mean: Tensor
        self.register_buffer("w_mean", torch.zeros(w_dim))
        first = channels[0]
        self.const = nn.Parameter(torch.zeros(1, first, 4, 4))
        self.conv1 = StyledConvolution(w_dim, first, first, 4, depthwise=False)
        self.layers = nn.ModuleList(
            SynthesisLayer(w_dim, a, b, 8 << i)
            for i, (a, b) in enumerate(zip((first, *channels[:-1]), channels, strict=True))
        )
        self.to_img = ToImage(w_dim, channels[-1])

    def build_arguments(self) -> dict[str, Any]:
        """What rebuilds this network (`from_build`), JSON values only."""
        return {
            "architecture": "mobile",
            "resolution": self.resolution,
            "framing": [self.framing.zoom, self.framing.centre_x, self.framing.centre_y],
            "precision": self.precision,
            "channels": list(self.channels),
            "w_dim": self.w_dim,
        }

    @classmethod
    def from_build(cls, build: Mapping[str, Any]) -> MobileGenerator:
        return cls(
            build["resolution"], Framing(*build["framing"]), build["precision"], build["channels"], build["w_dim"]
        )

    def framed(self, framing: Framing) -> MobileGenerator:
        """This network with another window; the weights are shared."""
        twin = MobileGenerator(self.resolution, framing, self.precision, self.channels, self.w_dim)
        twin.load_state_dict(self.state_dict(), assign=True)
        return twin.train(self.training).requires_grad_(False)

    def map(self, z: Tensor) -> Tensor:
        """[N, w_dim] z -> w (spec A1)."""
        w = z / torch.sqrt(z.square().mean(1, keepdim=True) + 1e-8)
        for layer in self.mapping:
            w = F.leaky_relu(layer(w), 0.2) * math.sqrt(2)
        return w

    def latents(self, seeds: Sequence[int], truncation_psi: float = 1.0) -> Tensor:
        """[N, num_ws, w_dim]; row i depends on seeds[i] only."""
        z = torch.stack([torch.randn(self.w_dim, generator=torch_rng(int(s), "latent")) for s in seeds])
        # One row at a time: matrix products round differently for other batch sizes.
        w = torch.cat([self.map(row[None].to(self.w_mean)) for row in z])
        w = self.w_mean + truncation_psi * (w - self.w_mean)
        return w[:, None].expand(-1, self.num_ws, -1).contiguous()

    def fixed_noise(self) -> list[Tensor]:
        """The constant noise of every modulated step, divided by its spread: maps [1, 1, r, r]."""
        return [c.noise / c.noise.std().clamp_min(1e-8) for c in self.modules() if isinstance(c, StyledConvolution)]

    def _noise(self, seeds: Sequence[int] | None, step: int, size: int) -> Tensor | None:
        """[N, 1, size, size] standard normal noise of the modulated step, or None for the fixed noise."""
        if seeds is None:
            return None
        draws = [torch.randn(1, size, size, generator=torch_rng(int(s), "noise", step)) for s in seeds]
        return torch.stack(draws).to(self.const.device)

    def render(
        self,
        ws: Tensor,
        noise_seeds: Sequence[int] | None = None,
        layers: Sequence[str] = (),
        noise: Mapping[int, Tensor] | None = None,
    ) -> Rendering:
        """Picture [N, 3, R, R] in about [-1, 1] and the maps of the asked layers, from one forward pass.

        Maps come in the precision of the convolutions and show the same window as the picture.
        ws: [N, num_ws, w_dim], one w for each modulated step (W+). Differentiable in ws and noise.
        """
        maps, patch = self._synthesise(ws, noise_seeds, noise or {})
        wanted = {name: self._frame_features(maps[name], name, patch) for name in layers}
        last = maps[self.feature_layers[-1].name]
        if self.framing.whole:
            shrink = self.full_resolution // 2 // self.resolution
            return Rendering(self.to_img(last, ws[:, -1], shrink), wanted)
        source = min(max(2 * self.resolution, 32), self.full_resolution)
        picture = self.to_img(last, ws[:, -1], self.full_resolution // 2 // source)
        return Rendering(self.framing.crop(picture, self.resolution, patch), wanted)

    def _synthesise(
        self, ws: Tensor, seeds: Sequence[int] | None, given: Mapping[int, Tensor]
    ) -> tuple[dict[str, Tensor], Patch]:
        """Maps after every layer by name; those past `window_at` px cover only the returned patch.

        The margin of the patch is wider than the reach of the convolutions that follow, so what the
        window shows is the same as without cutting.
        """
        maps: dict[str, Tensor] = {}
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        patch, window = WHOLE, self.framing.patch(margin=3, grid=self.window_at, step=4)
        x = self.const.to(dtype).expand(len(ws), -1, -1, -1)

        def noise_at(step: int, size: int) -> Tensor | None:
            return given[step] if step in given else self._noise(None if given else seeds, step, size)

        x = self.conv1(x, ws[:, 0], noise_at(0, 4))
        for i, layer in enumerate(self.feature_layers):
            if layer.resolution == 2 * self.window_at:
                x, patch = window.cut(x), window
            size = layer.resolution
            noise = (noise_at(2 * i + 1, size), noise_at(2 * i + 2, size))
            x = self.layers[i](x, ws[:, 1 + 3 * i : 4 + 3 * i], noise, patch)
            maps[layer.name] = x
        return maps, patch

    def _frame_features(self, maps: Tensor, name: str, patch: Patch) -> Tensor:
        if self.framing.whole:
            return maps
        size = {layer.name: layer.resolution for layer in self.feature_layers}[name]
        return self.framing.crop(maps.float(), size, patch if size > self.window_at else WHOLE).to(maps.dtype)

    def to_bundle(self, facts: Mapping[str, Any] | None = None) -> Bundle:
        """This generator as a bundle of kind `generator`."""
        return Bundle("generator", self.build_arguments(), dict(self.state_dict()), facts=dict(facts or {}))


def load_mobile_generator(
    path: str | Path,
    resolution: int = 1024,
    framing: Framing = FULL,
    precision: Literal["fp32", "bf16"] = "fp32",
) -> MobileGenerator:
    """Read the published weights (safetensors, fp16) into a frozen generator.

    Raises MissingEnvironmentError where the file is absent, CheckpointError where it is another network's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not Path(path).is_file():
        raise MissingEnvironmentError(
            f"{path}: the face generator's weights are not there", "set RAYGSEG_DATA to the folder of the data sets"
        )
    generator = MobileGenerator(resolution, framing, precision)
    try:
        tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
        generator.load_state_dict(tensors)
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: not the weights of the face generator ({str(error).splitlines()[0]})", "fetch the file again"
        ) from error
    return generator.eval().requires_grad_(False)
