"""The affine augmentation of auto-shot training, on batches (RepurposeGAN spec 1.7), and colour jitter.

A picture and its soft labels are resampled on one grid. Pixels that come from outside the frame are
either grey and not valid, or reflected and valid, half and half: the first does not teach that
parts end at the frame, the second fills the frame with something to label. Every mirror image,
drawn or made by a reflection, has its left and right classes swapped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

FILL = 0.0  # mid grey of [-1, 1]
INSIDE = 1e-3  # pixels that a sampling point may lie outside the outermost pixel centres
LUMA = (0.299, 0.587, 0.114)


class Augmented(NamedTuple):
    """images [N, 3, R, R] in [-1, 1]; targets [N, K, R, R]; valid [N, R, R], 1 where the target counts."""

    images: Tensor
    targets: Tensor
    valid: Tensor


class Placement(NamedTuple):
    """A batch's draws: which part of its picture each output shows.

    matrix: [N, 2, 3], output to input coordinates, both in [-1, 1] with the frame's edges at +-1.
    reflect: [N] bool, fill by reflection instead of grey.
    """

    matrix: Tensor
    reflect: Tensor


@dataclass(frozen=True)
class AffineAugmentation:
    """
    Args:
        flip: mirror every second picture.
        rotation: degrees, uniform in +-.
        scale: smallest and largest magnification, log-uniform; 2 shows half the picture.
        translation: share of the size, uniform in +- in x and y.
        colour: strength of brightness, contrast and saturation jitter; 0 for none.
        reflect: share of pictures whose outside is filled by reflection.
        flip_order: channel order of the labels under a flip (`LabelSpace.flip_order`); empty: unchanged.
    """

    flip: bool = True
    rotation: float = 10.0
    scale: tuple[float, float] = (0.5, 2.0)
    translation: float = 0.5
    colour: float = 0.0
    reflect: float = 0.5
    flip_order: Sequence[int] = ()

    @property
    def changes_nothing(self) -> bool:
        """Whether every picture comes back as it went in, so that what was made of it may be kept."""
        return not (self.flip or self.rotation or self.translation or self.colour) and self.scale == (1.0, 1.0)

    def __call__(self, images: Tensor, targets: Tensor, valid: Tensor, rng: torch.Generator) -> Augmented:
        """Draw from `rng` (a CPU generator) and apply. Arguments are shaped as in `Augmented`."""
        placement = self.draw(len(images), rng)
        warped = warp(images, targets, valid, placement, self.flip_order)
        if self.colour == 0:
            return warped
        return warped._replace(images=jitter_colour(warped.images, self.colour, rng))

    def draw(self, count: int, rng: torch.Generator) -> Placement:
        """Random placements, on the CPU."""
        uniform = torch.rand(6, count, generator=rng, dtype=torch.float64)
        signed = 2 * uniform - 1
        angle = signed[0] * math.radians(self.rotation)
        low, high = (math.log(s) for s in self.scale)
        zoom = torch.exp(low + uniform[1] * (high - low))
        mirror = torch.where((uniform[4] < 0.5) & self.flip, -1.0, 1.0)
        shift = 2 * self.translation * signed[2:4]  # the frame is 2 wide
        matrix = inverse_matrix(angle, zoom, shift, mirror)
        return Placement(matrix.float(), uniform[5] < self.reflect)


def inverse_matrix(angle: Tensor, zoom: Tensor, shift: Tensor, mirror: Tensor) -> Tensor:
    """[N, 2, 3]: where an output point comes from, for input mirrored, magnified, rotated, then shifted.

    out = R(angle) zoom diag(mirror, 1) in + shift, hence in = diag(mirror, 1) R(-angle) (out - shift) / zoom.
    """
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    linear = torch.stack([mirror * cos, mirror * sin, -sin, cos], 1).view(-1, 2, 2)
    return torch.cat([linear, -linear @ shift.T[:, :, None]], 2)


def warp(images: Tensor, targets: Tensor, valid: Tensor, placement: Placement, flip_order: Sequence[int]) -> Augmented:
    """Resample pictures and labels on one grid, bilinearly; swap the classes of mirrored regions.

    A pixel is valid if its sampling point lies within the outermost pixel centres (or is reflected
    there) and all it is mixed from was valid.
    """
    device, size = images.device, images.shape[-2:]
    matrix, reflect = placement.matrix.to(device), placement.reflect.to(device)
    grid = functional.affine_grid(matrix, [len(images), 1, *size], align_corners=False)
    folded, mirrored, inside = _fold(grid, size)
    # Outside the frame, the grey pictures sample their border pixel, which is then painted over.
    layers = torch.cat([images, targets, valid[:, None].to(images.dtype)], 1)
    warped = functional.grid_sample(layers, folded, mode="bilinear", padding_mode="border", align_corners=False)
    colour, labels, counted = warped.split([images.shape[1], targets.shape[1], 1], 1)
    shown = inside | reflect[:, None, None]
    flipped = mirrored ^ (torch.linalg.det(matrix[:, :, :2]) < 0)[:, None, None]
    if len(flip_order):
        labels = torch.where(flipped[:, None], labels[:, list(flip_order)], labels)
    keep = (shown & (counted[:, 0] > 1 - 1e-3)).to(images.dtype)
    return Augmented(colour.where(shown[:, None], FILL), labels * keep[:, None], keep)


def _fold(grid: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Reflect sampling points [N, H, W, 2] into the frame.

    Returns the folded points; whether the number of reflections is odd, in x and y together (one in
    each is a half turn, which is no mirror image); and whether the point was inside to begin with.
    """
    cells = torch.floor((grid + 1) / 2)  # which copy of the frame
    odd = cells.remainder(2) == 1
    folded = grid - 2 * cells
    folded = torch.where(odd, -folded, folded)
    limits = grid.new_tensor([1 - (1 - 2 * INSIDE) / size[1], 1 - (1 - 2 * INSIDE) / size[0]])
    inside = (grid.abs() <= limits).all(-1)
    return folded, odd[..., 0] ^ odd[..., 1], inside


def jitter_colour(images: Tensor, strength: float, rng: torch.Generator) -> Tensor:
    """Brightness, contrast and saturation of [N, 3, H, W] in [-1, 1], each by up to `strength`; clamped."""
    draws = ((2 * torch.rand(3, len(images), generator=rng) - 1) * strength).to(images)[..., None, None, None]
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images = (images - mean) * (1 + draws[1]) + mean
    grey = (images * images.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
    images = (images - grey) * (1 + draws[2]) + grey
    return (images + draws[0]).clamp(-1, 1)
