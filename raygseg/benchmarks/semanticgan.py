"""What SemanticGAN makes of few labels, in its domain and out of it, beside a U-Net on the same labels.

For every number of labels and every draw of them: a shared generator, trained without labels, goes on with a label
branch (stage 1; chest X-rays begin anew), an encoder of its codes is trained (stage 2), and pictures that nothing was
trained on are embedded (stage 3), by the encoder alone and optimised. The U-Net learns from the same labelled pictures
alone. Nothing is chosen by test figures. Every training and every score is a cell that is not made again: the same
call goes on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from raygseg.benchmarks.support.cells import Cell, Cells, Progress, within
from raygseg.benchmarks.support.studies import DATA, STUDIES, Study
from raygseg.config.loader import fingerprint, load_config
from raygseg.config.schema import EvaluateConfig
from raygseg.config.sections import Run
from raygseg.data.picture_sets import LabelledSet
from raygseg.data.sources import open_labelled
from raygseg.errors import ConfigError, MissingEnvironmentError
from raygseg.interfaces import Segmenter

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
ARMS = {"direct": "U-Net on the labels", "encoder": "encoder alone", "embedding": "optimised"}
FIGURES = ("miou_foreground", "miou", "dice_foreground")
SHOWN = 8  # pictures of a sheet


def run(
    study: str = "toy",
    output: str = "",
    data: str = "",
    scale: float = 1.0,
    steps: int = 100,
    drift_cap: float = 0.0,
    pictures: int = 0,
    workers: int = 1,
    features: str = "auto",
    pretrained: str = "",
    shots: Sequence[int] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Figures of every arm on every test set; writes table.md and sheets of overlays beside the cells.

    Args:
        study: toy, nuclei or chest-xray.
        output: folder of the cells; empty: runs/semanticgan-STUDY.
        data: folder of the data sets; empty: the environment variable RAYGSEG_DATA.
        scale: share of every training's length; 0.001 tries the whole way in minutes.
        steps, drift_cap: of the optimised arm.
        pictures: at most so many of each test set; 0: all.
        workers: Ray Train workers; 0: in this process.
        features: of the perceptual distance: auto, vgg16, efficientnet-lite0 or discriminator.
        pretrained: checkpoint of kind gan that has seen no labels, in place of the pre-training.
        shots: which numbers of labels; empty: the study's.
        progress: called as (stage, done, total, facts).
    """
    if study not in STUDIES:
        raise ConfigError(f"study: '{study}' is not known", f"use one of {', '.join(STUDIES)}")
    told = STUDIES[study]
    settings = Settings(_data_folder(data, told), scale, steps, drift_cap, pictures, workers, features)
    trial = Trial(told, settings, Path(output or f"runs/semanticgan-{study}").absolute(), progress)
    start = pretrained or trial.pretrained()
    cells: dict[str, dict[str, Cell]] = {}
    for count in shots or told.draws:
        for draw in range(told.draws.get(count, 1)):
            one = Draw(trial, count, draw, start)
            cells[one.name] = one.scores()
    table = markdown(cells, list(told.tests))
    (trial.output / "table.md").write_text(table)
    return {"study": study, "scores": cells, "table": table, "output": str(trial.output)}


def _data_folder(data: str, study: Study) -> str:
    """Absolute; "" for a study that needs none."""
    if DATA not in study.pictures:
        return ""
    place = Path(data or os.environ.get("RAYGSEG_DATA", ""))
    if not (data or "RAYGSEG_DATA" in os.environ) or not place.is_dir():
        raise MissingEnvironmentError(
            f"the data sets are not at '{place}'", "set RAYGSEG_DATA or data= to the folder that holds them"
        )
    return str(place.absolute())


@dataclass(frozen=True)
class Settings:
    """How far and with what; see `run`."""

    data: str
    scale: float
    steps: int
    drift_cap: float
    pictures: int
    workers: int
    features: str
    device: str = "cpu"  # of the scoring


