"""A training run as one page: curves of everything it measured, its sample grids, what to do next."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raygseg.config.loader import fingerprint, resolved_yaml
from raygseg.config.sections import Run
from raygseg.data import object_store
from raygseg.errors import DataError
from raygseg.pipelines import run_folder
from raygseg.pipelines.fidelity import curve
from raygseg.tracking.journal import JOURNAL

if TYPE_CHECKING:
    from raygseg.viz.report import Section

PAGE = "report.html"
GRIDS = 6  # sample grids shown, evenly over the run
LEFT_OUT = frozenset({"kimg", "eta_s", "lr", "unpredicted_classes"})
# Metrics that belong into one chart, in this order; whatever is left gets a chart by the part before its slash.
CHARTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("losses", ("loss", "loss/generator", "loss/discriminator")),
    ("losses of pairs", ("loss/label_generator", "loss/label_discriminator", "loss/features")),
    ("logits of the discriminator", ("logit/real", "logit/fake")),
    ("scores of pairs", ("logit/real_pair", "logit/fake_pair")),
    ("augmentation", ("augment_p", "sign/real")),
    ("augmentation of pairs", ("label_augment_p", "sign/real_pair")),
    ("regularisers", ("loss/r1", "loss/label_r1", "loss/path_length")),
    ("path length", ("path_length", "path_mean")),
    ("agreement of labels with a segmenter (mIoU)", ("agreement", "agreement_foreground")),
    ("spread of pictures", ("spread/real", "spread/fake")),
    ("seconds for 1,000 pictures", ("s_per_kimg",)),
    ("memory of worker 0 (MiB)", ("rss_mib",)),
)

Points = list[tuple[float, float]]


def run_report(run: str, output: str = "") -> str:
    """Write the page of the run in folder `run`; returns its place.

    Args:
        run: runs/NAME, or where runtime.output says.
        output: file.html; empty: report.html in the run's folder.

    Raises DataError where there is no run, or nothing was measured yet.
    """
    from raygseg.viz.report import write_report

    config = run_folder.config_of(run)
    metrics, pictures = _journal(run)
    if not metrics:
        raise DataError(f"{run}: nothing was measured yet", "train for at least one tick (runtime.tick_kimg)")
    place = output or object_store.join(run, PAGE)
    write_report(place, _sections(run, config, metrics, pictures))
    return place


def _sections(
    run: str, config: Run, metrics: Mapping[str, Points], pictures: Sequence[tuple[float, str]]
) -> list[Section]:
    from raygseg.viz.curves import line_chart
    from raygseg.viz.report import Card, Charts, Commands, Figure, KeyFigures, Pictures, Plate, Title

    seen = max(points[-1][0] for points in metrics.values())
    scores = curve(run)
    figures = [Figure("seen", f"{seen:,.4g} kimg", f"of {_total(config):,.4g}")]
    if scores:
        figures.append(Figure(scores[-1].metric, f"{scores[-1].fid:.1f}", f"at {scores[-1].nimg / 1000:.4g} kimg"))
    if "s_per_kimg" in metrics:
        seconds = float(np.median([y for _, y in metrics["s_per_kimg"]]))
        if seconds > 0:
            figures.append(Figure("speed", f"{1000 / seconds:,.3g} pictures/s", "median of the ticks"))
    charts = [line_chart(series, title) for title, series in _grouped(metrics)]
    if scores:
        distance = {scores[0].metric: [(r.nimg / 1000, r.fid) for r in scores]}
        covered = {
            "precision": [(r.nimg / 1000, r.precision) for r in scores],
            "recall": [(r.nimg / 1000, r.recall) for r in scores],
        }
        charts = [line_chart(distance, scores[0].metric), line_chart(covered, "precision and recall"), *charts]
    sections: list[Section] = [
        Title(config.name, f"{config.kind}, fingerprint {fingerprint(config)[:16]}"),
        KeyFigures(figures),
        Charts("Curves", charts),
    ]
    plates = [Plate(picture, f"{kimg:,.4g} kimg", 1) for kimg, picture in _shown(run, pictures)]
    if plates:
        sections.append(Pictures("Samples", plates, "The same seeds every time."))
    sections += [
        Card("Configuration", f"```\n{resolved_yaml(config)}\n```"),
        Commands("Next", _commands(run, config)),
    ]
    return sections


def _total(config: Run) -> float:
    schedule = getattr(config, "schedule", None)
    return float(schedule.total_kimg) if schedule is not None else math.nan


def _commands(run: str, config: Run) -> list[tuple[str, str]]:
    go_on = ("go on training, or change how long", f"raygseg train {run}/{run_folder.CONFIG}")
    if config.kind == "joint-gan":
        return [
            go_on,
            ("do the labels fit the pictures?", f"raygseg agreement {run} SEGMENTER"),
            ("write pairs", f"raygseg generate name=pairs sampler={run}/bundle num_pairs=2000 output=PAIRS"),
        ]
    if config.kind == "encoder":
        return [
            go_on,
            ("score it", f"raygseg evaluate name=embedding model={run}/bundle data=SOURCE"),
            ("the encoder alone, without training again", f"raygseg train {run}/{run_folder.CONFIG} embedding.steps=0"),
        ]
    if config.kind != "gan":
        return [go_on, ("look at the bundle", f"raygseg inspect {run}/bundle")]
    return [
        go_on,
        ("measure every checkpoint", f"raygseg fidelity {run} PICTURES"),
        ("choose pictures to label", f"raygseg sample {run}/bundle --count 10 --output to-label"),
    ]


def _grouped(metrics: Mapping[str, Points]) -> list[tuple[str, dict[str, Points]]]:
    """(title, lines) of the charts."""
    left = {name: points for name, points in metrics.items() if name not in LEFT_OUT}
    groups: list[tuple[str, dict[str, Points]]] = []
    for title, names in CHARTS:
        lines = {name: left.pop(name) for name in names if name in left}
        if lines:
            groups.append((title, lines))
    rest: dict[str, dict[str, Points]] = {}
    for name, points in left.items():
        if name.startswith(("fid_", "kid", "precision", "recall")) or all(y == 0 for _, y in points):
            continue
        rest.setdefault(name.split("/")[0], {})[name] = points
    return groups + list(rest.items())


def _journal(run: str) -> tuple[dict[str, Points], list[tuple[float, str]]]:
    """Points by metric, x in kimg, and (kimg, file) of the sample grids."""
    place = object_store.join(run, JOURNAL)
    if not object_store.exists(place):
        raise DataError(f"{run}: no {JOURNAL}", "name the folder of a run that has trained")
    metrics: dict[str, dict[float, float]] = {}
    pictures: dict[float, str] = {}
    for line in object_store.read_bytes(place).decode(errors="replace").splitlines():
        entry = _entry(line)
        kimg = float(entry.get("nimg", 0)) / 1000
        if entry.get("file"):
            pictures[kimg] = str(entry["file"])
        for name, value in dict(entry.get("metrics", {})).items():
            metrics.setdefault(name, {})[kimg] = float(value) if value is not None else math.nan
    return {name: sorted(points.items()) for name, points in metrics.items()}, sorted(pictures.items())


def _entry(line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        return {}  # the stump of a line that was being written when the run was killed
    return entry if isinstance(entry, dict) else {}


def _shown(run: str, pictures: Sequence[tuple[float, str]]) -> list[tuple[float, Any]]:
    """Some of the grids, evenly over the run, the last among them."""
    import io

    from PIL import Image

    chosen = sorted({round(i * (len(pictures) - 1) / max(1, GRIDS - 1)) for i in range(GRIDS)}) if pictures else []
    found = []
    for i in chosen:
        kimg, file = pictures[i]
        place = object_store.join(run, file)
        if Path(file).is_absolute() or ".." in Path(file).parts or not object_store.exists(place):
            continue
        found.append((kimg, np.asarray(Image.open(io.BytesIO(object_store.read_bytes(place))).convert("RGB"))))
    return found
