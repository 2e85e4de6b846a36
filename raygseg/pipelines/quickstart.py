"""The whole chain on the toy set, from unlabelled pictures and ten labels to a registered segmenter."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from raygseg.config.loader import load_config
from raygseg.config.schema import EvaluateConfig, GenerateConfig
from raygseg.config.sections import Run
from raygseg.errors import MissingEnvironmentError
from raygseg.pipelines.evaluate import EvaluateResult, evaluate
from raygseg.pipelines.generate import GenerateResult, generate
from raygseg.pipelines.label_samples import label_samples
from raygseg.pipelines.quickstart_report import write_quickstart_report
from raygseg.pipelines.registry import pull
from raygseg.pipelines.segment import segment
from raygseg.pipelines.train import TrainResult, train

Progress = Callable[..., None]
CONFIGS = Path("configs/toy")
PICTURES = 12  # toy photos of other sizes, standing in for someone's own
MODEL = "toy-segmenter"


@dataclass(frozen=True)
class Sizes:
    """How much of everything; the defaults fit ten minutes on two cores, installation included."""

    taste_kimg: float = 1.0
    num_pairs: int = 1500
    student_kimg: float = 12.0
    head_steps: int = 400


@dataclass(frozen=True)
class QuickstartResult:
    """What the chain made: a line a stage, the two scores, and where to look."""

    stages: dict[str, str]
    student_miou_foreground: float
    direct_miou_foreground: float
    model: str
    report: str
    next: str


@dataclass
class _Chain:
    """Runs stages, keeps their times, and passes progress on."""

    output: Path
    sizes: Sizes
    progress: Progress | None
    stages: dict[str, str] = field(default_factory=dict)
    current: str = ""

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.output.absolute() / 'mlflow.db'}"

    def stage(self, name: str, work: Callable[[], Any], tell: Callable[[Any], str]) -> Any:
        began, self.current = time.perf_counter(), name
        result = work()
        self.stages[name] = f"{time.perf_counter() - began:.0f} s: {tell(result)}"
        return result

    def report(self, stage: str, done: float, total: float, facts: Mapping[str, Any] | None = None) -> None:
        """Progress under the name of this chain's stage: several of them train."""
        if self.progress is not None:
            self.progress(self.current, done, total, facts)

    def config(self, file: str, *overrides: str) -> Run:
        """A toy configuration with this chain's folders."""
        name = load_config(CONFIGS / file).name
        places = [f"runtime.output={self.output / name}", f"runtime.tracking_uri={self.tracking_uri}"]
        return load_config(CONFIGS / file, [*places, *overrides])

    def train(self, file: str, *overrides: str) -> TrainResult:
        return train(self.config(file, *overrides), self.report)


def quickstart(
    output: str = "runs/quickstart",
    from_scratch: bool = False,
    progress: Progress | None = None,
    sizes: Sizes | None = None,
) -> QuickstartResult:
    """Run the chain; the same call again goes on where it stopped.

    Args:
        output: folder of everything it makes, its own MLflow store included.
        from_scratch: also train the generator and the labeller that stands in for a person (hours),
            instead of starting from the small generator and the ten labels in `configs/toy`.
        progress: called as (stage, done, total, facts).
        sizes: how much of everything.
    """
    if not (CONFIGS / "gan.yaml").is_file():
        raise MissingEnvironmentError(f"{CONFIGS} is not here", "run it in a checkout of raygseg")
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    chain = _Chain(folder, sizes or Sizes(), progress)
    generator, samples = _pretrain(chain, from_scratch)
    pairs, student, direct = _students(chain, generator, samples)
    scores = chain.stage("score the student", lambda: _evaluate(chain, student, MODEL), _scored)
    baseline = chain.stage("score the baseline", lambda: _evaluate(chain, direct, ""), _scored)
    pulled = _use(chain)
    return QuickstartResult(
        stages=chain.stages,
        student_miou_foreground=scores.metrics["miou_foreground"],
        direct_miou_foreground=baseline.metrics["miou_foreground"],
        model=f"models:/{MODEL}@champion in {chain.tracking_uri}",
        report=str(write_quickstart_report(folder, chain.stages, scores, baseline, pairs)),
        next=f"raygseg segment {pulled} YOUR_PICTURES/ --output masks/",
    )


