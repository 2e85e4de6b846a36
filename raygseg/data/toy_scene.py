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

Point = tuple[float, float]
Colour = tuple[float, float, float]

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


@dataclass(frozen=True)
class Scene:
    """A robot before its backdrop; `parts` are painted back to front.

    Attributes:
        clutter: shapes of the background class, painted before the parts.
        sky: colours of the backdrop at its two ends, and the direction from one to the other in radians.
        blobs: soft spots (x, y, radius, colour, opacity) over the backdrop.
        light: direction of the light (x, y) and its strength in [0, 1].
        eyes: colour of the two eyes on the face.
        outline: width of the drawn contour, 0 for none; `ink` is its colour.
        noise: standard deviation of the pixel noise, in units of full range.
        inverted: the finished picture is a negative.
    """

    parts: tuple[Chain | Block, ...]
    clutter: tuple[Chain | Block, ...]
    sky: tuple[Colour, Colour, float]
    blobs: tuple[tuple[float, float, float, Colour, float], ...]
    light: tuple[float, float, float]
    eyes: Colour
    outline: float = 0.0
    ink: Colour = (0.0, 0.0, 0.0)
    noise: float = 0.0
    inverted: bool = False


class Draw:
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


Shape = Callable[[Skin], Chain | Block]


def draw_robot(draw: Draw) -> list[tuple[int, Shape]]:
    """The robot's parts back to front, each waiting for its skin."""
    width, height = draw.between(0.23, 0.36), draw.between(0.23, 0.33)
    head_half = (draw.between(0.24, 0.36), draw.between(0.19, 0.27))
    thigh, shin = draw.between(0.13, 0.25), draw.between(0.13, 0.25)
    body_turn, scale = math.radians(draw.between(-20, 20)), draw.between(1.02, 1.2)
    head_turn = body_turn + math.radians(draw.between(-12, 12))
    # The middle of the whole figure, not of the torso, sits near the picture's middle.
    rise = (0.85 * height + thigh + shin + 0.1 - height - 1.8 * head_half[1]) / 2
    middle = (draw.between(-0.1, 0.1), draw.between(-0.07, 0.07))
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


def _sides(left: int) -> tuple[tuple[float, int], tuple[float, int]]:
    return (-1.0, left), (1.0, left + 1)


def _bent(start: Point, steps: list[tuple[float, float]]) -> list[Point]:
    """Joints of a limb: `steps` are (angle from straight down in degrees, length)."""
    points = [start]
    for angle, length in steps:
        x, y = points[-1]
        points.append((x + math.sin(math.radians(angle)) * length, y + math.cos(math.radians(angle)) * length))
    return points


def _leg(
    draw: Draw, side: float, width: float, height: float, thigh: float, shin: float
) -> tuple[list[Point], list[float]]:
    spread, bend = draw.between(0, 32), draw.between(-26, 22)
    hip = (side * width * 0.55, height * 0.8)
    knee, foot = draw.between(0.105, 0.145), draw.between(0.1, 0.16)
    return _bent(hip, [(side * spread, thigh), (side * (spread + bend), shin)]), [knee, knee * 0.95, foot]


def _arm(draw: Draw, side: float, width: float, height: float) -> tuple[list[Point], list[float]]:
    lift, bend = draw.between(20, 115), draw.between(-45, 55)
    shoulder = (side * (width - 0.03), -height * 0.62)
    upper, lower = draw.between(0.19, 0.3), draw.between(0.16, 0.27)
    sleeve, hand = draw.between(0.09, 0.13), draw.between(0.09, 0.145)
    return _bent(shoulder, [(side * lift, upper), (side * (lift + bend), lower)]), [sleeve, sleeve * 0.92, hand]


def _tail(draw: Draw, width: float, height: float) -> tuple[list[Point], list[float]]:
    side = draw.side()
    lift, curl = draw.between(62, 92), draw.between(10, 75)
    root = (side * width * 0.45, height * 0.55)
    first, second = draw.between(0.36, 0.46), draw.between(0.22, 0.32)
    base = draw.between(0.09, 0.12)
    return _bent(root, [(side * lift, first), (side * (lift + curl), second)]), [base, base, draw.between(0.08, 0.14)]


def draw_clutter(draw: Draw) -> Shape:
    """A shape of the background class: a bar or a stone, limb-sized, anywhere in the frame."""
    at, angle = (draw.between(-1, 1), draw.between(-1, 1)), draw.between(0, math.tau)
    if draw.chance(0.5):
        reach, radius = draw.between(0.15, 0.5), draw.between(0.07, 0.13)
        joints = (at, (at[0] + reach * math.cos(angle), at[1] + reach * math.sin(angle)))
        return lambda skin: Chain(BACKGROUND, joints, (radius, radius), skin)
    half, square = (draw.between(0.1, 0.3), draw.between(0.1, 0.3)), draw.between(0, 0.95)
    return lambda skin: Block(BACKGROUND, at, half, angle, square, skin)
