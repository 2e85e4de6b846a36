"""The whole chain on the toy set, from unlabelled pictures and ten labels to a registered segmenter."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raygseg.config.loader import load_config
from raygseg.config.schema import EvaluateConfig, GenerateConfig, Run
from raygseg.errors import MissingEnvironmentError
from raygseg.pipelines.evaluate import EvaluateResult, evaluate
from raygseg.pipelines.generate import generate
from raygseg.pipelines.label_samples import label_samples
from raygseg.pipelines.registry import pull
from raygseg.pipelines.segment import segment
from raygseg.pipelines.train import TrainResult, train

Progress = Callable[..., None]
CONFIGS = Path("configs/toy")
PICTURES = 12  # toy photos of another size, standing in for someone's own
SAMPLES = 10


@dataclass(frozen=True)
class QuickstartResult:
    """What the chain made: one row a stage (name, seconds, what came out), and where to look."""

    stages: list[tuple[str, str, str]]
    student_miou_foreground: float
    direct_miou_foreground: float
    model: str
    report: str
    next: str


@dataclass
class _Chain:
    """Runs stages, keeps their times, and passes progress on."""

    output: Path
    tracking_uri: str
    progress: Progress | None
    stages: list[tuple[str, str, str]] = field(default_factory=list)

    def stage(self, name: str, work: Callable[[], Any], tell: Callable[[Any], str]) -> Any:
        began = time.perf_counter()
        result = work()
        self.stages.append((name, f"{time.perf_counter() - began:.0f} s", tell(result)))
        return result

    def config(self, file: str, *overrides: str) -> Run:
        """A toy configuration with this chain's folders."""
        document = load_config(CONFIGS / file)
        place = f"runtime.output={self.output / document.name}"
        runtime = [place, f"runtime.tracking_uri={self.tracking_uri}"] if hasattr(document, "runtime") else []
        return load_config(CONFIGS / file, [*runtime, *overrides])

    def train(self, file: str, *overrides: str) -> TrainResult:
        return train(self.config(file, *overrides), self.progress)


def quickstart(
    output: str = "runs/quickstart", from_scratch: bool = False, progress: Progress | None = None
) -> QuickstartResult:
    """Run the chain; the same call again goes on where it stopped.

    Args:
        output: folder of everything it makes, its own MLflow store included.
        from_scratch: also train the generator and the labeller that stands in for a person (hours),
            instead of starting from the small generator and the ten labels in `configs/toy`.
        progress: called as (stage, done, total, facts).
    """
    if not (CONFIGS / "gan.yaml").is_file():
        raise MissingEnvironmentError(f"{CONFIGS} is not here", "run it in a checkout of raygseg")
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    chain = _Chain(folder, f"sqlite:///{folder / 'mlflow.db'}", progress)
    generator, samples = _pretrain(chain, from_scratch)
    head = chain.stage(
        "part labels from ten samples",
        lambda: chain.train("head.yaml", f"generator={generator}", f"samples={samples}"),
        lambda r: f"sampler {r.bundle_path}",
    )
    pairs = chain.stage("pairs", lambda: _generate(chain, head.bundle_path), lambda r: f"{r.rows} pairs in {r.output}")
    student = chain.stage(
        "student", lambda: chain.train("segmenter.yaml", f"pairs={pairs.output}", *_short(chain)), _registered
    )
    direct = chain.stage(
        "baseline: U-Net on the ten labels",
        lambda: chain.train("segmenter-direct.yaml", f"labelled={samples}", *_short(chain)),
        _registered,
    )
    scores = chain.stage("evaluation", lambda: _evaluate(chain, student, "toy-segmenter"), _scored)
    baseline = chain.stage("evaluation of the baseline", lambda: _evaluate(chain, direct, ""), _scored)
    model = "models:/toy-segmenter@champion"
    pulled = chain.stage(
        "pull from the registry",
        lambda: pull(model, folder / "pulled", chain.tracking_uri),
        lambda path: f"verified, in {path}",
    )
    photos = _photos(folder / "photos")
    segmented = chain.stage(
        "segment pictures",
        lambda: segment(str(pulled), str(photos), str(folder / "masks"), progress=progress),
        lambda r: f"masks and overlays in {folder / 'masks'}",
    )
    report = _report(chain, scores, baseline, pairs.output, segmented)
    return QuickstartResult(
        stages=chain.stages,
        student_miou_foreground=scores.metrics["miou_foreground"],
        direct_miou_foreground=baseline.metrics["miou_foreground"],
        model=f"{model} in {chain.tracking_uri}",
        report=str(report),
        next=f"raygseg segment {pulled} YOUR_PICTURES/ masks/",
    )


# --- stages --------------------------------------------------------------------------------------


