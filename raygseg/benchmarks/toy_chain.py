"""What ten labels are worth on the toy set: the chain's student beside the same U-Net without it.

Arms, at matched steps: (student) on pairs from a head that saw ten samples labelled by the oracle;
(direct) on those ten labelled samples; (full) on 2,000 true labels. All are scored on the same 200
unseen pictures. Every cell is stored, so the same call goes on where it stopped.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from raygseg.config.loader import load_config
from raygseg.config.schema import EvaluateConfig, GenerateConfig
from raygseg.pipelines.evaluate import evaluate
from raygseg.pipelines.generate import generate
from raygseg.pipelines.label_samples import label_samples
from raygseg.pipelines.train import train

CONFIGS = Path("configs/toy")
ARMS = ("student", "direct", "full")


def run(
    seeds: Sequence[int] = (0, 1, 2),
    output: str = "runs/toy-chain",
    generator: str = "configs/toy/generator",
    oracle: str = "runs/toy-oracle/bundle",
    num_pairs: int = 4000,
    total_kimg: float = 32,
    shots: int = 10,
) -> dict[str, Any]:
    """Foreground mIoU of each arm and seed.

    Args:
        generator, oracle: bundles; the oracle labels the samples in place of a person.
        total_kimg: length of every U-Net's training.
    """
    settings = {"num_pairs": num_pairs, "total_kimg": total_kimg, "shots": shots}
    scores: dict[str, list[float]] = {arm: [] for arm in ARMS}
    parts: dict[str, dict[str, float]] = {}
    for seed in seeds:
        cell = _Cell(Path(output) / f"seed-{seed}", seed)
        for arm in ARMS:
            result = cell.kept(arm, functools.partial(_arm, cell, arm, generator, oracle, settings))
            scores[arm].append(result["miou_foreground"])
            parts[f"{arm}-{seed}"] = result["iou"]
    summary = {arm: {"mean": mean(v), "sd": stdev(v) if len(v) > 1 else 0.0, "seeds": v} for arm, v in scores.items()}
    return {"name": "toy_chain", "miou_foreground": summary, "iou": parts, "settings": settings}


class _Cell:
    """One seed's folder; `kept` stores each arm's result beside what made it."""

    def __init__(self, folder: Path, seed: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.seed = folder, seed

    def kept(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        file = self.folder / f"{name}.json"
        if not file.is_file():
            file.write_text(json.dumps(work(), indent=1))
        result: dict[str, Any] = json.loads(file.read_text())
        return result

    def runtime(self, name: str) -> list[str]:
        return [
            f"seed={self.seed}",
            "runtime.in_process=true",
            f"runtime.output={self.folder / name}",
            f"runtime.tracking_uri=sqlite:///{self.folder / 'mlflow.db'}",
        ]


def _arm(cell: _Cell, arm: str, generator: str, oracle: str, settings: dict[str, Any]) -> dict[str, Any]:
    samples = cell.folder / "samples"
    if not (samples / "labels.json").is_file():
        label_samples(generator, oracle, samples, settings["shots"], cell.seed)
    overrides = [*cell.runtime(arm), f"schedule.total_kimg={settings['total_kimg']}"]
    if arm == "student":
        file, data = "segmenter.yaml", f"pairs={_pairs(cell, generator, samples, settings['num_pairs'])}"
    elif arm == "direct":
        file, data = "segmenter-direct.yaml", f"labelled={samples}"
    else:
        file, data = "segmenter-full.yaml", "pairs="
    trained = train(load_config(CONFIGS / file, [*overrides, data]))
    config = load_config(
        CONFIGS / "evaluate.yaml",
        [
            f"model={trained.bundle_path}",
            f"output={cell.folder / arm / 'evaluation'}",
            f"runtime.tracking_uri=sqlite:///{cell.folder / 'mlflow.db'}",
        ],
    )
    assert isinstance(config, EvaluateConfig)
    result = evaluate(config)
    return {"miou_foreground": result.metrics["miou_foreground"], "iou": result.iou, "metrics": result.metrics}


def _pairs(cell: _Cell, generator: str, samples: Path, count: int) -> Path:
    """Head from the samples, then pairs; both go on where they stopped."""
    head = train(
        load_config(CONFIGS / "head.yaml", [*cell.runtime("head"), f"generator={generator}", f"samples={samples}"])
    )
    output = cell.folder / "pairs"
    overrides = [f"sampler={head.bundle_path}", f"num_pairs={count}", f"output={output}"]
    config = load_config(CONFIGS / "generate.yaml", overrides)
    assert isinstance(config, GenerateConfig)
    generate(config)
    return output
