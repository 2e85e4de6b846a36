"""What a student gains from its targets, its weights, its pairs and its encoder: one change at a time, on validation.

The heads learn from one draw of ten labelled faces (`faces_ladder` left their projections in OUT, or they are made
here); every rung is a student on their pairs for as many steps, differing from the first in one thing. Only
validation photos are scored: the rungs are for choosing. Every cell is kept: the same command goes on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raygseg.benchmarks.faces import data_folder
from raygseg.benchmarks.faces_ladder import Ladder
from raygseg.config.loader import load_config
from raygseg.config.schema import CompareConfig, EvaluateConfig, GenerateConfig, HeadConfig
from raygseg.pipelines.compare_arms import Place, head, student_on
from raygseg.pipelines.compare_trial import Trial
from raygseg.pipelines.evaluate import evaluate
from raygseg.pipelines.shared_pairs import Progress, write_shared
from raygseg.pipelines.train import train

Changes = Mapping[str, Any]
MEMBERS = 5
# Pairs by name: what differs in the head, and the truncation they are drawn under.
PAIRS: dict[str, tuple[Changes, float]] = {
    "plain": ({}, 0.8),
    "ensemble": ({"members": MEMBERS}, 0.8),
    "fresh noise": ({"resample_noise": True}, 0.8),
    "psi 0.6": ({}, 0.6),
    "psi 1": ({}, 1.0),
}
PRETRAINED = {"backbone": {"name": "efficientnet-lite0", "lr_fraction": 0.1}}
# Rungs by name: pairs, and what differs in the student.
RUNGS: dict[str, tuple[str, Changes]] = {
    "hard targets": ("plain", {}),
    "soft targets": ("plain", {"target": "soft"}),
    "sharpened targets": ("plain", {"target": "sharpened"}),
    "class balance 0": ("plain", {"class_balance": 0.0}),
    "class balance 1": ("plain", {"class_balance": 1.0}),
    "ensemble, cut 0": ("ensemble", {}),
    "ensemble, cut 5 %": ("ensemble", {"uncertainty_cut": 0.05}),
    "ensemble, cut 10 %": ("ensemble", {"uncertainty_cut": 0.1}),
    "ensemble, cut 20 %": ("ensemble", {"uncertainty_cut": 0.2}),
    "fresh noise in the head": ("fresh noise", {}),
    "psi 0.6": ("psi 0.6", {}),
    "psi 1": ("psi 1", {}),
    "a quarter real": ("plain", {"labelled_share": 0.25}),
    "pretrained encoder": ("plain", {"network": PRETRAINED}),
    "pretrained encoder, a quarter real": ("plain", {"network": PRETRAINED, "labelled_share": 0.25}),
}
LOSS_KEYS = ("target", "class_balance")


def run(
    output: str = "runs/faces-ladder",
    data: str = "",
    shots: int = 10,
    total_kimg: float = 2.4,
    num_pairs: int = 500,
    projection_steps: int = 30,
    rungs: Sequence[str] = tuple(RUNGS),
    overrides: Sequence[str] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Validation mIoU of every rung; writes OUT/student/ladder.json and table.md.

    Args:
        output: the folder of `faces_ladder`, which lends generator and projections.
        data: folder of the data sets; empty: the environment variable RAYGSEG_DATA.
        shots: labelled photos of the one draw.
        total_kimg: length of every training. num_pairs: of every pair set.
        rungs: which; see RUNGS.
        overrides: of the comparison's configuration, `key=value`.
    """
    ladder = Ladder(Path(output).absolute(), data_folder(data), 1)
    ladder.frame()
    settings = (f"schedule.total_kimg={total_kimg}", f"num_pairs={num_pairs}", f"projection_steps={projection_steps}")
    place = ladder.output / "student"
    config = ladder.config(shots, ("student",), (*settings, *overrides, f"runtime.output={place}"))
    study = Study(config, place, Trial(config, str(place)).places()[0])
    study.draw_pairs(sorted({RUNGS[name][0] for name in rungs}), progress)
    scores = {}
    for number, name in enumerate(rungs):
        if progress is not None:
            progress("rungs", number, len(rungs), {"now": name})
        scores[name] = study.rung(name)
    (place / "ladder.json").write_text(json.dumps(scores, indent=1) + "\n")
    (place / "table.md").write_text(markdown(scores))
    return {"output": str(place), "rungs": scores}


