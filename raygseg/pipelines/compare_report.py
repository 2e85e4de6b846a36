"""What `compare` leaves behind: the table, the figures, the page."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from raygseg.config.schema import CompareConfig
from raygseg.data import object_store
from raygseg.labels import LabelSpace
from raygseg.metrics.paired import DECIDING, OverDraws
from raygseg.pipelines.compare_arms import ARMS
from raygseg.viz.evaluation_page import percent, percent_range
from raygseg.viz.report import Commands, Pictures, Plate, Section, Table, Title, write_report

if TYPE_CHECKING:
    from raygseg.pipelines.compare import Row

_FILES = {"table": "table.md", "figures": "compare.json", "report": "report.html", "winner": "winner.yaml"}
INCLUDING = "miou"


def write_results(
    config: CompareConfig,
    place: str,
    rows: Sequence[Row],
    labels: LabelSpace,
    decided_by: str,
    reason: str,
    pictures: Sequence[Plate],
) -> dict[str, str]:
    """Write table.md, compare.json and report.html; the places of all files, winner.yaml's too."""
    files = {name: object_store.join(place, file) for name, file in _FILES.items()}
    object_store.write_bytes(files["table"], (markdown(rows, decided_by) + f"\nRecommended: {reason}.\n").encode())
    record = {"decided_by": decided_by, "reason": reason, "arms": [asdict(row) for row in rows]}
    object_store.write_bytes(files["figures"], (json.dumps(_json(record), indent=1) + "\n").encode())
    write_report(files["report"], _page(config, rows, labels, decided_by, reason, pictures, files["winner"]))
    return files


def markdown(rows: Sequence[Row], decided_by: str) -> str:
    """One line an arm: figures by set, the distance to the best with its interval, cost."""
    heads = headings(rows, decided_by)
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    lines += ["| " + " | ".join(cells(row, decided_by)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def headings(rows: Sequence[Row], decided_by: str) -> list[str]:
    sets = [decided_by, *(name for name in rows[0].sets if name != decided_by)]
    return [
        "arm", *(f"{name}: parts, with bg" for name in sets), "behind the best (95 %)",
        "training s", "s a picture", "MB",
    ]  # fmt: skip


def cells(row: Row, decided_by: str) -> list[str]:
    sets = [decided_by, *(name for name in row.sets if name != decided_by)]
    low, high = (100 * end for end in row.behind_ends)
    behind = f"{100 * row.behind:+.1f} ({low:+.1f} to {high:+.1f})" if row.behind else "-"
    cost = row.cost
    return [
        row.arm, *(_score(row.sets[name], row.coverage[name]) for name in sets), behind,
        f"{cost.train_s:.0f}", f"{cost.predict_s:.3f}", f"{cost.megabytes:.1f}",
    ]  # fmt: skip


def _score(found: OverDraws, coverage: float) -> str:
    text = f"{100 * found.figures[DECIDING]:.1f}, {100 * found.figures[INCLUDING]:.1f}"
    if len(found.draws) > 1:
        text += " (draws " + ", ".join(f"{100 * value:.1f}" for value in found.draws) + ")"
    return text if coverage == 1 else f"{text}; {100 * (1 - coverage):.0f} % refused"


def _page(
    config: CompareConfig,
    rows: Sequence[Row],
    labels: LabelSpace,
    decided_by: str,
    reason: str,
    pictures: Sequence[Plate],
    winner: str,
) -> list[Section]:
    shots = f"{config.shots} labelled pictures" if config.shots else "all labelled pictures"
    draws = f", {config.draws} draws" if config.draws > 1 else ""
    note = (
        f"Foreground mIoU, then mIoU with background, from one confusion matrix a draw. **{decided_by}** decides; "
        "other sets are shown only. Intervals resample the pictures, the same for both arms; they say nothing about "
        "another training seed."
    )
    return [
        Title(f"{config.name}: which route", f"{shots} of `{config.labelled}`{draws}. Recommended: {reason}."),
        Table("Arms", headings(rows, decided_by), [cells(row, decided_by) for row in rows], note=note),
        Pictures("The same pictures by every arm", pictures, "Unseen by the arm that labels them."),
        *(_parts(name, rows, labels) for name in rows[0].sets),
        Table("What they are", ("arm", "route"), [(row.arm, ARMS[row.arm].text) for row in rows]),
        Commands("Try next", [("train the winner on all labelled pictures", f"raygseg train {winner}")]),
    ]


def _parts(name: str, rows: Sequence[Row], labels: LabelSpace) -> Table:
    """IoU of every part by arm on one set."""
    gone = {row.arm: row.sets[name].never_predicted for row in rows if row.sets[name].never_predicted}
    absent = [part for part in labels.names if all(math.isnan(row.sets[name].iou[part]) for row in rows)]
    notes = [f"**{arm}** never predicts {', '.join(parts)}." for arm, parts in gone.items()]
    notes += [f"Absent from this set: {', '.join(absent)}."] if absent else []
    best = rows[0].sets[name].ends.get(DECIDING)
    notes += [f"{rows[0].arm}: {percent_range(best)} over the pictures."] if best else []
    return Table(
        f"Parts: {name}",
        ("part", *(row.arm for row in rows)),
        [(part, *(percent(row.sets[name].iou[part]) for row in rows)) for part in labels.names],
        note=" ".join(notes),
        swatches=list(labels.palette),
    )


def _json(value: Any) -> Any:
    """NaN is null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _json(inner) for key, inner in value.items()}
    return [_json(inner) for inner in value] if isinstance(value, list | tuple) else value
