"""Whether a sampler's labels fit its pictures: held against a segmenter that was trained on real labels.

Of a finished sampler, of one checkpoint, or of every checkpoint of a run, which gives the curve that losses cannot
give. Figures are appended to agreement.jsonl, so the same command again does only what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raygseg.data import object_store
from raygseg.metrics.confusion import Confusion
from raygseg.pipelines import fidelity, kinds
from raygseg.pipelines.evaluate import check_same_classes
from raygseg.pipelines.figure_file import oldest_first, read_figures, write_figures

if TYPE_CHECKING:
    from raygseg.interfaces import Pairs, PairSampler, Segmenter
    from raygseg.viz.overlays import Comparison

Progress = Callable[[str, float, float, Mapping[str, float]], None]  # (stage, done, total, facts)
RECORD, SHEET = "agreement.jsonl", "agreement.png"
BATCH_PIXELS = 1 << 18
SHOWN = 12  # samples on the sheet


@dataclass(frozen=True)
class Agreement:
    """One sampler's labels against a segmenter's on the same generated pictures; the segmenter's count as the truth.

    Attributes:
        sampler: bundle or checkpoint. nimg: pictures it was trained on; -1: not known.
        segmenter: bundle. samples: pictures, of seeds 0, 1, ...
        miou, miou_foreground, pixel_accuracy: over all pixels of all samples.
        iou: by class; null where neither side has the class.
    """

    sampler: str
    nimg: int
    segmenter: str
    samples: int
    miou: float
    miou_foreground: float
    pixel_accuracy: float
    iou: dict[str, float | None]

    def key(self) -> tuple[object, ...]:
        """Two records with the same key are the same measurement."""
        return self.sampler, self.nimg, self.segmenter, self.samples


def agreement(
    sampler: str, segmenter: str, output: str = "", *, count: int = 500, device: str = "cpu",
    progress: Progress | None = None,
) -> list[Agreement]:  # fmt: skip
    """Compare labels on `count` samples; one record a sampler, oldest first.

    Args:
        sampler: bundle (folder, s3://, models:/NAME@alias), checkpoint, or a run's folder: all its checkpoints.
        segmenter: bundle of the same classes, trained on as many real labels as there are.
        output: folder or s3:// prefix of agreement.jsonl and agreement.png; empty: the run's folder, else nothing
            is written.

    Raises:
        DataError: the classes differ, or a run without a checkpoint.
    """
    found = fidelity.checkpoints_at(sampler)
    is_run = fidelity.is_run(sampler)
    output = output or (sampler if is_run else "")
    known = read_figures(Agreement, output, RECORD)
    judge, results = kinds.load_segmenter(segmenter, device=device), list[Agreement]()
    for i, (nimg, place) in enumerate(found):
        before = known.get((place, nimg, segmenter, count))
        if before is not None:
            results.append(before)
            continue
        drawn = kinds.load_sampler(place, device=device)
        check_same_classes(drawn.labels, judge.labels, place, segmenter)
        confusion, sheet = _compared(drawn, judge, count, progress, i, len(found))
        results.append(_record(place, nimg, segmenter, count, confusion))
        if output:
            _write(output, [*known.values(), *results], sheet, drawn)
    if is_run:
        _track(sampler, results)
    return results


def _compared(
    sampler: PairSampler, segmenter: Segmenter, count: int, progress: Progress | None, part: int, parts: int
) -> tuple[Confusion, list[Comparison]]:
    confusion, sheet = Confusion(sampler.labels), list[Any]()
    size = max(1, min(32, BATCH_PIXELS // sampler.resolution**2))
    for first in range(0, count, size):
        seeds = range(first, min(first + size, count))
        _judge(sampler.sample(seeds), seeds, segmenter, confusion, sheet)
        if progress is not None:
            progress("agreement", part * count + seeds[-1] + 1, parts * count, {"mIoU": confusion.scores()["miou"]})
    return confusion, sheet


def _judge(
    pairs: Pairs, seeds: Sequence[int], segmenter: Segmenter, confusion: Confusion, sheet: list[Comparison]
) -> None:
    from raygseg.viz.overlays import compare

    pictures = list(pairs.images.permute(0, 2, 3, 1).cpu().numpy())
    maps = pairs.probabilities.argmax(1).cpu().numpy().astype("uint8")
    for seed, picture, own, answer in zip(seeds, pictures, maps, segmenter.predict(pictures), strict=True):
        confusion.update(answer.label_map, own)
        if len(sheet) < SHOWN:
            sheet.append(compare(picture, answer.label_map, own, confusion.labels, f"seed {seed}", side=128))


def _record(sampler: str, nimg: int, segmenter: str, count: int, confusion: Confusion) -> Agreement:
    scores = confusion.scores()
    iou = {name: None if v != v else float(v) for name, v in zip(confusion.labels.names, confusion.iou, strict=True)}
    figures = {name: scores[name] for name in ("miou", "miou_foreground", "pixel_accuracy")}
    return Agreement(sampler, nimg, segmenter, count, **figures, iou=iou)


def _write(output: str, records: Sequence[Agreement], sheet: Sequence[Comparison], sampler: PairSampler) -> None:
    from raygseg.viz.grids import png_bytes
    from raygseg.viz.overlays import comparison_sheet

    write_figures(records, output, RECORD)
    object_store.write_bytes(object_store.join(output, SHEET), png_bytes(comparison_sheet(sheet, sampler.labels)))


def records(folder: str) -> list[Agreement]:
    """What was measured in `folder` before, oldest sampler first."""
    return oldest_first(read_figures(Agreement, folder, RECORD).values())


def _track(folder: str, results: Sequence[Agreement]) -> None:
    figures = {r.nimg: {"agreement": r.miou, "agreement_foreground": r.miou_foreground} for r in results}
    fidelity.log_measured(folder, figures)


def table(results: Sequence[Agreement]) -> list[dict[str, Any]]:
    """Rows for a person."""
    return [
        {
            "kimg": round(r.nimg / 1000, 1) if r.nimg >= 0 else "-",
            "mIoU": round(r.miou, 4),
            "foreground": round(r.miou_foreground, 4),
            "pixel accuracy": round(r.pixel_accuracy, 4),
            "sampler": Path(r.sampler).name,
        }
        for r in results
    ]
