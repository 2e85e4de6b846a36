"""Score a segmenter on labelled pictures at their own size, draw the best and the worst, maybe promote it."""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from shlex import quote
from typing import TYPE_CHECKING, Any

import numpy as np

from raygseg.data import object_store
from raygseg.data.picture_files import ClassMap, Picture
from raygseg.errors import DataError, RegistryError
from raygseg.interfaces import Segmentation, Segmenter
from raygseg.labels import LabelSpace
from raygseg.metrics.scoreboard import Scoreboard, Scores
from raygseg.pipelines.evaluation_run import track_evaluation
from raygseg.pipelines.segment import usable_device
from raygseg.viz.evaluation_page import overlay_section, score_sections, skipped_section
from raygseg.viz.extremes import Extremes
from raygseg.viz.grids import Canvas, png_bytes
from raygseg.viz.report import Commands, Section, Title, write_report

if TYPE_CHECKING:
    from raygseg.config.schema import EvaluateConfig
    from raygseg.data.sources import LabelledSet

Progress = Callable[..., None]  # (stage, done, total, facts)
BATCH_PIXELS = 1 << 24
DECIDING_METRIC = "miou_foreground"


@dataclass(frozen=True)
class EvaluateResult:
    """What `evaluate` found and wrote.

    Attributes:
        metrics: dataset-level figures (see `metrics.scoreboard`).
        iou: by class name; NaN for absent classes.
        absent: classes with neither truth nor prediction pixels, left out of the means.
        never_predicted: classes of the truth that were never predicted.
        pictures: how many were scored. skipped: how many could not be read.
        refused: how many of the scored the segmenter refused; they count as background.
        output: the folder. files: what was written there, by purpose.
        promotion: what happened to the champion alias; empty where none was asked for.
        run_id: of the evaluation in the experiment store; empty where the store did not answer.
    """

    metrics: dict[str, float]
    iou: dict[str, float]
    absent: list[str]
    never_predicted: list[str]
    pictures: int
    skipped: int
    output: str
    files: dict[str, str]
    promotion: str = ""
    run_id: str = ""
    refused: int = 0


