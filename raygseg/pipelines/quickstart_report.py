"""The page that the quickstart ends with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raygseg.data.pair_set import PairSet
from raygseg.data.pairs import decode_pairs
from raygseg.pipelines.evaluate import EvaluateResult
from raygseg.viz.grids import fit, picture_grid
from raygseg.viz.report import Commands, Figure, KeyFigures, Pictures, Plate, Table, Title, write_report

PAIRS_SHOWN = 24
SIDE_SHOWN = 96


def write_quickstart_report(
    folder: Path, stages: Mapping[str, str], scores: EvaluateResult, baseline: EvaluateResult, pairs: str
) -> Path:
    """Scores, stages, parts, pairs, best and worst answers; the path of the page."""
    student, direct = scores.metrics["miou_foreground"], baseline.metrics["miou_foreground"]
    parts = [[name, f"{value:.3f}", f"{baseline.iou[name]:.3f}"] for name, value in scores.iou.items()]
    plates = [Plate(_pairs_shown(pairs), "generated pictures and their masks")]
    plates += [
        Plate(np.asarray(Image.open(scores.files[name]).convert("RGB")), f"{name} answers on unseen pictures")
        for name in ("best", "worst")
        if name in scores.files
    ]
    return write_report(
        folder / "report.html",
        [
            Title("Quickstart", "From unlabelled toy pictures and ten labels to a registered part segmenter."),
            KeyFigures(
                [
                    Figure("student", f"{student:.3f}", "foreground mIoU, trained on generated pairs"),
                    Figure("baseline", f"{direct:.3f}", "the same U-Net and steps on the ten labels"),
                ]
            ),
            Table("Stages", ["stage", "time and result"], [list(row) for row in stages.items()]),
            Table("Parts", ["part", "student IoU", "baseline IoU"], parts),
            Pictures("Pictures", plates),
            Commands("Try next", [("segment your own", f"raygseg segment {folder}/pulled PICTURES/ --output masks/")]),
        ],
    )


def _pairs_shown(uri: str) -> NDArray[np.uint8]:
    pairs = PairSet.open(uri)
    stored = decode_pairs(pairs.read(pairs.shards[0]).slice(0, PAIRS_SHOWN), pairs.labels.num_classes)
    drawn: list[NDArray[np.uint8]] = []
    for image, chances in zip(stored.images, stored.probabilities, strict=True):
        pair = image.permute(1, 2, 0).numpy(), pairs.labels.colourise(chances.argmax(0).numpy())
        drawn += [fit(picture, SIDE_SHOWN, smooth=False) for picture in pair]
    return picture_grid(drawn, 12)