@dataclass
class Trial:
    """A study under its settings."""

    study: Study
    settings: Settings
    output: Path
    progress: Progress | None = None
    cells: Cells = field(init=False)

    def __post_init__(self) -> None:
        self.output.mkdir(parents=True, exist_ok=True)
        self.cells = Cells(self.output)

    def source(self, text: str) -> str:
        return text.replace(DATA, f"{self.settings.data}/")

    def trained(self, name: str, file: str, stage: str, *overrides: str) -> Cell:
        """What `file` says, trained under the trial's own names and lengths; bundle, last checkpoint and figures."""
        config = self.load(name, file, stage, *overrides)
        return self.cells.kept(name, partial(self._train, config), fingerprint(config))

    def _train(self, config: Run) -> Cell:
        from raygseg.engine.checkpoint import CheckpointFolder
        from raygseg.pipelines.train import train

        result = train(config, within(self.progress, config.name))
        last = sorted(CheckpointFolder(result.run_dir).names())[-1]
        return {
            "bundle": result.bundle_path,
            "checkpoint": f"{result.run_dir}/{last}",
            "nimg": result.nimg,
            "metrics": dict(result.metrics),
        }

    def load(self, name: str, file: str, stage: str, *overrides: str) -> Run:
        settings = self.settings
        base = load_config(CONFIGS / file, overrides)
        batch = base.schedule.batch_size  # type: ignore[attr-defined]
        kimg = max(self.study.kimg[stage] * settings.scale, 2 * batch / 1000)
        places = [
            f"name={name}", f"schedule.total_kimg={kimg}", f"runtime.output={self.output / name}",
            f"runtime.tracking_uri=sqlite:///{self.output / 'mlflow.db'}",
            f"runtime.workers={max(settings.workers, 1)}", f"runtime.in_process={not settings.workers}".lower(),
        ]  # fmt: skip
        return load_config(CONFIGS / file, [*places, *overrides])

    def pretrained(self) -> str:
        """The last checkpoint of the generator that has seen no labels; "" for a study without one."""
        study = self.study
        if "pretrain" not in study.files:
            return ""
        return str(self.trained("pretrain", study.files["pretrain"], "pretrain", *self.unlabelled())["checkpoint"])

    def unlabelled(self) -> list[str]:
        return [f"data.source={self.source(self.study.pictures)}", f"data.resolution={self.study.resolution}"]

    def test(self, name: str) -> LabelledSet:
        return open_labelled(self.source(self.study.tests[name]), None, limit=self.settings.pictures)

    def scored(self, where: str, test: str, bundle: str, segmenter: Segmenter) -> Cell:
        """Figures of a segmenter on a test set, with a report in the folder `where`."""
        from raygseg.pipelines.evaluate import evaluate

        overrides = [
            f"name={where}", f"model={bundle}", f"data={self.source(self.study.tests[test])}", "batch_size=16",
            f"output={self.output / 'evaluations' / where}",
            f"runtime.tracking_uri=sqlite:///{self.output / 'mlflow.db'}",
        ]  # fmt: skip
        config = load_config(CONFIGS / "toy" / "evaluate.yaml", overrides)
        assert isinstance(config, EvaluateConfig)
        result = evaluate(config, segmenter, self.test(test), within(self.progress, where))
        figures = {name: result.metrics[name] for name in FIGURES}
        return {**figures, "iou": result.iou, "never_predicted": result.never_predicted, "pictures": result.pictures}


