"""How a toy scene is coloured: the default style and the one outside its domain.

Both share geometry and label maps; only skins, light, backdrop and finish differ.
"""

from __future__ import annotations

import math

from raygseg.data.toy_scene import (
    FACE,
    HEAD,
    LEFT_ARM,
    LEFT_LEG,
    RIGHT_ARM,
    RIGHT_LEG,
    TAIL,
    TORSO,
    Colour,
    Draw,
    Point,
    Scene,
    Shape,
    Skin,
    draw_clutter,
    draw_robot,
)
from raygseg.errors import ConfigError
from raygseg.seeding import numpy_rng

Robot = list[tuple[int, Shape]]
Light = tuple[float, float, float]

STYLES = ("default", "ood")
CLUTTER_COUNT = 2
# Which parts wear one and the same skin.
_SKIN_OF = {
    TORSO: "torso", HEAD: "head", FACE: "face", TAIL: "tail",
    LEFT_ARM: "arms", RIGHT_ARM: "arms", LEFT_LEG: "legs", RIGHT_LEG: "legs",
}  # fmt: skip


def draw_scene(seed: int, index: int, style: str = "default") -> Scene:
    """The scene of picture `index` of set `seed`.

    Geometry is drawn first and alike for all styles, so styles share their label maps.

    Raises:
        ConfigError: the style is unknown.
    """
    if style not in STYLES:
        raise ConfigError(f"unknown toy style '{style}'", f"use one of {', '.join(STYLES)}")
    draw = Draw(numpy_rng(seed, "toy-scene", index))
    robot = draw_robot(draw)
    clutter = [draw_clutter(draw) for _ in range(CLUTTER_COUNT)]
    turn, strength = draw.between(0.0, math.tau), draw.between(0.25, 0.5)
    light = (math.cos(turn), math.sin(turn), strength)
    return (_default if style == "default" else _ood)(draw, robot, clutter, light)


def _skin(draw: Draw, colour: Colour, second: Colour, amount: float) -> Skin:
    turn, waves = draw.between(0, math.pi), draw.between(9.0, 17.0)
    frequency: Point = (math.cos(turn) * waves, math.sin(turn) * waves)
    return Skin(colour, second, amount, frequency, draw.between(0, math.tau), draw.chance(0.35))


def _paint(draw: Draw, hue: float, saturation: Point, value: Point) -> Skin:
    """A skin of one hue, plain or with a pattern of a nearby or opposite hue."""
    colour = draw.hsv(hue, saturation, value)
    second = draw.hsv(hue + (0.5 if draw.chance(0.3) else draw.between(-0.12, 0.12)), (0.1, 0.8), (0.2, 1.0))
    return _skin(draw, colour, second, draw.between(0.3, 0.7) if draw.chance(0.4) else 0.0)


def _default(draw: Draw, robot: Robot, clutter: list[Shape], light: Light) -> Scene:
    """Bright skins of related hues, patterned or plain, before a soft backdrop with a few stray shapes."""
    hue = draw.between(0, 1)
    near = [hue, hue, hue + 0.08, hue - 0.08, hue + 0.33, hue + 0.5]

    def some_hue() -> float:
        return near[int(draw.rng.integers(len(near)))]

    limb_tone, body_tone = ((0.25, 0.95), (0.3, 0.95)), ((0.3, 0.95), (0.45, 0.98))
    skins = {name: _paint(draw, some_hue(), *body_tone) for name in ("torso", "head", "tail")}
    skins |= {name: _paint(draw, some_hue(), *limb_tone) for name in ("arms", "legs")}
    # Visors are nearly grey, dark or pale: the one part whose colours are its own.
    tone: Point = (0.08, 0.3) if draw.chance(0.6) else (0.85, 1.0)
    skins["face"] = _skin(draw, draw.hsv(draw.between(0, 1), (0.0, 0.3), tone), (0.0, 0.0, 0.0), 0.0)
    eyes = draw.hsv(draw.between(0, 1), (0.3, 0.9), (0.85, 1.0) if tone[0] < 0.5 else (0.1, 0.45))
    back = [draw.hsv(draw.between(0, 1), (0.05, 0.5), (0.2, 0.95)) for _ in range(5)]
    blobs = tuple(
        (draw.between(-1, 1), draw.between(-1, 1), draw.between(0.25, 0.6), back[2 + i], draw.between(0.25, 0.6))
        for i in range(3)
    )
    things = [shape(_paint(draw, draw.between(0, 1), (0.05, 0.6), (0.2, 0.95))) for shape in clutter]
    kept = int(draw.rng.integers(len(things) + 1))
    return Scene(
        parts=tuple(shape(skins[_SKIN_OF[label]]) for label, shape in robot),
        clutter=tuple(things[:kept]),
        sky=(back[0], back[1], draw.between(0, math.tau)),
        blobs=blobs,
        light=light,
        eyes=eyes,
    )


def _ood(draw: Draw, robot: Robot, clutter: list[Shape], light: Light) -> Scene:
    """A stained drawing: two inks on paper, outlined, grainy, sometimes a negative."""
    paper = draw.hsv(draw.between(0.02, 0.17), (0.05, 0.25), (0.82, 0.98))
    stain = draw.between(0.7, 0.98)

    def wash(strength: Point) -> Colour:
        return draw.hsv(stain + draw.between(-0.05, 0.05), strength, (0.6, 0.95))

    names = sorted(set(_SKIN_OF.values()))
    skins = {name: _skin(draw, wash((0.08, 0.45)), wash((0.3, 0.75)), draw.between(0.3, 0.9)) for name in names}
    ink = draw.hsv(stain, (0.4, 0.9), (0.1, 0.35))
    blobs = tuple(
        (draw.between(-1, 1), draw.between(-1, 1), draw.between(0.12, 0.45), wash((0.15, 0.5)), draw.between(0.3, 0.8))
        for _ in range(6)
    )
    return Scene(
        parts=tuple(shape(skins[_SKIN_OF[label]]) for label, shape in robot),
        clutter=tuple(shape(_skin(draw, paper, wash((0.2, 0.6)), draw.between(0.2, 0.9))) for shape in clutter),
        sky=(paper, (0.9 * paper[0], 0.9 * paper[1], 0.9 * paper[2]), draw.between(0, math.tau)),
        blobs=blobs,
        light=(light[0], light[1], 0.12),
        eyes=ink,
        outline=0.045,
        ink=ink,
        noise=draw.between(0.06, 0.14),
        inverted=draw.chance(0.4),
    )
