"""The few Markdown forms that model cards use, to HTML with all text escaped."""

from __future__ import annotations

import re
from html import escape

_INLINE = (
    (re.compile(r"`([^`]+)`"), r"<code>\1</code>"),
    (re.compile(r"\*\*([^*]+)\*\*"), r"<strong>\1</strong>"),
)
_BLOCK_MARKS = ("#", "|", "- ", "* ", "```")


def inline_html(text: str) -> str:
    """Escaped text in which `code` and **strong** are set."""
    html = escape(text)
    for pattern, replacement in _INLINE:
        html = pattern.sub(replacement, html)
    return html


def markdown_html(text: str, heading_level: int = 3) -> str:
    """Headings, paragraphs, bullet lists, pipe tables and fenced code; anything else is a paragraph.

    Args:
        text: Markdown; raw HTML in it is shown as text.
        heading_level: what a single `#` becomes.
    """
    lines = text.splitlines()
    parts: list[str] = []
    at = 0
    while at < len(lines):
        line = lines[at].strip()
        if line.startswith("```"):
            end = next((i for i in range(at + 1, len(lines)) if lines[i].strip().startswith("```")), len(lines))
            parts.append(f"<pre>{escape(chr(10).join(lines[at + 1 : end]))}</pre>")
            at = end + 1
        elif heading := re.match(r"(#{1,6})\s+(.*)", line):
            level = min(6, heading_level + len(heading.group(1)) - 1)
            parts.append(f"<h{level}>{inline_html(heading.group(2))}</h{level}>")
            at += 1
        elif line.startswith("|"):
            end = _run_end(lines, at, ("|",))
            parts.append(_table([lines[i].strip() for i in range(at, end)]))
            at = end
        elif line.startswith(("- ", "* ")):
            end = _run_end(lines, at, ("- ", "* "))
            items = "".join(f"<li>{inline_html(lines[i].strip()[2:])}</li>" for i in range(at, end))
            parts.append(f"<ul>{items}</ul>")
            at = end
        else:
            end = at
            while (
                end < len(lines) and lines[end].strip() and not lines[end].lstrip().startswith(("#", "|", "- ", "```"))
            ):
                end += 1
            if end > at:
                parts.append(f"<p>{inline_html(' '.join(lines[i].strip() for i in range(at, end)))}</p>")
            at = max(end, at + 1)
    return "\n".join(parts)


def _run_end(lines: list[str], start: int, marks: tuple[str, ...]) -> int:
    """First line after `start` that does not begin with one of the marks."""
    end = start
    while end < len(lines) and lines[end].strip().startswith(marks):
        end += 1
    return end


def _table(rows: list[str]) -> str:
    cells = [[c.strip() for c in row.strip("|").split("|")] for row in rows]
    cells = [row for row in cells if not all(re.fullmatch(r":?-+:?", c) for c in row)]
    head = "".join(f"<th>{inline_html(c)}</th>" for c in cells[0])
    body = "".join("<tr>" + "".join(f"<td>{inline_html(c)}</td>" for c in row) + "</tr>" for row in cells[1:])
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
