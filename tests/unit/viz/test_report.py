"""The report page and the charts: well formed, closed to the outside, all text escaped."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from raygseg.viz.curves import line_chart, ticks
from raygseg.viz.markdown import markdown_html
from raygseg.viz.report import (
    Card,
    Charts,
    Commands,
    Figure,
    KeyFigures,
    Pictures,
    Plate,
    Section,
    Table,
    Title,
    render_report,
    write_report,
)

EVIL = '<script>alert("x")</script> & <img src=x onerror=y>'
VOID_TAGS = {"meta", "img", "br"}


class Outline(HTMLParser):
    """Checks that tags close in order; keeps tags, attributes and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID_TAGS and not self.get_starttag_text().endswith("/>"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def sections(text: str, picture: np.ndarray | None = None) -> list[Section]:
    plate = Plate(np.zeros((4, 6, 3), np.uint8) if picture is None else picture, text, zoom=3)
    return [
        Title(text, text),
        KeyFigures([Figure(text, text, text)]),
        Table(text, (text, "IoU"), [(text, "0.5"), (text, "–")], note=text, bars="IoU", swatches=[(1, 2, 3)]),
        Charts(text, [line_chart({text: [(0.0, 1.0), (1.0, 2.0)]}, text, text, text)]),
        Pictures(text, [plate], note=text),
        Card(text, f"# {text}\n\n{text}\n\n- {text}\n\n| a | {text} |\n|---|---|\n| 1 | {text} |\n\n```\n{text}\n```"),
        Commands(text, [(text, text)]),
    ]


def test_every_text_is_escaped_everywhere() -> None:
    page = Outline(render_report(sections(EVIL)))
    assert "script" not in page.tags and not [a for a, _ in page.attributes if a.startswith("on")]
    assert page.tags.count("img") == 1
    assert page.text.count('alert("x")') >= 18


@given(st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=40))
def test_any_text_gives_a_well_formed_page(text: str) -> None:
    Outline(render_report(sections(text)))


def test_nothing_is_fetched_from_outside() -> None:
    page = Outline(render_report(sections("plain")))
    sources = [value for name, value in page.attributes if name in ("src", "href", "srcset")]
    assert sources and all(value.startswith("data:image/png;base64,") for value in sources if value)
    assert "link" not in page.tags and "script" not in page.tags and "iframe" not in page.tags
    style = render_report(sections("plain"))
    assert "url(" not in style and "@import" not in style
    assert any(value and "default-src 'none'" in value for _, value in page.attributes)


def test_embedded_pictures_are_those_given() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    page = render_report(sections("plain", picture))
    encoded = re.search(r"base64,([^\"]+)", page)
    assert encoded is not None
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded.group(1))))), picture)
    assert 'width="18" height="12"' in page


def test_written_whole_with_its_title(tmp_path: Path) -> None:
    path = write_report(tmp_path / "new" / "report.html", sections("cars & trucks"))
    assert "<title>cars &amp; trucks</title>" in path.read_text()
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_bars_follow_the_numbers() -> None:
    table = Table("t", ("part", "IoU"), [("a", "0.250"), ("b", "–"), ("c", "1.0")], bars="IoU").html()
    assert re.findall(r"width:([\d.]+)%", table) == ["25.0", "100.0"]


def test_chart_is_xml_with_a_line_a_series_and_gaps_at_nan() -> None:
    nan = float("nan")
    svg = line_chart({"a": [(0, 1), (1, 2), (2, nan), (3, 1), (4, 3)], "b": [(0, 1)], "c": [(0, nan)]}, "<t>", "x", "y")
    root = ElementTree.fromstring(svg)
    names = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert names.count("polyline") == 2 and names.count("circle") == 1
    assert "nan" not in svg and "inf" not in svg


def test_chart_points_lie_where_they_should() -> None:
    svg = line_chart({"a": [(0, 0), (5, 5), (10, 10)]}, "t")
    line = re.search(r'points="([^"]+)"', svg)
    assert line is not None
    (x0, y0), (x1, y1), (x2, y2) = (map(float, p.split(",")) for p in line.group(1).split())
    assert x1 == pytest.approx((x0 + x2) / 2, abs=0.1) and y1 == pytest.approx((y0 + y2) / 2, abs=0.1)
    assert x0 < x2 and y0 > y2


def test_logarithmic_axis_and_empty_charts() -> None:
    svg = line_chart({"a": [(0, 1), (1, 10), (2, 100), (3, 0), (4, -1)]}, "t", log_y=True)
    line = re.search(r'points="([^"]+)"', svg)
    assert line is not None
    heights = [float(p.split(",")[1]) for p in line.group(1).split()]
    assert len(heights) == 3
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)
    assert "no points yet" in line_chart({"a": []}, "t")
    ElementTree.fromstring(line_chart({"a": [(1, 5)], "b": [(1, 5)]}, "t"))


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e6))
def test_ticks_are_few_round_and_inside(low: float, span: float) -> None:
    values = ticks(low, low + span)
    assert 2 <= len(values) <= 7
    slack = 1e-6 * (abs(low) + span)
    assert all(low - slack <= value <= low + span + slack for value in values)
    steps = np.diff(values)
    assert np.allclose(steps, steps[0], rtol=1e-3)


def test_markdown_forms() -> None:
    html = markdown_html(
        "# One\ntwo **bold** `x<y`\nthree\n- a\n- b\n\n| h | k |\n|---|:-:|\n| 1 | 2 |\n```\n<raw>\n```"
    )
    assert "<h3>One</h3>" in html and "<p>two <strong>bold</strong> <code>x&lt;y</code> three</p>" in html
    assert "<ul><li>a</li><li>b</li></ul>" in html and "<pre>&lt;raw&gt;</pre>" in html
    assert "<th>h</th>" in html and "<td>2</td>" in html and "---" not in html
