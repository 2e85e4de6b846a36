"""Line charts as stand-alone SVG text: losses, scores, anything by kimg."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]

COLOURS = ("#2f6fde", "#d9480f", "#2b8a3e", "#862e9c", "#c2255c", "#0b7285", "#946c00", "#495057")
WIDTH, HEIGHT = 530, 270
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 34, 44


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers (1, 2, 2.5 or 5 times a power of ten) within [low, high]."""
    if not high > low:
        return [low]
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def line_chart(
    series: Mapping[str, Points], title: str, x_label: str = "kimg", y_label: str = "", log_y: bool = False
) -> str:
    """SVG of named lines; points that are not finite (or not positive under `log_y`) leave a gap.

    Args:
        series: name to (x, y) points in x order.
        log_y: decimal logarithm on the vertical axis.
    """
    drawable = {name: _segments(points, log_y) for name, points in series.items()}
    flat = [p for segments in drawable.values() for segment in segments for p in segment]
    if not flat:
        return _frame(
            title, x_label, y_label, ['<text x="50%" y="50%" class="t" text-anchor="middle">no points yet</text>']
        )
    x_low, x_high = _range([p[0] for p in flat], pad=0.0)
    y_low, y_high = _range([p[1] for p in flat], pad=0.06)
    x_scale = (WIDTH - LEFT - RIGHT) / (x_high - x_low)
    y_scale = (HEIGHT - TOP - BOTTOM) / (y_high - y_low)

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + (x - x_low) * x_scale, HEIGHT - BOTTOM - (y - y_low) * y_scale

    parts: list[str] = []
    for value in ticks(y_low, y_high):
        y = place(x_low, value)[1]
        shown = 10.0**value if log_y else value
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="g"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" class="t" text-anchor="end">{_number(shown)}</text>')
    for value in ticks(x_low, x_high, 7):
        x = place(value, y_low)[0]
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}" class="t" text-anchor="middle">{_number(value)}</text>'
        )
    for i, (name, segments) in enumerate(drawable.items()):
        parts += [_line([place(*p) for p in segment], COLOURS[i % len(COLOURS)]) for segment in segments]
        parts += _key(name, i, len(drawable))
    return _frame(title, x_label, y_label, parts)


def _segments(points: Points, log_y: bool) -> list[list[tuple[float, float]]]:
    """Runs of points that can be drawn, y already on the axis's scale."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if math.isfinite(x) and math.isfinite(y) and (y > 0 or not log_y):
            runs[-1].append((x, math.log10(y) if log_y else y))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _range(values: Sequence[float], pad: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    if high == low:
        margin = abs(low) * 0.1 or 1.0
        return low - margin, high + margin
    return low - pad * (high - low), high + pad * (high - low)


def _number(value: float) -> str:
    text = f"{value:.3g}"
    return text if "e" not in text or abs(value) < 1e-3 or abs(value) >= 1e6 else f"{value:.0f}"


def _line(points: Sequence[tuple[float, float]], colour: str) -> str:
    if len(points) == 1:
        x, y = points[0]
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{colour}"/>'
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8" stroke-linejoin="round"/>'


def _key(name: str, index: int, count: int) -> list[str]:
    """Swatch and name, spread over the line under the title."""
    x = LEFT + index * (WIDTH - LEFT - RIGHT) / count
    colour = COLOURS[index % len(COLOURS)]
    return [
        f'<rect x="{x:.1f}" y="{TOP - 11}" width="12" height="3" fill="{colour}"/>',
        f'<text x="{x + 16:.1f}" y="{TOP - 6}" class="t">{escape(name)}</text>',
    ]


def _frame(title: str, x_label: str, y_label: str, parts: Sequence[str]) -> str:
    middle = (LEFT + WIDTH - RIGHT) / 2
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
            f' role="img" aria-label="{escape(title)}">',
            "<style>.t{font:11px system-ui,sans-serif;fill:#495057}.h{font:600 13px system-ui,sans-serif;fill:#212529}"
            ".g{stroke:#e9ecef;stroke-width:1}.a{stroke:#adb5bd;stroke-width:1}</style>",
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
            f'<text x="{LEFT}" y="15" class="h">{escape(title)}</text>',
            *parts,
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}" class="a"/>',
            f'<text x="{middle:.0f}" y="{HEIGHT - 10}" class="t" text-anchor="middle">{escape(x_label)}</text>',
            f'<text x="14" y="{HEIGHT / 2:.0f}" class="t" text-anchor="middle"'
            f' transform="rotate(-90 14 {HEIGHT / 2:.0f})">{escape(y_label)}</text>',
            "</svg>",
        ]
    )
