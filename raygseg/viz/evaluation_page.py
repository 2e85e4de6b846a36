"""The page that `evaluate` leaves behind: figures, parts, mistakes, best and worst pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

from raygseg.labels import LabelSpace
from raygseg.metrics.scoreboard import Ends, PartScore, Scores
from raygseg.viz.grids import Canvas
from raygseg.viz.report import Figure, KeyFigures, Pictures, Plate, Section, Table

FIGURE_NAMES = {
    "miou_foreground": "mIoU, foreground",
    "miou": "mIoU, with background",
    "weighted_iou_foreground": "weighted IoU, foreground",
    "weighted_iou": "weighted IoU, with background",
    "dice_foreground": "Dice, foreground",
    "dice": "Dice, with background",
    "boundary_f_foreground": "boundary F, foreground",
    "boundary_f": "boundary F, with background",
    "pixel_accuracy": "pixel accuracy",
}
SHOWN_FIRST = ("miou_foreground", "miou", "weighted_iou_foreground", "boundary_f_foreground", "pixel_accuracy")


def percent(value: float) -> str:
    """`81.2 %`, or a dash for NaN."""
    return "–" if math.isnan(value) else f"{100 * value:.1f} %"


def percent_range(ends: Ends | None) -> str:
    """`79.8 – 82.5 %`, empty without an interval."""
    if ends is None or any(math.isnan(end) for end in ends):
        return ""
    return f"{100 * ends[0]:.1f} – {100 * ends[1]:.1f} %"


def score_sections(scores: Scores, labels: LabelSpace, pictures: int, tolerance: float) -> list[Section]:
    """Key figures, the table of parts, all figures and the largest mistakes."""
    first = [
        Figure(FIGURE_NAMES[name], percent(scores.figures[name]), _remark(scores.intervals.get(name)))
        for name in SHOWN_FIRST
    ]
    return [
        KeyFigures([*first, Figure("pictures", f"{pictures:,}")]),
        parts_table(scores, labels),
        Table(
            "All figures",
            ("figure", "value", "95 % interval"),
            [
                (shown, percent(scores.figures[name]), percent_range(scores.intervals.get(name)))
                for name, shown in FIGURE_NAMES.items()
            ],
            note=f"From one confusion matrix over all pictures; boundary tolerance {tolerance:g} of the diagonal. "
            "Intervals resample the pictures; they say nothing about another training seed.",
        ),
        Table(
            "Largest mistakes",
            ("truth", "called", "pixels", "share of the part"),
            [(m.truth, m.prediction, f"{m.pixels:,}", percent(m.share)) for m in scores.mistakes],
        ),
    ]


def parts_table(scores: Scores, labels: LabelSpace) -> Table:
    """IoU, interval, Dice, boundary F and area of each part, with a note on parts that are missing."""
    notes = []
    for remark, meaning in (
        ("absent", "neither in the truth nor predicted, left out of every mean"),
        ("never predicted", "in the truth but never predicted"),
        ("not in the truth", "predicted but not in the truth; counts as 0"),
    ):
        if names := scores.parts_with(remark):
            notes.append(f"**{remark}**: {', '.join(names)} ({meaning}).")
    return Table(
        "Parts",
        ("part", "IoU", "95 % interval", "Dice", "boundary F", "share of truth", "of prediction", ""),
        [_part_row(part) for part in scores.parts],
        note=" ".join(notes),
        bars="IoU",
        swatches=labels.palette,
    )


def overlay_section(best: Canvas | None, worst: Canvas | None) -> list[Section]:
    """The sheets of best and worst pictures, where there are any."""
    plates = [Plate(sheet, caption) for sheet, caption in ((best, "best"), (worst, "worst")) if sheet is not None]
    return [Pictures("Best and worst pictures", plates)] if plates else []


def skipped_section(skipped: Sequence[tuple[str, str]], limit: int = 50) -> list[Section]:
    """Files that could not be read, with the reason."""
    if not skipped:
        return []
    note = f"{len(skipped) - limit} more are in metrics.json." if len(skipped) > limit else ""
    return [Table("Skipped files", ("file", "reason"), list(skipped[:limit]), note=note)]


def _remark(ends: Ends | None) -> str:
    text = percent_range(ends)
    return f"95 %: {text}" if text else ""


def _part_row(part: PartScore) -> tuple[str, ...]:
    return (
        part.name,
        "–" if math.isnan(part.iou) else f"{part.iou:.3f}",
        percent_range((part.iou_low, part.iou_high)),
        percent(part.dice),
        percent(part.boundary_f),
        percent(part.truth_share),
        percent(part.predicted_share),
        part.remark,
    )