@dataclass(frozen=True)
class Draw:
    """One draw of labels: its trainings and its scores. The draw is the seed of everything."""

    trial: Trial
    shots: int
    draw: int
    start: str

    @property
    def name(self) -> str:
        return f"{self.shots}-labels-{self.draw}"

    def _labels(self) -> list[str]:
        source = self.trial.source(self.trial.study.labelled)
        return [f"labelled={source}", f"labelled_limit={self.shots}", f"seed={self.draw}"]

    def _trained(self, stage: str, file: str, *overrides: str) -> Cell:
        return self.trial.trained(f"{self.name}-{stage}", file, stage, *self._labels(), *overrides)

    def trained(self) -> dict[str, str]:
        """Bundles of the U-Net and of the segmenter by embedding."""
        study, settings, pictures = self.trial.study, self.trial.settings, self.trial.unlabelled()
        start = [f"start={self.start}"] if self.start else []
        joint = self._trained("joint", study.files["joint"], *pictures, *start)
        plan = [f"features.name={settings.features}", f"embedding.steps={settings.steps}"]
        plan += [f"embedding.drift_cap={settings.drift_cap}", f"generator={joint['bundle']}"]
        encoder = self._trained("encoder", "joint-gan/encoder-toy.yaml", *pictures, *study.encoder, *plan)
        size = f"resolution={study.resolution}"
        direct = self._trained("direct", "toy/segmenter-direct.yaml", size, *study.direct)
        return {"direct": direct["bundle"], "encoder": encoder["bundle"], "embedding": encoder["bundle"]}

    def segmenter(self, arm: str, bundle: str) -> Segmenter:
        from raygseg.methods.semanticgan.segmenter import EmbeddingSegmenter
        from raygseg.pipelines.kinds import load_segmenter

        settings = self.trial.settings
        made = load_segmenter(bundle, device=settings.device)
        inner = getattr(made, "inner", made)
        if isinstance(inner, EmbeddingSegmenter):
            steps = 0 if arm == "encoder" else settings.steps
            inner.plan = replace(inner.plan, steps=steps, drift_cap=settings.drift_cap)
        return made

    def scores(self) -> dict[str, Cell]:
        """A cell each arm and test set, and for the first draw a sheet of overlays each test set."""
        bundles, found = self.trained(), {}
        for test in self.trial.study.tests:
            for arm in ARMS:
                label = f"{arm} {test}"
                where = f"{self.name}-{label.replace(' ', '-')}"
                found[label] = self.trial.cells.kept(where, partial(self._score, arm, test, bundles[arm], where))
            if self.draw == 0:
                sheet = f"{self.name}-sheet-{test.replace(' ', '-')}"
                self.trial.cells.kept(sheet, partial(self._sheet, test, bundles))
        return found

    def _score(self, arm: str, test: str, bundle: str, where: str) -> Cell:
        return self.trial.scored(where, test, bundle, self.segmenter(arm, bundle))

    def _sheet(self, test: str, bundles: Mapping[str, str]) -> Cell:
        """Pictures, truth and every arm's answer, a row a picture."""
        from raygseg.viz.grids import fit, picture_grid, png_bytes
        from raygseg.viz.overlays import overlay

        data = self.trial.test(test)
        rows = [data.read(i) for i in range(min(SHOWN, len(data)))]
        answers = {
            arm: self.segmenter(arm, bundle).predict([picture for picture, _ in rows])
            for arm, bundle in bundles.items()
        }
        tiles = []
        for i, (picture, truth) in enumerate(rows):
            maps = [truth, *(answers[arm][i].label_map for arm in ARMS)]
            tiles += [fit(t, 128) for t in [picture, *(overlay(picture, m, data.labels) for m in maps)]]
        file = self.trial.output / "sheets" / f"{self.name}-{test.replace(' ', '-')}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(png_bytes(picture_grid(tiles, columns=2 + len(ARMS))))
        return {"file": str(file), "columns": ["picture", "truth", *ARMS.values()]}


def markdown(cells: Mapping[str, Mapping[str, Cell]], tests: Sequence[str]) -> str:
    """One row a number of labels and arm; means over draws in per cent, and the range where there are several."""
    heads = [f"{test}: parts / with bg / Dice" for test in tests]
    lines = ["| labels | arm | draws | " + " | ".join(heads) + " |", "|---" * (3 + len(heads)) + "|"]
    shots = sorted({int(name.partition("-")[0]) for name in cells})
    for count in shots:
        draws = [found for name, found in cells.items() if name.startswith(f"{count}-labels-")]
        for arm, title in ARMS.items():
            figures = [_figures([found[f"{arm} {test}"] for found in draws]) for test in tests]
            lines.append(f"| {count} | {title} | {len(draws)} | " + " | ".join(figures) + " |")
    return "\n".join(lines) + "\n"


def _figures(found: Sequence[Cell]) -> str:
    first = [100 * cell[FIGURES[0]] for cell in found]
    span = f" ({min(first):.1f} - {max(first):.1f})" if len(found) > 1 else ""
    return " / ".join(f"{100 * mean(cell[name] for cell in found):.1f}" for name in FIGURES) + span
