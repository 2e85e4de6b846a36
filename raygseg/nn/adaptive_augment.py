"""Differentiable augmentation of what a discriminator sees: blit, geometry, colour (spec A12, "bgc").

Drawing the parameters is apart from applying them, so that the same transforms can be applied to a
picture and its label map, or compared with another implementation.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from raygseg.nn.wavelet_resampling import SUPPORT, double, halve

UPRIGHT_TURN = math.pi / 18  # largest rotation, to either side, of pictures that stay upright
LUMA = (1.0 / math.sqrt(3.0), 1.0 / math.sqrt(3.0), 1.0 / math.sqrt(3.0))


class Transforms(NamedTuple):
    """inverse_geometry [N, 3, 3]: output pixel (centred coordinates) -> input pixel; colour [N, 4, 4] on RGB1."""

    inverse_geometry: Tensor
    colour: Tensor


def _eye(count: int, size: int) -> Tensor:
    return torch.eye(size).repeat(count, 1, 1)


def _scale_inverse(sx: Tensor, sy: Tensor) -> Tensor:
    matrix = _eye(len(sx), 3)
    matrix[:, 0, 0], matrix[:, 1, 1] = 1 / sx, 1 / sy
    return matrix


def _rotate_inverse(theta: Tensor) -> Tensor:
    """Inverse of the rotation by -theta, i.e. the rotation by theta: [[cos, -sin], [sin, cos]]."""
    matrix = _eye(len(theta), 3)
    cos, sin = theta.cos(), theta.sin()
    matrix[:, 0, 0], matrix[:, 0, 1], matrix[:, 1, 0], matrix[:, 1, 1] = cos, -sin, sin, cos
    return matrix


def _translate_inverse(tx: Tensor, ty: Tensor) -> Tensor:
    matrix = _eye(len(tx), 3)
    matrix[:, 0, 2], matrix[:, 1, 2] = -tx, -ty
    return matrix


class _Draw:
    """Per-sample draws that are replaced by a neutral value where the transform is not active."""

    def __init__(self, count: int, rng: torch.Generator) -> None:
        self.count, self.rng = count, rng

    def uniform(self) -> Tensor:
        return torch.rand(self.count, generator=self.rng)

    def normal(self) -> Tensor:
        return torch.randn(self.count, generator=self.rng)

    def gate(self, value: Tensor, p: float, neutral: float) -> Tensor:
        """`value` with probability p, else `neutral`."""
        return torch.where(self.uniform() < p, value, torch.full_like(value, neutral))


def draw_geometry(count: int, size: int, p: float, rng: torch.Generator, upright: bool = False) -> Tensor:
    """Compose the inverse geometry [N, 3, 3] of blit and geometric transforms, in the spec's order.

    `upright` leaves out mirroring and quarter turns and turns by 10 degrees at most: without it the two sides of
    things trade places in 23 % of the pictures at p = 0.2, in 45 % at 0.5, and a generator of few pictures may settle
    on the wrong one. Everything else is drawn as without it.
    """
    draw = _Draw(count, rng)
    g = _eye(count, 3)
    flip = draw.gate((draw.uniform() * 2).floor(), p, 0.0)
    quarter = draw.gate((draw.uniform() * 4).floor(), p, 0.0)
    if not upright:
        g = g @ _scale_inverse(1 - 2 * flip, torch.ones(count))
        g = g @ _rotate_inverse(quarter * (math.pi / 2))
    most = UPRIGHT_TURN if upright else math.pi
    tx, ty = (draw.uniform() * 2 - 1) * 0.125, (draw.uniform() * 2 - 1) * 0.125
    active = draw.uniform() < p
    g = g @ _translate_inverse(*((torch.where(active, t, 0.0) * size).round() for t in (tx, ty)))
    scale = draw.gate(torch.exp2(draw.normal() * 0.2), p, 1.0)
    g = g @ _scale_inverse(scale, scale)
    p_rotate = 1 - math.sqrt(max(0.0, 1 - p))  # P(before or after) = p
    theta = draw.gate((draw.uniform() * 2 - 1) * most, p_rotate, 0.0)
    g = g @ _rotate_inverse(theta)
    stretch = draw.gate(torch.exp2(draw.normal() * 0.2), p, 1.0)
    g = g @ _scale_inverse(stretch, 1 / stretch)
    theta = draw.gate((draw.uniform() * 2 - 1) * most, p_rotate, 0.0)
    g = g @ _rotate_inverse(theta)
    tx, ty = draw.normal() * 0.125, draw.normal() * 0.125
    active = draw.uniform() < p
    return g @ _translate_inverse(*(torch.where(active, t, 0.0) * size for t in (tx, ty)))


def _diagonal4(r: Tensor) -> Tensor:
    matrix = _eye(len(r), 4)
    for channel in range(3):
        matrix[:, channel, channel] = r
    return matrix


def draw_colour(count: int, p: float, rng: torch.Generator) -> Tensor:
    """Compose the colour matrix [N, 4, 4]: brightness, contrast, luma flip, hue, saturation."""
    draw = _Draw(count, rng)
    axis = torch.tensor([*LUMA, 0.0])
    outer = torch.outer(axis, axis)
    c = _eye(count, 4)
    brightness = _eye(count, 4)
    brightness[:, :3, 3] = draw.gate(draw.normal() * 0.2, p, 0.0)[:, None]
    c = brightness @ c
    c = _diagonal4(draw.gate(torch.exp2(draw.normal() * 0.5), p, 1.0)) @ c
    flip = draw.gate((draw.uniform() * 2).floor(), p, 0.0)
    c = (torch.eye(4) - 2 * outer * flip[:, None, None]) @ c
    c = _rotate_about_luma(draw.gate((draw.uniform() * 2 - 1) * math.pi, p, 0.0)) @ c
    saturation = draw.gate(torch.exp2(draw.normal()), p, 1.0)[:, None, None]
    return (outer + (torch.eye(4) - outer) * saturation) @ c


def _rotate_about_luma(theta: Tensor) -> Tensor:
    """Rodrigues' rotation by theta about (1, 1, 1) / sqrt(3), as [N, 4, 4]."""
    x, y, z = LUMA
    cross = torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    axis = torch.tensor(LUMA)
    cos, sin = theta.cos()[:, None, None], theta.sin()[:, None, None]
    matrix = _eye(len(theta), 4)
    matrix[:, :3, :3] = cos * torch.eye(3) + sin * cross + (1 - cos) * torch.outer(axis, axis)
    return matrix