# --- stages --------------------------------------------------------------------------------------


def _pretrain(chain: _Chain, from_scratch: bool) -> tuple[Path | str, Path]:
    """A short pre-training run with two Ray workers; with `from_scratch` the whole of it, and labels."""
    if not from_scratch:
        brief = (f"schedule.total_kimg={chain.sizes.taste_kimg}", "runtime.checkpoint_kimg=1", "runtime.tick_kimg=0.25")
        chain.stage(
            "pre-train for a minute, two Ray workers",
            lambda: chain.train("gan.yaml", "runtime.workers=2", *brief),
            lambda r: f"{r.metrics.get('s_per_kimg', float('nan')):.0f} s a kimg, {r.run_dir}",
        )
        return CONFIGS / "generator", CONFIGS / "samples"
    gan = chain.stage(
        "pre-train, two Ray workers", lambda: chain.train("gan.yaml", "runtime.workers=2"), lambda r: str(r.bundle_path)
    )
    oracle = chain.stage("train the labeller", lambda: chain.train("oracle.yaml"), _registered)
    samples = chain.output / "samples"
    chain.stage(
        "label ten samples",
        lambda: label_samples(gan.bundle_path, oracle.bundle_path, samples),
        lambda count: f"{count} masks in {samples}",
    )
    return gan.bundle_path, samples


def _students(chain: _Chain, generator: Path | str, samples: Path) -> tuple[str, TrainResult, TrainResult]:
    """Head, pairs, student; and the baseline: the same U-Net and steps on the labelled samples."""
    sizes = chain.sizes
    head = chain.stage(
        "learn parts from ten samples",
        lambda: chain.train(
            "head.yaml", f"generator={generator}", f"samples={samples}", f"training.steps={sizes.head_steps}"
        ),
        lambda r: str(r.bundle_path),
    )
    pairs = chain.stage(
        "generate pairs",
        lambda: _generate(chain, head.bundle_path),
        lambda r: f"{r.num_pairs} in {r.output}, {r.pairs_per_second:.0f} a second",
    )
    length = f"schedule.total_kimg={sizes.student_kimg}"
    student = chain.stage(
        "train the student", lambda: chain.train("segmenter.yaml", f"pairs={pairs.output}", length), _registered
    )
    direct = chain.stage(
        "train the baseline",
        lambda: chain.train("segmenter-direct.yaml", f"labelled={samples}", length, "runtime.in_process=true"),
        _registered,
    )
    return pairs.output, student, direct


def _use(chain: _Chain) -> Path:
    """Pull the champion and segment a folder of pictures with it."""
    pulled: Path = chain.stage(
        "pull the champion",
        lambda: pull(f"models:/{MODEL}@champion", chain.output / "pulled", chain.tracking_uri),
        lambda path: f"verified, in {path}",
    )
    photos = _photos(chain.output / "photos")
    chain.stage(
        "segment pictures",
        lambda: segment(str(pulled), str(photos), str(chain.output / "segmented"), progress=chain.report),
        lambda r: f"{r.pictures} pictures, {r.table}",
    )
    return pulled


def _generate(chain: _Chain, sampler: str | Path) -> GenerateResult:
    amount = f"num_pairs={chain.sizes.num_pairs}"
    run = chain.config("generate.yaml", f"sampler={sampler}", f"output={chain.output / 'pairs'}", amount)
    assert isinstance(run, GenerateConfig)
    return generate(run, chain.report)


def _evaluate(chain: _Chain, trained: TrainResult, promote: str) -> EvaluateResult:
    run = chain.config(
        "evaluate.yaml",
        f"model={trained.bundle_path}",
        f"promote={promote}",
        f"output={chain.output / 'evaluation' / Path(trained.run_dir).name}",
    )
    assert isinstance(run, EvaluateConfig)
    return evaluate(run, progress=chain.report)


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
