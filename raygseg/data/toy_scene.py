"""What a toy picture shows: one articulated robot, its skins, its light and its background.

A scene is drawn once from (seed, index) and knows no pixels, so every resolution shows the same one.
Coordinates are normalised: x to the right and y down, both in [-1, 1] over the picture.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raygseg.errors import ConfigError
from raygseg.seeding import numpy_rng

Point = tuple[float, float]
Colour = tuple[float, float, float]

STYLES = ("default", "ood")
BACKGROUND, TORSO, HEAD, FACE, LEFT_ARM, RIGHT_ARM, LEFT_LEG, RIGHT_LEG, TAIL = range(9)


@dataclass(frozen=True)
class Skin:
    """A part's surface: `colour`, with `second` mixed in by a low-frequency wave over the part's own axes."""

    colour: Colour
    second: Colour
    amount: float
    frequency: Point
    phase: float
    spotted: bool


@dataclass(frozen=True)
class Chain:
    """A bent limb: the union of capsules between `joints`, with one radius a joint."""

    label: int
    joints: tuple[Point, ...]
    radii: tuple[float, ...]
    skin: Skin


@dataclass(frozen=True)
class Block:
    """A squircle a^2 + b^2 - square * a^2 b^2 < 1 in its own axes; `square` 0 is an ellipse, 1 a rectangle."""

    label: int
    centre: Point
    half: Point
    angle: float
    square: float
    skin: Skin
    eyes: tuple[float, float, Colour] | None = None


@dataclass(frozen=True)
class Scene:
    """A robot before its backdrop; `parts` are painted back to front.

    Attributes:
        clutter: shapes of the background class, painted before the parts.
        sky: colours of the backdrop at its two ends, and the direction from one to the other in radians.
        blobs: soft spots (x, y, radius, colour, opacity) over the backdrop.
        light: direction of the light (x, y) and its strength in [0, 1].
        outline: width of the drawn contour, 0 for none; `ink` is its colour.
        noise: standard deviation of the pixel noise, in units of full range.
        inverted: the finished picture is a negative.
    """

    parts: tuple[Chain | Block, ...]
    clutter: tuple[Chain | Block, ...]
    sky: tuple[Colour, Colour, float]
    blobs: tuple[tuple[float, float, float, Colour, float], ...]
    light: tuple[float, float, float]
    outline: float = 0.0
    ink: Colour = (0.0, 0.0, 0.0)
    noise: float = 0.0
    inverted: bool = False


class _Draw:
    """Short words for the draws a scene needs."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.rng.random()

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def side(self) -> float:
        return 1.0 if self.chance(0.5) else -1.0

    def hsv(self, hue: float, saturation: Point, value: Point) -> Colour:
        return colorsys.hsv_to_rgb(hue % 1.0, self.between(*saturation), self.between(*value))


def draw_scene(seed: int, index: int, style: str = "default") -> Scene:
    """The scene of picture `index` of set `seed`.

    Geometry is drawn first and alike for all styles, so styles share their label maps.

    Raises:
        ConfigError: the style is unknown.
    """
    if style not in STYLES:
        raise ConfigError(f"unknown toy style '{style}'", f"use one of {', '.join(STYLES)}")
    draw = _Draw(numpy_rng(seed, "toy-scene", index))
    shapes = _draw_robot(draw)
    turn, light_strength = draw.between(0.0, math.tau), draw.between(0.25, 0.5)
    light = (math.cos(turn), math.sin(turn), light_strength)
    clutter_shapes = [_draw_clutter(draw) for _ in range(4)]
    return (_dress if style == "default" else _stain)(draw, shapes, clutter_shapes, light)


Shape = Callable[[Skin], Chain | Block]


def _draw_robot(draw: _Draw) -> list[tuple[int, Shape]]:
    """The robot's parts back to front, each waiting for its skin."""
    width, height = draw.between(0.20, 0.34), draw.between(0.22, 0.34)
    head_half = (draw.between(0.21, 0.35), draw.between(0.17, 0.26))
    thigh, shin = draw.between(0.13, 0.25), draw.between(0.13, 0.25)
    body_turn, scale = math.radians(draw.between(-20, 20)), draw.between(0.9, 1.12)
    head_turn = body_turn + math.radians(draw.between(-16, 16))
    # The middle of the whole figure, not of the torso, sits near the picture's middle.
    rise = (0.85 * height + thigh + shin + 0.1 - height - 1.8 * head_half[1]) / 2
    middle = (draw.between(-0.1, 0.1), draw.between(-0.08, 0.08))
    cos, sin = math.cos(body_turn) * scale, math.sin(body_turn) * scale

    def place(x: float, y: float) -> Point:
        y -= rise
        return middle[0] + cos * x - sin * y, middle[1] + sin * x + cos * y

    def chain(label: int, points: list[Point], radii: list[float]) -> tuple[int, Shape]:
        joints = tuple(place(*p) for p in points)
        return label, lambda skin: Chain(label, joints, tuple(r * scale for r in radii), skin)

    def block(label: int, at: Point, half: Point, angle: float, square: float) -> tuple[int, Shape]:
        centre, size = place(*at), (half[0] * scale, half[1] * scale)
        return label, lambda skin: Block(label, centre, size, angle, square, skin)

    neck = (draw.between(-0.05, 0.05), -height - 0.8 * head_half[1])
    visor = (head_half[0] * draw.between(0.55, 0.78), head_half[1] * draw.between(0.48, 0.66))
    legs = [chain(label, *_leg(draw, side, width, height, thigh, shin)) for side, label in _sides(LEFT_LEG)]
    arms = [chain(label, *_arm(draw, side, width, height)) for side, label in _sides(LEFT_ARM)]
    if draw.chance(0.5):
        legs.reverse()
    torso = block(TORSO, (0.0, 0.0), (width, height), body_turn, draw.between(0.2, 0.95))
    # Arms pass before or behind the torso.
    trunk = [torso, *arms] if draw.chance(0.5) else [*arms, torso]
    return [
        chain(TAIL, *_tail(draw, width, height)),
        *legs,
        *trunk,
        block(HEAD, neck, head_half, head_turn, draw.between(0.1, 0.95)),
        block(FACE, neck, visor, head_turn, draw.between(0.3, 0.95)),
    ]


def _sides(left: int) -> tuple[Point, Point] | tuple[tuple[float, int], tuple[float, int]]:
    return (-1.0, left), (1.0, left + 1)
