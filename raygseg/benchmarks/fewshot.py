"""The table of few-shot segmentation on novel classes: no training against PANet without and with alignment.

Every cell, an arm on a fold under one style of support labels, is an evaluation that `pipelines.episodes` stores:
all shots and runs of the fold together, so that each picture goes through the network once. The same call goes on
where it stopped and fills in arms whose bundles have come since.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from raygseg.benchmarks.support.cells import Progress, within
from raygseg.benchmarks.support.data_folder import data_folder
from raygseg.config.episodes import EpisodesConfig, named_protocol
from raygseg.data.episodes.index import ClassIndex
from raygseg.data.episodes.sources import read_class_index
from raygseg.engine.process import use_cpu
from raygseg.errors import ConfigError
from raygseg.methods.panet.network import FrontCache
from raygseg.metrics.episodes import RunScores, run_difference
from raygseg.nn.backbones.catalogue import FILES
from raygseg.pipelines.episode_scores import EpisodesResult
from raygseg.pipelines.episodes import score_episodes

UNTRAINED = "no training"
FRONT_BYTES = 1 << 30  # of one fold's pictures at 201 px: half of it
WEAK = ("scribble", "box", "point")
# episodes a run, runs, side in px, folds
SCALES: Mapping[str, tuple[int, int, int, tuple[int, ...]]] = {
    "tiny": (6, 1, 65, (0,)),
    "small": (100, 1, 201, (0,)),
    "full": (1000, 3, 201, (0, 1, 2, 3)),
}


class Cell(NamedTuple):
    """An arm on a fold; model: its bundle, empty for none."""

    arm: str
    fold: int
    marks: str
    model: str

    @property
    def name(self) -> str:
        return f"{self.arm.replace(' ', '-')}.fold-{self.fold}.{self.marks}"


def run(
    output: str = "runs/fewshot",
    data: str = "",
    source: str = "fewshot",
    scale: str = "tiny",
    shots: tuple[int, ...] = (1, 5),
    arms: dict[str, str] | None = None,
    folds: tuple[int, ...] = (),
    weak_fold: int = -1,
    weak_arm: str = UNTRAINED,
    episodes: int = 0,
    runs: int = 0,
    resolution: int = 0,
    seed: int = 1234,
    protocol: str = "standard",
    actors: int = 0,
    in_process: bool = True,
    threads: int = 1,
    bootstrap: int = 1000,
    encoder_precision: str = "fp32",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score every arm on every fold; writes OUTPUT/table.md and table.json beside the cells.

    Args:
        output: folder of the cells. data: folder of the data sets; empty: RAYGSEG_DATA. source: the set in it.
        scale: tiny (seconds), small (one fold, 100 episodes) or full (4 folds, 3 runs of 1,000 episodes).
        shots: support pictures, all scored with the same bundle.
        arms: bundle by arm, with {fold} in its path, beside the arm without training; those that are not there, of
            folds that an arm was not trained for or not yet, are left open.
        folds, episodes, runs, resolution: in place of the scale's.
        weak_fold: fold of the rows with scribbles, boxes and points; -1: none. weak_arm: whose.
        in_process: here, one picture after the other; else by Ray actors (0: one a CPU or GPU).
        encoder_precision: fp32, or bf16 at half the time of the features where the CPU has it.
        progress: called as (stage, done, total, facts).

    Raises:
        ConfigError: an unknown scale, protocol or arm. MissingEnvironmentError: no data or weights.
    """
    if scale not in SCALES:
        raise ConfigError(f"scale: there is no '{scale}'", f"use one of: {', '.join(SCALES)}")
    count, times, side, every = SCALES[scale]
    place, bundles = data_folder(data, source), {UNTRAINED: "", **(arms or {})}
    if lacking := [arm for arm, bundle in bundles.items() if bundle and "{fold}" not in bundle]:
        raise ConfigError(
            f"arms: {lacking[0]} has no {{fold}} in its path", "name one bundle a fold: panet-{fold}/bundle"
        )
    if weak_fold >= 0 and weak_arm not in bundles:
        raise ConfigError(f"weak_arm: there is no arm '{weak_arm}'", f"use one of: {', '.join(bundles)}")
    use_cpu(threads)
    index = read_class_index(str(place / source))
    asked = {
        "weights": str(data_folder(data, "weights") / "weights" / FILES["vgg16"]),
        "data": str(place / source),
        "shots": tuple(shots),
        "episodes": episodes or count,
        "runs": runs or times,
        "resolution": resolution or side,
        "seed": seed,
        "protocol": named_protocol(protocol),
        "actors": actors,
        "bootstrap": bootstrap,
        "encoder_precision": encoder_precision,
        "runtime": {"in_process": in_process},
    }
    fronts = FrontCache(FRONT_BYTES) if in_process else None
    cells = list(_cells(bundles, tuple(folds) or every, weak_fold, weak_arm))
    done: dict[Cell, EpisodesResult] = {}
    for cell in cells:
        if not cell.model or Path(cell.model).is_dir():
            done[cell] = _scored(cell, asked, index, output, progress, fronts)
    table = _table(done, cells, tuple(shots), bootstrap, seed)
    Path(output, "table.md").write_text(markdown(table))
    Path(output, "table.json").write_text(json.dumps(table, indent=1) + "\n")
    return {"name": "fewshot", **table}