@dataclass(frozen=True)
class Study:
    """One draw: its comparison's configuration, where results go, and what may be learnt from."""

    config: CompareConfig
    output: Path
    draw: Place

    def draw_pairs(self, names: Sequence[str], progress: Progress | None = None) -> None:
        """The pair sets, rendered once for those under the same truncation."""
        for psi in sorted({PAIRS[name][1] for name in names}):
            write_shared([self._pairs_run(name) for name in names if PAIRS[name][1] == psi], progress)

    def _pairs_run(self, name: str) -> GenerateConfig:
        return GenerateConfig(
            name=f"pairs-{_slug(name)}",
            sampler=train(self._head(name)).bundle_path,
            num_pairs=self.config.num_pairs,
            output=str(self.output / "pairs" / _slug(name)),
            rows_per_shard=20,
            batch_size=10,
            runtime=self.config.runtime,
        )

    def _head(self, name: str) -> HeadConfig:
        changes, psi = PAIRS[name]
        plain = head(self.config.model_copy(update={"truncation_psi": psi}), self.draw)
        network = plain.head.model_copy(update={k: v for k, v in changes.items() if k == "members"})
        training = plain.training.model_copy(update={k: v for k, v in changes.items() if k == "resample_noise"})
        runtime = plain.runtime.model_copy(update={"output": str(self.output / "heads" / _slug(name))})
        return plain.model_copy(update={"head": network, "training": training, "runtime": runtime})

    def rung(self, name: str) -> dict[str, Any]:
        """Train and score one student, unless it is on record."""
        record = self.output / "cells" / f"{_slug(name)}.json"
        if not record.is_file():
            cell = self._scored(name)
            record.parent.mkdir(parents=True, exist_ok=True)
            record.write_text(json.dumps(cell, indent=1) + "\n")
        stored: dict[str, Any] = json.loads(record.read_text())
        return stored

    def _scored(self, name: str) -> dict[str, Any]:
        pairs, changes = RUNGS[name]
        loss = self.config.loss.model_copy(update={k: v for k, v in changes.items() if k in LOSS_KEYS})
        network = type(self.config.network).model_validate(
            self.config.network.model_dump() | dict(changes.get("network", {}))
        )
        rest = {k: v for k, v in changes.items() if k not in (*LOSS_KEYS, "network")}
        if "labelled_share" in rest:
            rest["labelled"] = self.draw.source
        config = self.config.model_copy(update={"loss": loss, "network": network})
        place = self.draw._replace(folder=str(self.output / "students" / _slug(name)))
        trained = train(student_on(config, place, str(self.output / "pairs" / _slug(pairs)), **rest))
        scoring = load_config(
            "configs/faces/evaluate.yaml",
            [
                f"model={trained.bundle_path}",
                f"data={self.config.validation}",
                f"output={place.folder}/validation",
                f"runtime.tracking_uri={self.config.runtime.tracking_uri}",
            ],
        )
        assert isinstance(scoring, EvaluateConfig)
        result = evaluate(scoring)
        return {
            "parts": result.metrics["miou_foreground"],
            "with background": result.metrics["miou"],
            "iou": result.iou,
            "never predicted": result.never_predicted,
        }


def markdown(scores: Mapping[str, Mapping[str, Any]]) -> str:
    """One row a rung, per cent."""
    parts = list(next(iter(scores.values()))["iou"])
    lines = ["| student | parts | with bg | " + " | ".join(parts) + " |", "|---" * (3 + len(parts)) + "|"]
    for name, score in scores.items():
        figures = [score["parts"], score["with background"], *(score["iou"][part] for part in parts)]
        lines.append(f"| {name} | " + " | ".join(f"{100 * value:.1f}" for value in figures) + " |")
    return "\n".join(lines) + "\n"


def _slug(name: str) -> str:
    return name.replace(" %", "").replace(",", "").replace(" ", "-")
