"""The page that `prepare` leaves behind: what was kept, what was skipped or mended, and how it looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from raygseg.data.picture_files import ClassMap
from raygseg.data.preparation.findings import KINDS
from raygseg.data.preparation.summary import ASPECTS, NAMED, SIDES, Summary
from raygseg.labels import LabelSpace
from raygseg.viz.grids import Canvas, fit, picture_grid
from raygseg.viz.overlays import pair_sheet
from raygseg.viz.report import Card, Commands, Figure, KeyFigures, Pictures, Plate, Section, Table, Title

THUMBNAIL = 112
LISTED = 40  # files of a kind that were not skipped
FEW_PICTURES = 5  # a class in fewer pictures is pointed out
HEADINGS = {
    "skipped": ("Skipped", "Not in the set; they count towards `--max-bad-fraction`."),
    "left out": ("Left out", "Not in the set, and no fault of theirs."),
    "mended": ("Mended", "In the set; this was done to them."),
    "noted": ("Worth a look", "In the set as they are."),
}


def preparation_sections(
    source: str,
    summary: Summary,
    settings: Mapping[str, object],
    labels: LabelSpace | None,
    pictures: Sequence[Canvas],
    class_maps: Sequence[ClassMap],
    commands: Sequence[tuple[str, str]],
) -> list[Section]:
    """All sections for what was made of `source`.

    Args:
        pictures: a sample of the set in its order; with labels, `class_maps` are theirs.
        commands: (what it does, command) to try next.
    """
    resolution = settings["resolution"]
    skipped = sum(summary.by_outcome("skipped").values())
    sections: list[Section] = [
        Title(_title(source), f"{summary.rows:,} rows of {summary.files:,} files in `{source}`, {resolution} px"),
        KeyFigures(
            [
                Figure("kept", f"{summary.rows:,}", f"of {summary.files:,} files"),
                Figure("skipped", f"{skipped:,}", _of(skipped, summary.files)),
                Figure("duplicates", f"{summary.counts.get('duplicate', 0):,}", "left out"),
                Figure("mended", f"{sum(summary.by_outcome('mended').values()):,}", "in one way or another"),
                Figure("size", _bytes(summary.bytes), f"{resolution} x {resolution} px"),
                Figure("sources", _range(summary), "smallest to largest"),
            ]
        ),
    ]
    if pictures:
        sections.append(_sample(pictures, class_maps, labels))
    if labels is not None:
        sections.append(class_table(summary, labels))
    sections += [
        _kinds(summary),
        _histogram("Shapes", "width to height", _names([f"{edge:g}" for edge in ASPECTS], ""), summary.aspects),
        _histogram("Sizes in the source", "shorter side", _names([str(side) for side in SIDES], " px"), summary.sides),
        *_named(summary),
        Card("Settings", "```\n" + "\n".join(f"{key}: {value}" for key, value in settings.items()) + "\n```"),
        Commands("Next", commands),
    ]
    return sections


def _title(source: str) -> str:
    return f"{source.rstrip('/').rpartition('/')[2] or source}: prepared"


def class_table(summary: Summary, labels: LabelSpace) -> Table:
    """Share of pixels and pictures of each class; those that hardly occur are pointed out."""
    total = max(1, sum(summary.class_pixels))
    rows = []
    for name, pixels, pictures in zip(labels.names, summary.class_pixels, summary.class_rows, strict=False):
        remark = "in no mask" if not pictures else f"in {pictures} only" if pictures < FEW_PICTURES else ""
        rows.append((name, f"{pixels / total:.4f}", f"{pictures:,}", remark))
    return Table(
        "Classes",
        ("class", "share of pixels", "pictures", ""),
        rows,
        note="Unlabelled pixels (void, bars) are not counted.",
        bars="share of pixels",
        swatches=labels.palette,
    )


def _sample(pictures: Sequence[Canvas], class_maps: Sequence[ClassMap], labels: LabelSpace | None) -> Pictures:
    note = "Evenly over the set, as they will be seen in training."
    zoom = max(1, 64 // max(1, pictures[0].shape[0]))
    if labels is None:
        return Pictures("What was kept", [Plate(picture_grid([fit(p, _side(p)) for p in pictures]), "", zoom)], note)
    small = [fit(p, _side(p)) for p in pictures]
    maps = [_shrunk(m, p.shape[0], p.shape[1]) for m, p in zip(class_maps, small, strict=True)]
    return Pictures("What was kept", [Plate(pair_sheet(small, maps, labels, 4), "", zoom)], note)


def _side(picture: Canvas) -> int:
    return min(THUMBNAIL, int(max(picture.shape[:2])))


def _shrunk(class_map: ClassMap, height: int, width: int) -> ClassMap:
    """Nearest neighbour."""
    rows = np.arange(height) * class_map.shape[0] // height
    columns = np.arange(width) * class_map.shape[1] // width
    return np.asarray(class_map[rows][:, columns], dtype=np.uint8)


def _kinds(summary: Summary) -> Table:
    rows = [
        (kind, outcome, f"{count:,}", f"it {KINDS[kind].meaning}", KINDS[kind].fix)
        for outcome in HEADINGS
        for kind, count in summary.by_outcome(outcome).items()
    ]
    return Table(
        "What was found",
        ("kind", "outcome", "files", "meaning", "what to do"),
        rows,
        note="Every file with its findings is in `findings.csv`." if rows else "Nothing: every file was fine.",
    )


def _named(summary: Summary) -> list[Section]:
    """The files by kind, under one heading for each outcome."""
    sections: list[Section] = []
    for outcome, (heading, note) in HEADINGS.items():
        kinds, shown = summary.by_outcome(outcome), NAMED if outcome == "skipped" else LISTED
        rows = [(f.name, kind, f.detail) for kind in kinds for f in summary.named[kind][:shown]]
        if not rows:
            continue
        more = any(count > shown for count in kinds.values())
        tail = f" The first {shown} of each kind; all are in `findings.csv`." if more else ""
        sections.append(Table(heading, ("file", "kind", "detail"), rows, note=note + tail))
    return sections


def _names(edges: Sequence[str], unit: str) -> list[str]:
    middle = [f"{low} to {high}{unit}" for low, high in pairwise(edges)]
    return [f"below {edges[0]}{unit}", *middle, f"from {edges[-1]}{unit}"]


def _histogram(title: str, what: str, names: Sequence[str], counts: Mapping[int, int]) -> Table:
    total = max(1, sum(counts.values()))
    rows = [(name, f"{counts.get(i, 0):,}", f"{counts.get(i, 0) / total:.3f}") for i, name in enumerate(names)]
    shown = [i for i in range(len(rows)) if counts.get(i)]
    rows = rows[min(shown) : max(shown) + 1] if shown else []
    return Table(title, (what, "pictures", "share"), rows, bars="share")


def _of(part: int, whole: int) -> str:
    return f"{100 * part / max(1, whole):.1f} % of the files"


def _range(summary: Summary) -> str:
    if summary.smallest is None or summary.largest is None:
        return "–"
    (a, b), (c, d) = summary.smallest, summary.largest
    return f"{a}x{b}" if (a, b) == (c, d) else f"{a}x{b} – {c}x{d}"


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} TiB"
