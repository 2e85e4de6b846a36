"""PANet without and with alignment, trained on each fold's base classes and scored on its novel ones.

Fold by fold: what is not trained yet is trained, then scored beside the network that nobody trained, with whole masks
and on one fold with weak labels (`fewshot`, which writes table.md). Every training has the same episodes, seed and
rates; the last weights are used, so nothing is chosen by novel classes. The same call goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from raygseg.benchmarks import fewshot
from raygseg.benchmarks.support.cells import Cell, Cells, Progress, within
from raygseg.benchmarks.support.data_folder import data_folder
from raygseg.config.loader import fingerprint, load_config
from raygseg.config.sections import Run
from raygseg.nn.backbones.catalogue import FILES

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "panet"
MORE_SHOTS = "aligned 5-shot"
ARMS = {"plain": "fewshot-no-alignment.yaml", "aligned": "fewshot.yaml"}
RATE_STEP = 2 / 3  # of the episodes at the first rate; a tenth of it after that


def run(
    output: str = "runs/fewshot-study",
    data: str = "",
    source: str = "fewshot",
    scale: str = "full",
    kimg: float = 1.5,
    kimg_more: float = 0.5,
    folds: Sequence[int] = (0, 1, 2, 3),
    more_fold: int = 0,
    weak_fold: int = 0,
    resolution: int = 0,
    workers: int = 1,
    seed: int = 0,
    overrides: Sequence[str] = (),
    episodes: int = 0,
    runs: int = 0,
    in_process: bool = True,
    actors: int = 0,
    encoder_precision: str = "fp32",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train and score; what `fewshot` returns, over all folds that were asked for.

    Args:
        output: folder of trainings, scores and the table. data, source: as of `fewshot`.
        scale: of the scoring: tiny, small or full.
        kimg: thousands of episodes of each training. kimg_more: of the one with five shots, each of which costs thrice.
        folds: in this order. more_fold: also trained with five shots; -1: none. weak_fold: with weak labels; -1: none.
        resolution: side in px of the square that pictures are squashed to; 0: the scale's.
        workers: Ray Train workers; 0: in this process. seed: of the trainings.
        overrides: of the trainings' configuration, `key=value`.
        episodes, runs, in_process, actors, encoder_precision: of the scoring, as of `fewshot`.
        progress: called as (stage, done, total, facts).
    """
    place = data_folder(data, source)
    weights = data_folder(data, "weights") / "weights" / FILES["vgg16"]
    told = [f"data={place / source}", f"network.weights={weights}", f"seed={seed}", *overrides]
    study = Study(Path(output).absolute(), resolution or fewshot.SCALES[scale][2], workers, told, progress)
    bundles = {arm: study.folder(arm, "{fold}") for arm in (*ARMS, MORE_SHOTS)}
    found: dict[str, Any] = {}
    for count, fold in enumerate(folds, start=1):
        for arm, file in ARMS.items():
            study.trained(arm, file, fold, kimg)
        if fold == more_fold:
            study.trained(MORE_SHOTS, ARMS["aligned"], fold, kimg_more, "shots=5")
        weak = weak_fold if weak_fold in folds[:count] else -1
        found = fewshot.run(
            output=str(study.output), data=str(place), source=source, scale=scale, arms=bundles,
            folds=tuple(folds[:count]), resolution=study.resolution, episodes=episodes, runs=runs,
            in_process=in_process, actors=actors, weak_fold=weak, weak_arm="aligned",
            encoder_precision=encoder_precision, progress=progress,
        )  # fmt: skip
    return found


class Study:
    """The trainings of a study; see `run`."""

    def __init__(
        self,
        output: Path,
        resolution: int,
        workers: int,
        overrides: Sequence[str],
        progress: Progress | None = None,
    ) -> None:
        self.output, self.resolution, self.workers, self.overrides = output, resolution, workers, overrides
        self.progress = progress
        self.cells = Cells(output / "trainings")

    def folder(self, arm: str, fold: int | str) -> str:
        """Of the arm's bundle on a fold."""
        return str(self.output / "trainings" / f"{arm.replace(' ', '-')}-{fold}" / "bundle")

    def trained(self, arm: str, file: str, fold: int, kimg: float, *overrides: str) -> Cell:
        """Train on a fold's base classes unless that was done; its last figures and what it took."""
        name = Path(self.folder(arm, fold)).parent.name
        config = self.config(name, file, fold, kimg, *overrides)
        return self.cells.kept(name, partial(self._train, config), fingerprint(config))

    def config(self, name: str, file: str, fold: int, kimg: float, *overrides: str) -> Run:
        told = [
            f"name={name}", f"fold={fold}", f"resolution={self.resolution}",
            f"schedule.total_kimg={kimg}", f"optimiser.lr_step_kimg={round(kimg * RATE_STEP, 4)}",
            f"runtime.output={self.output / 'trainings' / name}",
            f"runtime.tracking_uri=sqlite:///{self.output / 'mlflow.db'}",
            f"runtime.workers={max(self.workers, 1)}", f"runtime.in_process={not self.workers}".lower(),
        ]  # fmt: skip
        return load_config(CONFIGS / file, [*told, *self.overrides, *overrides])

    def _train(self, config: Run) -> Cell:
        from raygseg.pipelines.train import train

        result = train(config, within(self.progress, config.name))
        return {
            "bundle": result.bundle_path,
            "nimg": result.nimg,
            "fingerprint": fingerprint(config),
            "metrics": dict(result.metrics),
        }