def evaluate(
    config: EvaluateConfig,
    segmenter: Segmenter | None = None,
    data: LabelledSet | None = None,
    progress: Progress | None = None,
) -> EvaluateResult:
    """Score `config.model` on `config.data`; writes metrics.json, parts.csv, overlays and report.html, and records it.

    Args:
        config: what to score and how.
        segmenter: used instead of loading `config.model`.
        data: used instead of opening `config.data`; must hold pictures at their own size.
        progress: called as (stage, done, total, facts).

    Raises:
        DataError: no usable pictures, or classes that are not the model's.
        RegistryError: `config.promote` is given and the model is not one of its versions (said before scoring).
    """
    from raygseg.data.sources import data_fingerprint, open_labelled

    version = registered_version(config) if config.promote else ""
    if segmenter is None:
        from raygseg.pipelines.kinds import load_segmenter

        device = usable_device(config.runtime.device)
        segmenter = load_segmenter(config.model, config.runtime.tracking_uri, device)
    if data is None:
        data = open_labelled(config.data, resolution=None)
    check_same_classes(segmenter.labels, data.labels, config.model, config.data)
    began = time.perf_counter()
    board = Scoreboard(data.labels, config.boundary_tolerance)
    extremes = Extremes(data.labels, min(config.overlays, (len(data) + 1) // 2), min(config.overlays, len(data) // 2))
    refused: list[str] = []
    for index, picture, truth, answer in _predictions(segmenter, data, config.batch_size):
        score = board.add(truth, answer.label_map)
        extremes.offer(index, data.names[index], score, picture, truth, answer.label_map)
        refused += [data.names[index]] * answer.refused
        if progress is not None:
            progress("evaluate", index + 1, len(data), {"mIoU": board.confusion.scores()[DECIDING_METRIC]})
    scores = board.scores(config.bootstrap, config.seed)
    fingerprint = data_fingerprint(data)
    promotion = _promote(config, version, scores.figures[DECIDING_METRIC], fingerprint) if version else ""
    record = _record(config, scores, data, fingerprint, time.perf_counter() - began, promotion)
    record |= {"refused": refused, "coverage": 1 - len(refused) / max(1, len(board))}
    files = _write(config, scores, data, extremes.sheets(), record)
    run_id = track_evaluation(config, output_place(config), record, files)
    return EvaluateResult(
        metrics=scores.figures,
        iou={part.name: part.iou for part in scores.parts},
        absent=scores.parts_with("absent"),
        never_predicted=scores.parts_with("never predicted"),
        pictures=len(board),
        skipped=len(data.report.bad),
        output=output_place(config),
        files=files,
        promotion=promotion,
        run_id=run_id,
        refused=len(refused),
    )


def output_place(config: EvaluateConfig) -> str:
    """Where the results go: `output`, else runs/NAME."""
    return config.output or config.runtime.output or f"runs/{config.name}"


def check_same_classes(model: LabelSpace, data: LabelSpace, model_uri: str, data_uri: str) -> None:
    """Raise DataError saying which class names differ; order counts, for label maps hold indices."""
    if model.names == data.names:
        return
    only_model = [n for n in model.names if n not in data.names]
    only_data = [n for n in data.names if n not in model.names]
    if only_model or only_data:
        difference = f"only the model has {only_model}, only the data has {only_data}"
    else:
        difference = f"the order differs: {list(model.names)} and {list(data.names)}"
    raise DataError(
        f"{data_uri}: its classes are not those of {model_uri}: {difference}",
        "score on data with the model's classes (for coarse classes add ?coarse=1 to the source)",
    )


def _predictions(
    segmenter: Segmenter, data: LabelledSet, batch_size: int
) -> Iterator[tuple[int, Picture, ClassMap, Segmentation]]:
    """(index, picture, truth, answer) in order; batches are also cut at BATCH_PIXELS."""
    batch: list[tuple[int, Picture, ClassMap]] = []
    pixels = 0
    for index in range(len(data)):
        picture, truth = data.read(index)
        if batch and (len(batch) >= batch_size or pixels + truth.size > BATCH_PIXELS):
            yield from _predicted(segmenter, batch)
            batch, pixels = [], 0
        batch.append((index, picture, truth))
        pixels += truth.size
    if batch:
        yield from _predicted(segmenter, batch)


def _predicted(
    segmenter: Segmenter, batch: list[tuple[int, Picture, ClassMap]]
) -> Iterator[tuple[int, Picture, ClassMap, Segmentation]]:
    answers = segmenter.predict([picture for _, picture, _ in batch])
    for (index, picture, truth), answer in zip(batch, answers, strict=True):
        yield index, picture, truth, answer


def registered_version(config: EvaluateConfig) -> str:
    """The version of `config.promote` that holds `config.model`. Raises RegistryError if there is none."""
    from raygseg.tracking import registry

    bundle = registry.resolve(config.model, config.runtime.tracking_uri)
    version = registry.find_version(bundle, config.promote, config.runtime.tracking_uri)
    if version is None:
        raise RegistryError(
            f"{config.model} is no version of '{config.promote}', so it cannot become its champion",
            f"train it with runtime.register_as={config.promote}, or take promote= off",
        )
    return version


def _promote(config: EvaluateConfig, version: str, value: float, fingerprint: str) -> str:
    """Let the registry's rule decide whether the champion alias moves; what became of it, in a sentence."""
    from raygseg.tracking import registry

    decision = registry.promote(
        config.promote,
        version,
        metric=DECIDING_METRIC,
        value=value,
        data=fingerprint,
        tracking_uri=config.runtime.tracking_uri,
    )
    became = f"Version {version} of {config.promote} is now champion" if decision.promoted else "The champion stays"
    return f"{became}: {decision.reason}"


def _record(
    config: EvaluateConfig, scores: Scores, data: LabelledSet, fingerprint: str, seconds: float, promotion: str
) -> dict[str, Any]:
    """Everything that was found, as JSON values (NaN is null)."""
    return {
        "name": config.name,
        "model": config.model,
        "data": config.data,
        "data_fingerprint": fingerprint,
        "pictures": len(data),
        "skipped": [{"file": name, "reason": reason} for name, reason in data.report.bad],
        "seconds": round(seconds, 3),
        "boundary_tolerance": config.boundary_tolerance,
        "bootstrap": config.bootstrap,
        "seed": config.seed,
        "metrics": _json_values(scores.figures),
        "intervals": {name: [_json_value(end) for end in ends] for name, ends in scores.intervals.items()},
        "parts": [_json_values(asdict(part)) for part in scores.parts],
        "absent": scores.parts_with("absent"),
        "never_predicted": scores.parts_with("never predicted"),
        "not_in_truth": scores.parts_with("not in the truth"),
        "confusion": scores.confusion.tolist(),
        "promotion": promotion,
    }


def _json_value(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json_values(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _json_value(value) for name, value in values.items()}


def _write(
    config: EvaluateConfig,
    scores: Scores,
    data: LabelledSet,
    sheets: tuple[Canvas | None, Canvas | None],
    record: dict[str, Any],
) -> dict[str, str]:
    """Write every file; their places by purpose."""
    place = output_place(config)
    files = {name: object_store.join(place, file) for name, file in _FILES.items()}
    object_store.write_bytes(files["metrics"], (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())
    object_store.write_bytes(files["parts"], _parts_csv(scores).encode())
    for name, sheet in zip(("best", "worst"), sheets, strict=True):
        if sheet is None:
            del files[name]
        else:
            object_store.write_bytes(files[name], png_bytes(sheet))
    write_report(files["report"], _page(config, scores, data, sheets, record))
    return files


_FILES = {
    "metrics": "metrics.json",
    "parts": "parts.csv",
    "best": "overlays/best.png",
    "worst": "overlays/worst.png",
    "report": "report.html",
}


def _parts_csv(scores: Scores) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    rows = [asdict(part) for part in scores.parts]
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow("" if isinstance(v, float) and np.isnan(v) else v for v in row.values())
    return text.getvalue()


def _page(
    config: EvaluateConfig,
    scores: Scores,
    data: LabelledSet,
    sheets: tuple[Canvas | None, Canvas | None],
    record: Mapping[str, Any],
) -> list[Section]:
    lead = f"`{config.model}` on `{config.data}` (data fingerprint `{record['data_fingerprint']}`)"
    if record["refused"]:
        lead += f". Refused as none of its kind, and counted as background: {len(record['refused'])}"
    if record["promotion"]:
        lead += f". {record['promotion']}"
    model, words = quote(config.model), [f"name={config.name}", f"model={config.model}", f"data={config.data}"]
    return [
        Title(f"{config.name}: evaluation", lead),
        *score_sections(scores, data.labels, len(data), config.boundary_tolerance),
        *overlay_section(*sheets),
        *skipped_section(data.report.bad),
        Commands(
            "Try next",
            [
                ("segment your own pictures", f"raygseg segment {model} photos/ --output parts"),
                ("score again", " ".join(["raygseg evaluate", *map(quote, words)])),
            ],
        ),
    ]