def _pretrain(chain: _Chain, from_scratch: bool) -> tuple[Path | str, Path]:
    """A short pre-training run with two Ray workers; with `from_scratch` the whole of it, and labels."""
    if not from_scratch:
        chain.stage(
            "pre-training, two Ray workers (a taste)",
            lambda: chain.train("gan.yaml", "runtime.workers=2", "schedule.total_kimg=1", "runtime.checkpoint_kimg=1"),
            lambda r: f"{r.metrics.get('s_per_kimg', float('nan')):.0f} s a kimg; checkpoint in {r.run_dir}",
        )
        return CONFIGS / "generator", CONFIGS / "samples"
    gan = chain.stage(
        "pre-training, two Ray workers",
        lambda: chain.train("gan.yaml", "runtime.workers=2"),
        lambda r: f"generator {r.bundle_path}",
    )
    oracle = chain.stage("labeller", lambda: chain.train("oracle.yaml"), _registered)
    samples = chain.output / "samples"
    chain.stage(
        "ten samples, labelled",
        lambda: label_samples(gan.bundle_path, oracle.bundle_path, samples),
        lambda count: f"{count} masks in {samples}",
    )
    return gan.bundle_path, samples


def _short(chain: _Chain) -> Sequence[str]:
    return ("schedule.total_kimg=24",)


def _generate(chain: _Chain, sampler: str | Path) -> Any:
    run = chain.config("generate.yaml", f"sampler={sampler}", f"output={chain.output / 'pairs'}")
    assert isinstance(run, GenerateConfig)
    return generate(run, chain.progress)


def _evaluate(chain: _Chain, trained: TrainResult, promote: str) -> EvaluateResult:
    run = chain.config(
        "evaluate.yaml",
        f"model={trained.bundle_path}",
        f"promote={promote}",
        f"output={chain.output / 'evaluation' / Path(trained.run_dir).name}",
    )
    assert isinstance(run, EvaluateConfig)
    return evaluate(run, progress=chain.progress)


def _photos(folder: Path) -> Path:
    """Toy pictures of odd sizes as JPEG files."""
    from raygseg.data.toy import render_toy

    folder.mkdir(exist_ok=True)
    for index in range(PICTURES):
        picture, _ = render_toy(123, index, 96 + 16 * (index % 4))
        Image.fromarray(picture).save(folder / f"toy-{index:02d}.jpg", quality=92)
    return folder


def _registered(result: TrainResult) -> str:
    return f"registered, version {result.model_version}" if result.model_version else f"{result.bundle_path}"


def _scored(result: EvaluateResult) -> str:
    text = f"foreground mIoU {result.metrics['miou_foreground']:.3f} on {result.pictures} unseen pictures"
    return f"{text}; {result.promotion}" if result.promotion else text


# --- the report ----------------------------------------------------------------------------------


def _report(chain: _Chain, scores: EvaluateResult, baseline: EvaluateResult, pairs: str, segmented: Any) -> Path:
    from raygseg.viz.report import Commands, Figure, KeyFigures, Pictures, Table, Title, write_report

    student, direct = scores.metrics["miou_foreground"], baseline.metrics["miou_foreground"]
    parts = [[name, f"{value:.3f}", f"{baseline.iou[name]:.3f}"] for name, value in scores.iou.items()]
    plates = _plates(scores, pairs)
    return write_report(
        chain.output / "report.html",
        [
            Title("Quickstart", "From unlabelled toy pictures and ten labels to a registered part segmenter."),
            KeyFigures(
                [
                    Figure("student", f"{student:.3f}", "foreground mIoU, trained on generated pairs"),
                    Figure("baseline", f"{direct:.3f}", "the same U-Net and steps on the ten labels"),
                ]
            ),
            Table("Stages", ["stage", "time", "result"], [list(row) for row in chain.stages]),
            Table("Parts", ["part", "student IoU", "baseline IoU"], parts),
            *([Pictures("Pictures", plates)] if plates else []),
            Commands(
                "Try next", [("segment your own pictures", f"raygseg segment {chain.output}/pulled PICTURES/ masks/")]
            ),
        ],
    )


def _plates(scores: EvaluateResult, pairs: str) -> list[Any]:
    """The pairs' contact sheet, best and worst overlays, and the segmented pictures."""
    from raygseg.data.pair_set import PairSet
    from raygseg.data.pairs import decode_pairs
    from raygseg.viz.grids import picture_grid
    from raygseg.viz.report import Plate

    plates = [Plate(_read(scores.files[name]), f"{name}: picture, answer, truth, errors") for name in ("best", "worst")]
    chosen = PairSet.open(pairs)
    table = chosen.read(chosen.shards[0]).slice(0, 16)
    stored = decode_pairs(table, chosen.labels.num_classes)
    drawn: list[NDArray[np.uint8]] = []
    for image, chances in zip(stored.images, stored.probabilities, strict=True):
        drawn += [np.asarray(image).transpose(1, 2, 0), chosen.labels.colourise(np.asarray(chances.argmax(0)))]
    return [Plate(picture_grid(drawn, 8), "generated pictures and their masks"), *plates]


def _read(path: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path).convert("RGB"))