def draw_transforms(count: int, size: int, p: float, rng: torch.Generator, upright: bool = False) -> Transforms:
    """Parameters for `count` pictures of `size` pixels, each transform active with probability p."""
    return Transforms(draw_geometry(count, size, p, rng, upright), draw_colour(count, p, rng))


def _margins(inverse: Tensor, height: int, width: int) -> list[int]:
    """Reflect padding [left, top, right, bottom] that keeps every sampled pixel inside, capped at size - 1."""
    cx, cy = (width - 1) / 2, (height - 1) / 2
    corners = torch.tensor([[-cx, -cy, 1.0], [cx, -cy, 1.0], [cx, cy, 1.0], [-cx, cy, 1.0]])
    reach = (inverse @ corners.t())[:, :2].permute(1, 0, 2).flatten(1)
    margin = torch.cat([-reach, reach]).amax(dim=1)
    margin = margin + torch.tensor([SUPPORT * 2 - cx, SUPPORT * 2 - cy] * 2)
    limit = torch.tensor([width - 1.0, height - 1.0] * 2)
    return [int(m) for m in torch.minimum(margin.clamp(min=0), limit).ceil()]


def _scaling(sx: float, sy: float) -> Tensor:
    return torch.diag(torch.tensor([sx, sy, 1.0]))


def _shift(tx: float, ty: float) -> Tensor:
    matrix = torch.eye(3)
    matrix[0, 2], matrix[1, 2] = tx, ty
    return matrix


def apply_geometry(images: Tensor, inverse_geometry: Tensor) -> Tensor:
    """Warp [N, C, H, W] of any channel count: reflect-pad, upsample, sample bilinearly at 2x, downsample, crop."""
    n, channels, height, width = images.shape
    inverse = inverse_geometry.cpu()
    left, top, right, bottom = _margins(inverse, height, width)
    x = F.pad(images, (left, right, top, bottom), mode="reflect")
    inverse = _shift((left - right) / 2, (top - bottom) / 2) @ inverse
    x = double(x)
    inverse = _scaling(2, 2) @ inverse @ _scaling(0.5, 0.5)
    inverse = _shift(-0.5, -0.5) @ inverse @ _shift(0.5, 0.5)
    rows, columns = (height + SUPPORT * 2) * 2, (width + SUPPORT * 2) * 2
    inverse = _scaling(2 / x.shape[3], 2 / x.shape[2]) @ inverse @ _scaling(columns / 2, rows / 2)
    theta = inverse[:, :2].to(device=images.device, dtype=images.dtype)
    grid = F.affine_grid(theta, [n, channels, rows, columns], align_corners=False)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return halve(x)


def apply_colour(images: Tensor, colour: Tensor) -> Tensor:
    """Multiply RGB (or the channel mean, for one channel) by the colour matrix."""
    n, channels, height, width = images.shape
    matrix = colour.to(device=images.device, dtype=images.dtype)
    flat = images.reshape(n, channels, height * width)
    if channels == 3:
        flat = matrix[:, :3, :3] @ flat + matrix[:, :3, 3:]
    elif channels == 1:
        mean = matrix[:, :3].mean(dim=1, keepdim=True)
        flat = flat * mean[:, :, :3].sum(dim=2, keepdim=True) + mean[:, :, 3:]
    else:
        raise ValueError(f"colour transforms need 1 or 3 channels, not {channels}")
    return flat.reshape(n, channels, height, width)


def augment(images: Tensor, p: float, rng: torch.Generator, upright: bool = False) -> Tensor:
    """Draw and apply everything to [N, 1 or 3, H, W]; the identity at p = 0."""
    if p <= 0:
        return images
    transforms = draw_transforms(images.shape[0], images.shape[3], p, rng, upright)
    return apply_colour(apply_geometry(images, transforms.inverse_geometry), transforms.colour)


def augment_pairs(
    images: Tensor, maps: Tensor, p: float, rng: torch.Generator, outside: Tensor, upright: bool = False
) -> tuple[Tensor, Tensor]:
    """As `augment`, with the same geometry for the maps [N, C, H, W] of the pictures and no colour (spec B11-8).

    Args:
        outside: [C, 1, 1], what the maps hold where nothing of the picture is left; pictures are grey there.
    """
    if p <= 0:
        return images, maps
    transforms = draw_transforms(images.shape[0], images.shape[3], p, rng, upright)
    layers = torch.cat([images, maps - outside], dim=1)  # beyond the padding the warp puts zeros
    warped = apply_geometry(layers, transforms.inverse_geometry)
    pictures, moved = warped.split([images.shape[1], maps.shape[1]], dim=1)
    return apply_colour(pictures, transforms.colour), moved + outside
