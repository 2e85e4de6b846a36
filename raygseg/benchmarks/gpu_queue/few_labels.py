"""Item nuclei-labels: SemanticGAN's study on nuclei, all three stages, from the state of item nuclei-generator."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from raygseg.benchmarks.gpu_queue.items import NUCLEI_ZIP
from raygseg.benchmarks.gpu_queue.lease import Lease
from raygseg.benchmarks.gpu_queue.plain import LeaseOverError, data_folder, newest, train
from raygseg.benchmarks.gpu_queue.trained import settings as settings_of
from raygseg.benchmarks.gpu_queue.trained import take_state
from raygseg.benchmarks.semanticgan import FIGURES, Draw, Settings, Trial
from raygseg.benchmarks.support.cells import Cell
from raygseg.benchmarks.support.studies import FINER, STUDIES, Study
from raygseg.config.sections import Run
from raygseg.engine.checkpoint import checkpoint_nimg
from raygseg.interfaces import Segmenter
from raygseg.metrics.scoreboard import Scoreboard

GENERATOR = "nuclei-generator"
LENGTHS = {"joint": 60, "encoder": 60, "direct": 48}
BATCH = 16  # pictures that are embedded together
TOLERANCE = 0.01  # of boundaries, as `evaluate` has it


def run(lease: Lease, item: str) -> bool:
    """Draw after draw; True when all are on record."""
    start = beginning(lease)
    if not start:
        print(f"{item}: waits for {GENERATOR}", flush=True)
        return False
    study = study_of(lease.scale)
    place = lease.work / item
    tiny = lease.scale == "tiny"
    how = Settings(
        data=str(data_folder(lease, NUCLEI_ZIP)), scale=1e-3 if tiny else 1.0, steps=2 if tiny else 100,
        drift_cap=0.0, pictures=2 if tiny else 0, workers=0, features="vgg16",
        device=lease.device,
    )  # fmt: skip
    trial = PlainTrial(study, how, place, lease=lease)
    for shots, draws in study.draws.items():
        for draw in range(draws):
            # The tiny generator is of another size.
            one = Draw(trial, shots, draw, "" if tiny else start)
            if lease.has(item, one.name):
                continue
            try:
                scores = one.scores()
            except LeaseOverError:
                return False
            for sheet in (place / "sheets").glob("*.png"):
                shutil.copyfile(sheet, lease.returned(item) / sheet.name)
            lease.record(item, one.name, {"start": Path(start).name, "scores": scores})
    return True


def study_of(scale: str) -> Study:
    """The study with lengths and batches for a GPU."""
    study = replace(STUDIES["nuclei"], kimg=LENGTHS, encoder=FINER)
    return replace(study, draws={10: 1}) if scale == "tiny" else study


def beginning(lease: Lease) -> str:
    """The last checkpoint of a finished GENERATOR, trained here or brought along; "" where there is none."""
    folder = lease.work / GENERATOR
    take_state(lease.travels / "state" / f"{GENERATOR}.zip", folder)
    found = newest(folder)
    whole = 1000 * settings_of(GENERATOR, lease.scale)["schedule"]["total_kimg"]
    return found if found and checkpoint_nimg(Path(found).name) >= whole else ""


@dataclass
class PlainTrial(Trial):
    """A trial without Ray, tracking or registry."""

    lease: Lease | None = None

    def _train(self, config: Run) -> Cell:
        assert self.lease is not None
        bundle = train(config, self.lease)
        last = newest(bundle.parent)
        return {"bundle": str(bundle), "checkpoint": last, "nimg": checkpoint_nimg(Path(last).name)}

    def scored(self, where: str, test: str, bundle: str, segmenter: Segmenter) -> Cell:
        assert self.lease is not None
        data = self.test(test)
        board = Scoreboard(data.labels, TOLERANCE)
        for first in range(0, len(data), BATCH):
            if self.lease.remaining() <= 0:
                raise LeaseOverError
            rows = [data.read(i) for i in range(first, min(first + BATCH, len(data)))]
            answers = segmenter.predict([picture for picture, _ in rows])
            for (_, truth), answer in zip(rows, answers, strict=True):
                board.add(truth, answer.label_map)
        figures = board.scores(0, 0).figures
        return {**{name: figures[name] for name in FIGURES}, "pictures": len(data)}
