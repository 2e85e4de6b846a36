"""The procedural toy set: pictures of one articulated robot with exact part labels, any number, any resolution.

Picture (seed, index) always shows the same scene. Left and right are the viewer's, as in the picture.
`style="ood"` keeps geometry and labels and changes the look: outlined, stained, grainy, sometimes a negative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raygseg.data.toy_scene import FACE, Block, Chain, Scene, Skin
from raygseg.data.toy_styles import STYLES, draw_scene
from raygseg.errors import ConfigError
from raygseg.labels import LabelSpace
from raygseg.seeding import numpy_rng

__all__ = ["STYLES", "render_toy", "render_toy_batch", "toy_labels"]

Floats = NDArray[np.floating[Any]]
Pair = tuple[Floats, Floats]
Window = tuple[slice, slice]

NAMES = (
    "background", "torso", "head", "face", "left_arm", "right_arm", "left_leg", "right_leg", "tail",
)  # fmt: skip
PALETTE = (
    (24, 26, 34), (64, 132, 214), (250, 196, 72), (255, 246, 214), (236, 94, 84), (246, 152, 128),
    (56, 166, 112), (148, 208, 120), (164, 108, 206),
)  # fmt: skip


def toy_labels() -> LabelSpace:
    """Nine classes; arms and legs trade sides under a horizontal flip."""
    return LabelSpace(NAMES, PALETTE, swaps=((4, 5), (6, 7)))


def render_toy(
    seed: int, index: int, resolution: int, style: str = "default"
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Picture `index` of set `seed`.

    The label map holds the topmost part at every pixel's centre; the picture is supersampled.

    Args:
        resolution: side in pixels, at least 8.
        style: one of STYLES.

    Returns:
        RGB picture uint8 [H, W, 3] and label map uint8 [H, W].

    Raises:
        ConfigError: unknown style or resolution below 8.
    """
    if resolution < 8:
        raise ConfigError(f"toy resolution {resolution} is too small", "use at least 8 pixels a side")
    scene = draw_scene(seed, index, style)
    # Odd, so that the middle sample of a pixel is its centre and one pass gives colours and labels.
    samples = 3 if resolution <= 256 else 1
    canvas = _Canvas(resolution * samples, scene)
    for part in (*scene.clutter, *scene.parts):
        canvas.paint(part)
    colour, cover = _pool(canvas.colour, samples), _pool(canvas.cover, samples)
    picture = colour + (1.0 - cover) * _backdrop(scene, resolution)
    if scene.noise:
        rng = numpy_rng(seed, "toy-noise", index, resolution)
        picture += scene.noise * rng.standard_normal((1, resolution, resolution), dtype=np.float32)
    if scene.inverted:
        picture = 1.0 - picture
    pixels = (np.clip(picture, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    middle = samples // 2
    return np.ascontiguousarray(pixels.transpose(1, 2, 0)), canvas.label[middle::samples, middle::samples].copy()


def render_toy_batch(
    seed: int, indices: Sequence[int], resolution: int, style: str = "default"
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Several pictures, each as `render_toy` gives it: uint8 [N, H, W, 3] and uint8 [N, H, W]."""
    pictures = np.empty((len(indices), resolution, resolution, 3), dtype=np.uint8)
    label_maps = np.empty((len(indices), resolution, resolution), dtype=np.uint8)
    for row, index in enumerate(indices):
        pictures[row], label_maps[row] = render_toy(seed, int(index), resolution, style)
    return pictures, label_maps


def _axis(size: int) -> Floats:
    """Sample centres in [-1, 1]; equal to the last bit at every resolution that has the same centre."""
    return (2.0 * ((np.arange(size) + 0.5) / size) - 1.0).astype(np.float32)


def _pool(samples: Floats, factor: int) -> Floats:
    """Mean over factor x factor squares: [..., H, W] to [..., H / factor, W / factor]."""
    if factor == 1:
        return samples
    total = sum(samples[..., i::factor, j::factor] for i in range(factor) for j in range(factor))
    return np.asarray(total / np.float32(factor * factor), dtype=np.float32)


def _backdrop(scene: Scene, resolution: int) -> Floats:
    """The background [3, H, W] without its clutter: a gradient and soft spots."""
    axis = _axis(resolution)
    first, second, turn = scene.sky
    blend = 0.5 + 0.35 * (math.cos(turn) * axis[None, :] + math.sin(turn) * axis[:, None])
    start, end = (np.asarray(c, dtype=np.float32)[:, None, None] for c in (first, second))
    picture = start + (end - start) * np.clip(blend, 0.0, 1.0)
    for x, y, radius, colour, opacity in scene.blobs:
        # A Gaussian is a product of two one-dimensional ones.
        across, down = np.exp(-(((axis - x) / radius) ** 2)), np.exp(-(((axis - y) / radius) ** 2))
        weight = (opacity * down)[:, None] * across[None, :]
        picture += weight * (np.asarray(colour, dtype=np.float32)[:, None, None] - picture)
    return picture


class _Canvas:
    """Samples of a scene: `colour` [3, S, S] and `cover` [S, S] of everything painted, `label` [S, S]."""

    def __init__(self, size: int, scene: Scene) -> None:
        self.scene = scene
        self.axis = _axis(size)
        self.colour = np.zeros((3, size, size), dtype=np.float32)
        self.cover = np.zeros((size, size), dtype=np.float32)
        self.label = np.zeros((size, size), dtype=np.uint8)

    def paint(self, part: Chain | Block) -> None:
        """Put `part` over what is there."""
        window = self._window(part)
        x, y = self.axis[window[1]][None, :], self.axis[window[0]][:, None]
        if x.size == 0 or y.size == 0:
            return
        depth, normal, along = _chain_field(part, x, y) if isinstance(part, Chain) else _block_field(part, x, y)
        inside = depth < 1.0
        colour = self._shade(part, depth, normal, along)
        np.copyto(self.colour[:, window[0], window[1]], colour, where=inside)
        np.copyto(self.cover[window], np.float32(1.0), where=inside)
        np.copyto(self.label[window], np.uint8(part.label), where=inside)

    def _window(self, part: Chain | Block) -> Window:
        """Rows and columns that can hold the part."""
        if isinstance(part, Chain):
            points, margin = part.joints, max(part.radii)
        else:
            points, margin = (part.centre,), math.hypot(*part.half)
        columns, rows = zip(*points, strict=True)
        return self._span(rows, margin), self._span(columns, margin)

    def _span(self, values: Sequence[float], margin: float) -> slice:
        low, high = np.searchsorted(self.axis, (min(values) - margin, max(values) + margin))
        return slice(int(low), int(high))

    def _shade(self, part: Chain | Block, depth: Floats, normal: Pair, along: Pair) -> Floats:
        """Colour [3, h, w] of the part's surface under the scene's light, with eyes and outline."""
        scene, skin = self.scene, part.skin
        x, y, strength = scene.light
        bulge = np.sqrt(np.maximum(1.0 - depth, 0.0))
        shade = (1.0 - 0.75 * strength) + strength * (x * normal[0] + y * normal[1] + 0.75 * bulge)
        colour: Floats = _pattern(skin, along) * shade
        if part.label == FACE and isinstance(part, Block):
            a, b = along[0] / part.half[0], along[1] / part.half[1]
            eye = (np.abs(a) - 0.48) ** 2 * (part.half[0] / part.half[1]) ** 2 + (b + 0.05) ** 2 < 0.33**2
            np.copyto(colour, np.asarray(scene.eyes, dtype=np.float32)[:, None, None], where=eye)
        if scene.outline:
            thickness = min(part.radii) if isinstance(part, Chain) else min(part.half)
            rim = depth > (1.0 - min(scene.outline / thickness, 0.45)) ** 2
            np.copyto(colour, np.asarray(scene.ink, dtype=np.float32)[:, None, None], where=rim)
        return colour


def _pattern(skin: Skin, along: Pair) -> Floats:
    """Unlit colour [3, h, w]: stripes or spots over the part's own axes, or plain [3, 1, 1]."""
    base = np.asarray(skin.colour, dtype=np.float32)[:, None, None]
    if not skin.amount:
        return base
    u, v = along
    wave = np.sin(skin.frequency[0] * u + skin.frequency[1] * v + np.float32(skin.phase))
    if skin.spotted:
        wave *= np.sin(skin.frequency[1] * u - skin.frequency[0] * v)
    weight = np.clip(0.5 + 1.4 * wave, 0.0, 1.0) * np.float32(skin.amount)
    return base + (np.asarray(skin.second, dtype=np.float32)[:, None, None] - base) * weight


def _chain_field(part: Chain, x: Floats, y: Floats) -> tuple[Floats, Pair, Pair]:
    """Squared distance from the limb's axis in radii [h, w], the unit-disc normal, and (across, along) it."""
    best: tuple[Floats, ...] = ()
    start = 0.0
    for i, ((ax, ay), (bx, by)) in enumerate(zip(part.joints, part.joints[1:], strict=False)):
        dx, dy = bx - ax, by - ay
        length = math.hypot(dx, dy)
        px, py = x - ax, y - ay
        reach = np.clip((px * dx + py * dy) / (length * length), 0.0, 1.0)
        radius = part.radii[i] + (part.radii[i + 1] - part.radii[i]) * reach
        nx, ny = (px - dx * reach) / radius, (py - dy * reach) / radius
        across, along = (px * dy - py * dx) / length, start + reach * length
        field = (nx * nx + ny * ny, nx, ny, across, along)
        # The union of the segments: every quantity is the nearest segment's.
        nearer = field[0] < best[0] if best else None
        best = field if nearer is None else tuple(np.where(nearer, f, b) for f, b in zip(field, best, strict=True))
        start += length
    return best[0], (best[1], best[2]), (best[3], best[4])


def _block_field(part: Block, x: Floats, y: Floats) -> tuple[Floats, Pair, Pair]:
    """The squircle's left side [h, w], the unit-disc normal, and the block's own coordinates."""
    cos, sin = math.cos(part.angle), math.sin(part.angle)
    px, py = x - part.centre[0], y - part.centre[1]
    u, v = cos * px + sin * py, cos * py - sin * px
    a, b = u / part.half[0], v / part.half[1]
    aa, bb = a * a, b * b
    # Beyond the sides the formula turns small again; a point there is outside whatever it says.
    depth = np.maximum(aa + bb - part.square * aa * bb, np.maximum(aa, bb))
    return depth, (cos * a - sin * b, sin * a + cos * b), (u, v)
