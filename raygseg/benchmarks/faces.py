"""The chain on real faces: ten labelled photos and a pretrained generator against the ten photos alone.

Cells, each stored and not run again: project ten frontal photos into the generator; train the head on
them; generate pairs; train the student on the pairs, and the same U-Net for as many steps on the ten
photos; score both on validation, frontal test and multipose photos. Nothing is chosen by test figures.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from raygseg.config.loader import load_config
from raygseg.config.schema import EvaluateConfig, GenerateConfig, HeadConfig
from raygseg.config.sections import Run
from raygseg.errors import ConfigError, MissingEnvironmentError

ARMS = {"student": "segmenter.yaml", "direct": "segmenter-direct.yaml"}
SETS = {"val": "faces/frontal?split=val", "frontal": "faces/frontal?split=test", "multipose": "faces/multipose"}
STAGES = ("project", "head", "generate", *ARMS, "evaluate")
Cell = dict[str, Any]


def run(
    output: str = "runs/faces",
    data: str = "",
    configs: str = "configs/faces",
    seed: int = 0,
    shots: int = 10,
    num_pairs: int = 500,
    total_kimg: float = 2.4,
    projection_steps: int = 45,
    resolution: int = 128,
    until: str = "evaluate",
) -> dict[str, Any]:
    """mIoU and per-part IoU of both arms; writes table.md beside the cells.

    Args:
        output: folder of the cells; the same call goes on where it stopped.
        data: folder of the data sets; empty: the environment variable RAYGSEG_DATA.
        configs: folder of head.yaml, generate.yaml, segmenter.yaml, segmenter-direct.yaml, evaluate.yaml.
        seed: of the draw of photos and of every training.
        shots: labelled photos.
        total_kimg: length of both U-Nets' trainings.
        until: the last stage to run: project, head, generate, student, direct or evaluate.
    """
    if until not in STAGES:
        raise ConfigError(f"until: there is no stage '{until}'", f"use one of {list(STAGES)}")
    place = data_folder(data)
    trial = Trial(Path(output), place, Path(configs), seed, shots, resolution)
    work: dict[str, Callable[[], Cell]] = {
        "project": lambda: trial.project(projection_steps),
        "head": trial.head,
        "generate": lambda: trial.generate(num_pairs),
        **{arm: partial(trial.train_arm, arm, total_kimg) for arm in ARMS},
        "evaluate": trial.evaluate,
    }
    cells = {stage: trial.kept(stage, work[stage]) for stage in STAGES[: STAGES.index(until) + 1]}
    if until == "evaluate":
        (trial.output / "table.md").write_text(markdown(cells["evaluate"]["scores"]))
    return cells


def data_folder(data: str) -> Path:
    """The folder of the data sets. MissingEnvironmentError where it holds no faces."""
    place = Path(data or os.environ.get("RAYGSEG_DATA", ""))
    if not (data or "RAYGSEG_DATA" in os.environ) or not (place / "faces").is_dir():
        raise MissingEnvironmentError(
            f"the face photos are not at '{place}'",
            "set RAYGSEG_DATA or data= to the folder that holds faces/ and weights/",
        )
    return place.absolute()


@dataclass(frozen=True)
class Trial:
    """One draw of photos: where its cells lie and how each is made."""

    output: Path
    data: Path
    configs: Path
    seed: int
    shots: int
    resolution: int

    def kept(self, name: str, work: Callable[[], Cell]) -> Cell:
        """The stored cell, or what `work` gives, stored with its time."""
        file = self.output / "cells" / f"{name}.json"
        if not file.is_file():
            wall, cpu = time.perf_counter(), time.process_time()
            cell = work()
            cell |= {"wall_s": round(time.perf_counter() - wall, 1), "cpu_s": round(time.process_time() - cpu, 1)}
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(cell, indent=1) + "\n")
        stored: Cell = json.loads(file.read_text())
        return stored

    def load(self, file: str, *overrides: str) -> Run:
        return load_config(self.configs / file, overrides)

    def where(self, name: str) -> tuple[str, str, str]:
        """Overrides of a training run in this trial."""
        store = f"runtime.tracking_uri=sqlite:///{(self.output / 'mlflow.db').absolute()}"
        return f"seed={self.seed}", f"runtime.output={self.output / name}", store

    def project(self, steps: int) -> Cell:
        """Align and project the photos; writes the framed generator's bundle and the samples folder."""
        from raygseg.bundle import write_bundle
        from raygseg.data.sources import open_labelled
        from raygseg.data.splits import nested_subset
        from raygseg.methods.stylegan2.mobile import load_mobile_generator
        from raygseg.nn.backbones.vgg16 import load_vgg16
        from raygseg.nn.projection import PerceptualDistance, ProjectionPlan
        from raygseg.pipelines.project import align_photos, project_photos

        data = open_labelled(f"{self.data}/faces/frontal?split=train", None)
        chosen = nested_subset(data.names, self.shots, self.seed)
        photos = align_photos(data, chosen, self.resolution)
        weights = self.data / "weights"
        generator = load_mobile_generator(
            weights / "face_generator_mobile.safetensors", self.resolution, photos.framing, "bf16"
        )
        distance = PerceptualDistance(load_vgg16(weights / "vgg16_features.safetensors", precision="bf16"), "VGG16")
        found = project_photos(photos, generator, distance, self.output / "samples", ProjectionPlan(steps))
        write_bundle(self.output / "generator", generator.to_bundle())
        self.draw_projections()
        return {
            "photos": list(photos.names),
            "features": distance.name,
            "distances": [round(float(d), 4) for d in found.distances],
            "squared_errors": [round(float(e), 5) for e in found.squared_errors],
        }

    def draw_projections(self) -> None:
        """projections.png: each photo, the generator's picture of it, and the aligned labels on that."""
        from PIL import Image

        from raygseg.methods.repurposegan.samples import read_samples
        from raygseg.viz.grids import picture_grid
        from raygseg.viz.overlays import overlay

        samples = read_samples(str(self.output / "samples"))
        rows = [
            [np.asarray(Image.open(self.output / "samples" / part / f"{seed}.png")) for seed in samples.seeds]
            for part in ("photos", "images")
        ]
        rows.append([overlay(image, mask, samples.labels) for image, mask in zip(rows[1], samples.masks, strict=True)])
        sheet = picture_grid([tile for row in rows for tile in row], columns=len(samples))
        Image.fromarray(sheet).save(self.output / "projections.png")

    def draw_pairs(self, pairs: str, count: int = 24) -> None:
        """pairs.png: the first pairs."""
        from PIL import Image

        from raygseg.data.pair_set import PairSet
        from raygseg.data.pairs import stored_images, top_two
        from raygseg.viz.overlays import pair_sheet

        found = PairSet.open(pairs)
        table = found.read(found.shards[0]).slice(0, count)
        pictures = stored_images(table).transpose(0, 2, 3, 1)
        sheet = pair_sheet(list(pictures), list(top_two(table)[0][:, 0]), found.labels)
        Image.fromarray(sheet).save(self.output / "pairs.png")

    def head(self) -> Cell:
        from raygseg.pipelines.train import train

        sources = (f"generator={self.output / 'generator'}", f"samples={self.output / 'samples'}")
        config = self.load("head.yaml", *self.where("head"), *sources)
        assert isinstance(config, HeadConfig)
        result = train(config)
        return {"bundle": result.bundle_path, "metrics": dict(result.metrics)}

    def generate(self, num_pairs: int) -> Cell:
        from raygseg.pipelines.generate import generate

        sources = (f"sampler={self.output / 'head' / 'bundle'}", f"output={self.output / 'pairs'}")
        config = self.load("generate.yaml", f"num_pairs={num_pairs}", *sources, self.where("")[2])
        assert isinstance(config, GenerateConfig)
        result = generate(config)
        self.draw_pairs(config.output)
        return {"pairs": result.num_pairs, "class_shares": result.class_shares, "pairs_per_s": result.pairs_per_second}

    def train_arm(self, arm: str, total_kimg: float) -> Cell:
        from raygseg.pipelines.train import train

        if arm == "student":
            source = [f"pairs={self.output / 'pairs'}"]
        else:
            source = [f"labelled={self.data}/faces/frontal?split=train", f"labelled_limit={self.shots}"]
        length = (f"schedule.total_kimg={total_kimg}", f"resolution={self.resolution}")
        result = train(self.load(ARMS[arm], *self.where(arm), *source, *length))
        return {"bundle": result.bundle_path, "nimg": result.nimg, "metrics": dict(result.metrics)}

    def evaluate(self) -> Cell:
        """Scores of each arm on each set; each is a cell of its own."""
        scores = {
            name: {arm: self.kept(f"{arm}-{name}", partial(self.score, arm, name)) for arm in ARMS} for name in SETS
        }
        return {"scores": scores}

    def score(self, arm: str, name: str) -> Cell:
        """One arm on one set; metrics and overlays lie in the arm's folder."""
        from raygseg.pipelines.evaluate import evaluate

        output = self.output / arm / f"evaluation-{name}"
        sources = (f"model={self.output / arm / 'bundle'}", f"data={self.data}/{SETS[name]}", f"output={output}")
        config = self.load("evaluate.yaml", *sources, self.where(name)[-1])
        assert isinstance(config, EvaluateConfig)
        result = evaluate(config)
        return {
            "miou": result.metrics["miou"],
            "miou_foreground": result.metrics["miou_foreground"],
            "iou": result.iou,
            "never_predicted": result.never_predicted,
            "pictures": result.pictures,
        }


def markdown(scores: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """One row a set and arm: mIoU with and without background, then the parts; per cent."""
    parts = list(next(iter(next(iter(scores.values())).values()))["iou"])
    lines = [
        "| photos | arm | mIoU incl. bg | mIoU parts | " + " | ".join(parts) + " | never predicted |",
        "|---" * (5 + len(parts)) + "|",
    ]
    for name, arms in scores.items():
        for arm, score in arms.items():
            figures = [score["miou"], score["miou_foreground"], *(score["iou"][part] for part in parts)]
            cells = " | ".join(f"{100 * value:.1f}" for value in figures)
            missing = ", ".join(score["never_predicted"]) or "none"
            lines.append(f"| {name} ({score['pictures']}) | {arm} | {cells} | {missing} |")
    return "\n".join(lines) + "\n"