def _cells(bundles: Mapping[str, str], folds: Sequence[int], weak_fold: int, weak_arm: str) -> Iterator[Cell]:
    for arm, bundle in bundles.items():
        for fold in folds:
            yield Cell(arm, fold, "mask", bundle.format(fold=fold))
    if weak_fold >= 0:
        for style in WEAK:
            yield Cell(weak_arm, weak_fold, style, bundles[weak_arm].format(fold=weak_fold))


def _scored(
    cell: Cell,
    asked: Mapping[str, Any],
    index: ClassIndex,
    output: str,
    progress: Progress | None,
    fronts: FrontCache | None,
) -> EpisodesResult:
    told = {"name": cell.name, "model": cell.model, "fold": cell.fold, "marks": cell.marks}
    config = EpisodesConfig(**asked, **told, output=str(Path(output, "cells", cell.name)))
    return score_episodes(config, index=index, progress=within(progress, cell.name), fronts=fronts)


# --- the table -----------------------------------------------------------------------------------


def _table(
    done: Mapping[Cell, EpisodesResult], cells: Sequence[Cell], shots: tuple[int, ...], resamples: int, seed: int
) -> dict[str, Any]:
    """Plain values: a row an arm, style and number of shots.

    `gain`: over no training, of weak labels over whole masks; where both are there.
    """
    rows = []
    for arm, marks in dict.fromkeys((cell.arm, cell.marks) for cell in cells):
        own = {cell: result for cell, result in done.items() if (cell.arm, cell.marks) == (arm, marks)}
        rows += [_row(k, own, done, resamples, seed) for k in shots if own]
    first = next(iter(done.values()), None)
    return {
        "protocol": first.protocol if first else "",
        "rows": rows,
        "open": [cell.name for cell in cells if cell not in done],
        "left_out_episodes": sum(result.left_out for result in done.values()),
        "episodes": {name: digest for result in done.values() for name, digest in result.episodes.items()},
    }


def _row(
    shots: int, own: Mapping[Cell, EpisodesResult], done: Mapping[Cell, EpisodesResult], resamples: int, seed: int
) -> dict[str, Any]:
    """`own`: the cells of one arm and style."""
    folds: dict[str, Any] = {}
    for cell, result in own.items():
        folds[str(cell.fold)] = values = _values(result.scores[shots])
        against = (UNTRAINED, cell.fold, "mask") if cell.marks == "mask" else (cell.arm, cell.fold, "mask")
        base = next((found for other, found in done.items() if other[:3] == against), None)
        if base is not None and base is not result:
            gain = run_difference(result.counts[shots], base.counts[shots], resamples, seed)["miou"]
            values["gain"] = [_rounded(value) for value in gain]
    means = {key: _rounded(float(np.mean([fold[key] for fold in folds.values()]))) for key in ("miou", "binary_iou")}
    first = next(iter(own))
    return {"arm": first.arm, "marks": first.marks, "shots": shots, "folds": folds, **means}


def _values(scores: RunScores) -> dict[str, Any]:
    return {
        "miou": _rounded(scores.mean["miou"]),
        "binary_iou": _rounded(scores.mean["binary_iou"]),
        "std": _rounded(scores.std["miou"]),
        "interval": [_rounded(end) for end in scores.interval.get("miou", ())],
    }


def _rounded(value: float) -> float:
    return round(float(value), 5)


def markdown(table: Mapping[str, Any]) -> str:
    """Per cent: mean-IoU of every fold with its interval and gain, then the means over folds."""
    folds = sorted({fold for row in table["rows"] for fold in row["folds"]})
    heads = ["arm", "marks", "shots", *(f"fold {fold}" for fold in folds), "mean-IoU", "binary-IoU"]
    lines = [f"Protocol {table['protocol']}.", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in table["rows"]:
        parts = [_shown(row["folds"].get(fold)) for fold in folds]
        whole = len(row["folds"]) == len(folds)
        means = [f"{100 * row[key]:.1f}" if whole else "-" for key in ("miou", "binary_iou")]
        lines.append(f"| {' | '.join([row['arm'], row['marks'], str(row['shots']), *parts, *means])} |")
    if table["open"]:
        lines += ["", f"Not there yet: {', '.join(table['open'])}."]
    digests = ", ".join(f"{name} {digest}" for name, digest in table["episodes"].items())
    return "\n".join([*lines, "", f"Episodes: {digests}; left out: {table['left_out_episodes']}."]) + "\n"


def _shown(fold: Mapping[str, Any] | None) -> str:
    """`24.1 (22.0 to 26.2)`, and the gain with its interval."""
    if fold is None:
        return "-"
    text = f"{100 * fold['miou']:.1f}"
    if fold["interval"]:
        text += f" ({100 * fold['interval'][0]:.1f} to {100 * fold['interval'][1]:.1f})"
    if "gain" in fold:
        gain, low, high = (100 * value for value in fold["gain"])
        text += f"; {gain:+.1f} ({low:+.1f} to {high:+.1f})"
    return text
