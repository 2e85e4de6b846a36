"""One self-contained HTML page: pictures inside, nothing from outside, every text escaped.

write_report("report.html", [
    Title("cars: student", "U-Net distilled from 5,000 pairs"),
    KeyFigures([Figure("mIoU", "81.2 %", "95 %: 79.8 - 82.5")]),
    Table("Scores", ["part", "IoU"], [["wheel", "0.81"]]),
    Charts("Training", [line_chart({"loss": points}, "loss")]),
    Pictures("Samples", [Plate(grid, "by truncation 0.7")]),
    Card("Model card", markdown),
    Commands("Try next", [("segment your own pictures", "raygseg segment models:/cars@champion photos/ -o parts")]),
])
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import NamedTuple, Protocol

from raygseg.data import object_store
from raygseg.viz.grids import Canvas, png_bytes
from raygseg.viz.markdown import inline_html, markdown_html
from raygseg.viz.report_style import STYLE


class Section(Protocol):
    """A part of the page."""

    def html(self) -> str: ...


@dataclass(frozen=True)
class Title:
    """The page's heading, one line on what it is about, and the line in the browser's tab."""

    text: str
    lead: str = ""

    def html(self) -> str:
        lead = f'<p class="lead">{inline_html(self.lead)}</p>' if self.lead else ""
        return f"<header><h1>{escape(self.text)}</h1>{lead}</header>"


class Figure(NamedTuple):
    """A number to see first: its name, its value as text, and a remark (interval, baseline)."""

    name: str
    value: str
    remark: str = ""


@dataclass(frozen=True)
class KeyFigures:
    """Large numbers side by side."""

    figures: Sequence[Figure]

    def html(self) -> str:
        tiles = "".join(
            f'<div class="tile"><span class="name">{escape(f.name)}</span><span class="value">{escape(f.value)}</span>'
            f'<span class="remark">{escape(f.remark)}</span></div>'
            for f in self.figures
        )
        return f'<div class="tiles">{tiles}</div>'


@dataclass(frozen=True)
class Table:
    """Rows of text under headings; cells that are all numbers are set right.

    `bars` names a column whose numbers (0 to 1) also get a bar; `swatches` gives a colour a row.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    bars: str = ""
    swatches: Sequence[tuple[int, int, int]] = ()

    def html(self) -> str:
        barred = self.headings.index(self.bars) if self.bars in self.headings else -1
        head = "".join(f"<th>{escape(h)}</th>" for h in self.headings)
        body = "".join(self._row(i, row, barred) for i, row in enumerate(self.rows))
        note = f'<p class="note">{inline_html(self.note)}</p>' if self.note else ""
        return _block(
            self.title,
            f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{note}',
        )

    def _row(self, index: int, row: Sequence[str], barred: int) -> str:
        cells = []
        for column, text in enumerate(row):
            number = _number(text)
            inside = escape(text)
            if column == 0 and index < len(self.swatches):
                red, green, blue = self.swatches[index]
                inside = f'<i class="swatch" style="background:rgb({red},{green},{blue})"></i>{inside}'
            if column == barred and number is not None:
                width = 100 * min(1.0, max(0.0, number))
                inside = f'{inside}<span class="bar"><i style="width:{width:.1f}%"></i></span>'
            cells.append(f'<td class="{"n" if number is not None else "s"}">{inside}</td>')
        return f"<tr>{''.join(cells)}</tr>"


@dataclass(frozen=True)
class Charts:
    """SVG made by `viz.curves` (trusted: it escapes its own text)."""

    title: str
    svgs: Sequence[str]

    def html(self) -> str:
        return _block(
            self.title, f'<div class="charts">{"".join(f"<figure>{svg}</figure>" for svg in self.svgs)}</div>'
        )


class Plate(NamedTuple):
    """A picture [H, W, 3] uint8, the line under it, and how many times its pixels are enlarged."""

    picture: Canvas
    caption: str = ""
    zoom: int = 1


@dataclass(frozen=True)
class Pictures:
    """Pictures embedded as PNG."""

    title: str
    plates: Sequence[Plate]
    note: str = ""

    def html(self) -> str:
        note = f'<p class="note">{inline_html(self.note)}</p>' if self.note else ""
        return _block(self.title, note + '<div class="plates">' + "".join(map(_plate, self.plates)) + "</div>")


@dataclass(frozen=True)
class Card:
    """Markdown, such as a model card."""

    title: str
    markdown: str

    def html(self) -> str:
        return _block(self.title, f'<div class="card">{markdown_html(self.markdown)}</div>')


@dataclass(frozen=True)
class Commands:
    """What to type next: (what it does, command line)."""

    title: str
    commands: Sequence[tuple[str, str]]

    def html(self) -> str:
        items = "".join(
            f"<dt>{inline_html(what)}</dt><dd><pre>{escape(line)}</pre></dd>" for what, line in self.commands
        )
        return _block(self.title, f"<dl>{items}</dl>")


def render_report(sections: Sequence[Section]) -> str:
    """The whole page as text."""
    title = next((s.text for s in sections if isinstance(s, Title)), "raygseg report")
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    body = "\n".join(section.html() for section in sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>\n{body}\n"
        f"<footer>raygseg, {made}</footer></main></body></html>\n"
    )


def write_report(path: str | Path, sections: Sequence[Section]) -> Path:
    """Write the page whole or not at all. Raises StorageError naming the path."""
    object_store.write_bytes(str(path), render_report(sections).encode())
    return Path(path)


def _block(title: str, inside: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{inside}</section>"


def _plate(plate: Plate) -> str:
    height, width = (side * plate.zoom for side in plate.picture.shape[:2])
    data = base64.b64encode(png_bytes(plate.picture)).decode()
    caption = f"<figcaption>{escape(plate.caption)}</figcaption>" if plate.caption else ""
    return (
        f'<figure><img alt="{escape(plate.caption)}" width="{width}" height="{height}" class="z{min(plate.zoom, 2)}" '
        f'src="data:image/png;base64,{data}">{caption}</figure>'
    )


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%").replace(",", "").strip())
    except ValueError:
        return None
