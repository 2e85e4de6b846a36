"""The cells of a comparison: an arm trained on a split of a draw, scored on a set, stored picture by picture."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from raygseg.config.schema import GAN_ARMS, CompareConfig
from raygseg.data import object_store
from raygseg.data.draws import write_draw
from raygseg.data.picture_files import ClassMap, Picture, decode_picture
from raygseg.data.picture_sets import LabelledSet
from raygseg.data.sources import open_labelled
from raygseg.errors import DataError, FingerprintError
from raygseg.metrics.confusion import confusion_counts
from raygseg.metrics.paired import Counts
from raygseg.pipelines.compare_arms import ARMS, Place
from raygseg.pipelines.compare_generator import keep_projections
from raygseg.pipelines.kinds import load_segmenter
from raygseg.viz.grids import fit, picture_grid, png_bytes
from raygseg.viz.overlays import overlay
from raygseg.viz.report import Plate

Progress = Callable[..., None]  # (stage, done, total, facts)
FOLDS, VALIDATION = "folds", "validation"
BATCH, SHOWN, TILE = 16, 6, 128  # pictures at a time; pictures drawn; their side


@dataclass(frozen=True)
class Cost:
    """What an arm took, means over its trainings.

    Attributes:
        train_s: seconds of a training with all that it needs before. predict_s: a picture. megabytes: of the bundle.
    """

    train_s: float
    predict_s: float
    megabytes: float


@dataclass(frozen=True)
class Cell:
    """An arm trained on a split of a draw and scored on one set."""

    arm: str
    draw: int
    split: str
    scored_on: str
    source: str

    @property
    def name(self) -> str:
        return f"draw-{self.draw}.{self.split}.{self.arm}.{self.scored_on}"


class Trial:
    """The cells of a comparison: which there are, how one is made, what all of a set add up to."""

    def __init__(self, config: CompareConfig, place: str) -> None:
        self.config, self.place = config, place
        data = open_labelled(config.labelled, None)
        self.labels = data.labels
        self.count = config.shots or len(data)
        for draw in range(config.draws):
            write_draw(data, config.shots, config.folds, config.seed + draw, self._labelled(draw))
        self._sets: dict[str, LabelledSet] = {}
        for name, source in self.others().items():
            if open_labelled(source, None, limit=1).labels.names != self.labels.names:
                raise DataError(
                    f"{source} ({name}) has other classes than {config.labelled}",
                    "give sources with the same labels.json; ?coarse=1 merges where a meta.json says how",
                )

    @property
    def decided_by(self) -> str:
        return VALIDATION if self.config.validation else FOLDS

    def others(self) -> dict[str, str]:
        """Sets beside the folds, by name."""
        config = self.config
        return {**({VALIDATION: config.validation} if config.validation else {}), **config.tests}

    def sets(self) -> list[str]:
        return [*([FOLDS] if self.config.folds else []), *self.others()]

    def cells(self, arms: list[str]) -> Iterator[Cell]:
        """In the order of work: draws, then arms, so that early draws are whole first."""
        for draw in range(self.config.draws):
            for arm in arms:
                for fold in range(self.config.folds):
                    held_out = f"{self._labelled(draw)}?split=fold-{fold}-out"
                    yield Cell(arm, draw, f"fold-{fold}", FOLDS, held_out)
                for name, source in self.others().items():
                    yield Cell(arm, draw, "all", name, source)

    def places(self) -> list[Place]:
        """Every split of every draw that is learnt from."""
        splits = [f"fold-{fold}" for fold in range(self.config.folds)] + (["all"] if self.others() else [])
        return [self.place_of(draw, split) for draw in range(self.config.draws) for split in splits]

    def unfinished(self, arms: Iterable[str]) -> list[Place]:
        """The places from which one of the arms has still to learn, or to be scored."""
        cells = (cell for cell in self.cells(sorted(arms)) if not object_store.exists(self._file(cell, "json")))
        return [self.place_of(draw, split) for draw, split in sorted({(cell.draw, cell.split) for cell in cells})]

    def place_of(self, draw: int, split: str) -> Place:
        """What is learnt from on a split of a draw, and where."""
        folder = object_store.join(self.place, f"draw-{draw}", split)
        return Place(f"{self._labelled(draw)}?split={split}", folder, self.config.seed + draw)

    def _labelled(self, draw: int) -> str:
        return object_store.join(self.place, f"draw-{draw}", "labelled")

    # --- one cell --------------------------------------------------------------------------------

    def run(self, cell: Cell, tell: Progress | None = None) -> None:
        """Train and score, unless it is on record."""
        record = self._file(cell, "json")
        if object_store.exists(record):
            self._same_generator(cell, json.loads(object_store.read_bytes(record)))
            return
        trained = self._train(cell, tell)
        data = self._open(cell)
        segmenter = load_segmenter(trained["bundle"], self.config.runtime.tracking_uri)
        keep_projections(segmenter, self.config, self.place)
        seconds, refused, counts = 0.0, 0, []
        shown: list[tuple[Picture, ClassMap, ClassMap]] = []
        for first in range(0, len(data), BATCH):
            pairs = [data.read(i) for i in range(first, min(first + BATCH, len(data)))]
            began = time.perf_counter()
            answers = segmenter.predict([picture for picture, _ in pairs])
            seconds += time.perf_counter() - began
            refused += sum(answer.refused for answer in answers)
            for (picture, truth), answer in zip(pairs, answers, strict=True):
                counts.append(confusion_counts(truth, answer.label_map, self.labels))
                shown += [(picture, truth, answer.label_map)] if len(shown) < SHOWN else []
        self._draw(cell, shown)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, counts=np.stack(counts))
        object_store.write_bytes(self._file(cell, "npz"), buffer.getvalue())
        facts = {"pictures": list(data.names), "refused": refused, "predict_s": seconds / len(data), **trained}
        object_store.write_bytes(record, json.dumps(facts, indent=1).encode())

    def _same_generator(self, cell: Cell, facts: Mapping[str, Any]) -> None:
        if cell.arm in GAN_ARMS and facts["generator"] != self.config.generator:
            raise FingerprintError(
                f"{self.place}: the arm '{cell.arm}' was made with generator={facts['generator']}",
                "choose another name or runtime.output, or go back to that generator",
            )

    def _draw(self, cell: Cell, shown: list[tuple[Picture, ClassMap, ClassMap]]) -> None:
        """The first pictures with the truth above the arm's labels, as one strip."""
        rows = [[overlay(picture, maps[which], self.labels) for picture, *maps in shown] for which in (0, 1)]
        strip = picture_grid([fit(tile, TILE) for row in rows for tile in row], columns=len(shown))
        object_store.write_bytes(self._file(cell, "png"), png_bytes(strip))

    def plates(self, arms: list[str]) -> list[Plate]:
        """Those strips of the first cell of each arm on the deciding set."""
        plates = []
        for arm in arms:
            cell = next(cell for cell in self.cells([arm]) if cell.scored_on == self.decided_by)
            picture = decode_picture(object_store.read_bytes(self._file(cell, "png")))
            plates.append(Plate(picture, f"truth, then {arm}"))
        return plates

    def _file(self, cell: Cell, suffix: str) -> str:
        return object_store.join(self.place, "cells", f"{cell.name}.{suffix}")

    def _open(self, cell: Cell) -> LabelledSet:
        if cell.scored_on == FOLDS:
            return open_labelled(cell.source, None)
        if cell.scored_on not in self._sets:
            self._sets[cell.scored_on] = open_labelled(cell.source, None)
        return self._sets[cell.scored_on]

    def _train(self, cell: Cell, tell: Progress | None) -> dict[str, Any]:
        """The arm's bundle and what it cost, from the record of an earlier cell or by training."""
        place = self.place_of(cell.draw, cell.split)
        record = object_store.join(place.folder, f"{cell.arm}.json")
        if object_store.exists(record):
            facts: dict[str, Any] = json.loads(object_store.read_bytes(record))
            self._same_generator(cell, facts)
            return facts
        began = time.perf_counter()
        bundle = ARMS[cell.arm].make(self.config, place, tell)
        facts = {
            "bundle": bundle,
            "generator": self.config.generator if cell.arm in GAN_ARMS else "",
            "train_s": round(time.perf_counter() - began, 1),
            "bytes": sum(entry.size for entry in object_store.list_files(bundle)),
        }
        object_store.write_bytes(record, json.dumps(facts, indent=1).encode())
        return facts

    # --- all cells of a set ----------------------------------------------------------------------

    def counts(self, arm: str, name: str) -> Counts:
        """[N, D, K, K]: every picture of the set (of the folds: each held out once), every draw."""
        cells = [cell for cell in self.cells([arm]) if cell.scored_on == name]
        by_draw = [
            np.concatenate([self._stored(cell) for cell in cells if cell.draw == draw])
            for draw in range(self.config.draws)
        ]
        return np.stack(by_draw, axis=1)

    def _stored(self, cell: Cell) -> Counts:
        with np.load(io.BytesIO(object_store.read_bytes(self._file(cell, "npz"))), allow_pickle=False) as stored:
            return np.asarray(stored["counts"], dtype=np.int64)

    def pictures(self, arm: str, name: str) -> list[str]:
        """Names of the set's pictures, in the order of `counts`."""
        return [picture for fact in self._facts(arm, name) if fact["draw"] == 0 for picture in fact["pictures"]]

    def _facts(self, arm: str, name: str) -> list[dict[str, Any]]:
        """The records of the set's cells, each with its draw."""
        cells = [cell for cell in self.cells([arm]) if cell.scored_on == name]
        return [{**json.loads(object_store.read_bytes(self._file(c, "json"))), "draw": c.draw} for c in cells]

    def coverage(self, arm: str, name: str) -> float:
        """Share of the set's pictures that the arm did not refuse; what it refused counts as background."""
        facts = self._facts(arm, name)
        return 1 - float(sum(fact["refused"] for fact in facts) / sum(len(fact["pictures"]) for fact in facts))

    def cost(self, arm: str) -> Cost:
        facts = [json.loads(object_store.read_bytes(self._file(cell, "json"))) for cell in self.cells([arm])]

        def mean(key: str) -> float:
            return float(np.mean([fact[key] for fact in facts]))

        return Cost(mean("train_s"), mean("predict_s"), mean("bytes") / 1e6)
