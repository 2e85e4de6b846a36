"""The verbs that run a configuration: train, generate, evaluate, episodes, compare."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raygseg.cli.console import Reporter, show_facts, show_table, show_yaml, stdout
from raygseg.errors import ConfigError

if TYPE_CHECKING:
    from raygseg.config.sections import Run

PANEL = "Run a configuration"
TRAINED_KINDS = ("gan", "joint-gan", "encoder", "head", "backbone-head", "segmenter", "panet")

Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="FILE KEY=VALUE", help="A YAML file, then keys that win over it.", show_default=False),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the resolved configuration, sizes and places; run nothing.")
]

TRAIN_HELP = """Train what the file's [cyan]kind[/] says.

gan: an image generator from unlabelled pictures. joint-gan: a generator of
pictures with label maps, from few labelled ones besides. encoder: pictures to its
codes, and a segmenter by embedding. head: reads labels out of a
generator. backbone-head: reads them out of a pretrained network, from labelled
pictures. segmenter: a U-Net on generated pairs or labelled pictures. panet:
finds classes that it never saw by a few labelled pictures.

The same command again resumes. A changed configuration in the same place is
refused with the list of changed keys.

[bold]Examples[/]

  raygseg train configs/toy/gan.yaml
  raygseg train configs/toy/gan.yaml runtime.workers=2 schedule.total_kimg=400
  raygseg train configs/toy/segmenter.yaml name=ten-labels pairs= labelled=my/photos --dry-run
"""
GENERATE_HELP = """Write labelled pairs: pictures and masks as Parquet shards that read anywhere.

A run that was cut short goes on where it stopped. Row i is the same however
many actors made it.

[bold]Examples[/]

  raygseg generate configs/toy/generate.yaml
  raygseg generate name=pairs sampler=models:/toy-head@champion num_pairs=20000 output=runs/pairs
  raygseg generate configs/toy/generate.yaml num_pairs=40000 mode=extend output=s3://lab/pairs
"""
EVALUATE_HELP = """Score a segmenter on labelled pictures.

IoU of every part, means, boundary F, intervals, overlays of best and worst.
With [cyan]promote=NAME[/] the registry's champion moves if this model is better
by the stated rule.

[bold]Examples[/]

  raygseg evaluate name=test model=models:/toy-segmenter@champion data='toy://default?count=200&seed=9'
  raygseg evaluate name=test model=runs/toy-segmenter/bundle data=photos/labelled promote=toy-segmenter
"""
EPISODES_HELP = """Score a few-shot network on classes that it has not seen.

Seeded episodes of a fold: a few labelled pictures of a class, then a picture
to segment. Mean-IoU and binary-IoU with intervals, under a named protocol.
Without [cyan]model=[/] the network is VGG-16 as ImageNet left it. What is done is
kept; more [cyan]runs=[/] or [cyan]shots=[/] add only themselves.

[bold]Examples[/]

  raygseg episodes configs/panet/episodes.yaml data=photos/labelled
  raygseg episodes configs/panet/episodes.yaml data=VOC2012 model=runs/panet/bundle fold=2 name=fold-2
"""
COMPARE_HELP = """Find out which route serves your k labels.

Every arm is trained as long on the same pictures and scored on pictures it has
not seen (cross-validation, or [cyan]validation=[/]): one table with intervals and
costs, a recommendation, and the winner as a file that `raygseg train` runs.
What is done is kept; the same command goes on.

[bold]Examples[/]

  raygseg compare configs/compare/toy.yaml
  raygseg compare configs/compare/toy.yaml name=mine labelled=my/photos resolution=64 --no-gan
"""


def register(app: typer.Typer) -> None:
    """Add the verbs to the application."""
    verbs = (
        (train, TRAIN_HELP),
        (generate, GENERATE_HELP),
        (evaluate, EVALUATE_HELP),
        (episodes, EPISODES_HELP),
        (compare, COMPARE_HELP),
    )
    for function, text in verbs:
        app.command(help=text, rich_help_panel=PANEL)(function)


def load(words: list[str] | None, kind: str | None = None) -> Run:
    """The configuration of `[FILE] [KEY=VALUE]...`; the first word is the file unless it is an override."""
    from raygseg.config.loader import load_config

    words = list(words or ())
    if not words:
        raise ConfigError("no configuration", "give a YAML file, key=value words, or both; see --help")
    is_file = "=" not in words[0] or Path(words[0]).is_file()
    return load_config(words[0] if is_file else None, words[1:] if is_file else words, kind)


def show_plan(config: Run) -> None:
    """What a run would do: configuration, parameter counts, memory, places."""
    from raygseg.config.loader import fingerprint, resolved_yaml
    from raygseg.pipelines.train import plan

    facts = plan(config)
    show_yaml(resolved_yaml(config))
    show_facts("", {"fingerprint": fingerprint(config)[:16], **facts})
    stdout().print("dry run: nothing was run or written")


def train(words: Words = None, dry_run: DryRun = False) -> None:
    config = load(words)
    if config.kind not in TRAINED_KINDS:
        raise ConfigError(f"kind '{config.kind}' is not trained", f"run it with `raygseg {config.kind}`")
    if dry_run:
        show_plan(config)
        return
    from raygseg.pipelines.train import train as run

    with Reporter() as progress:
        result = run(config, progress=progress)
    show_facts(f"[bold green]trained[/] {config.name}", brief(result))


def generate(words: Words = None, dry_run: DryRun = False) -> None:
    from raygseg.config.schema import GenerateConfig

    config = load(words, "generate")
    assert isinstance(config, GenerateConfig)
    if dry_run:
        show_plan(config)
        return
    from raygseg.pipelines.generate import generate as run

    with Reporter() as progress:
        result = run(config, progress=progress)
    show_facts(f"[bold green]generated[/] {config.name}", brief(result))


def evaluate(words: Words = None, dry_run: DryRun = False) -> None:
    from raygseg.config.schema import EvaluateConfig

    config = load(words, "evaluate")
    assert isinstance(config, EvaluateConfig)
    if dry_run:
        show_plan(config)
        return
    from raygseg.pipelines.evaluate import evaluate as run

    with Reporter() as progress:
        result = run(config, progress=progress)
    show_facts(f"[bold green]evaluated[/] {config.name}", brief(result))


def episodes(words: Words = None, dry_run: DryRun = False) -> None:
    from raygseg.config.episodes import EpisodesConfig

    config = load(words, "episodes")
    assert isinstance(config, EpisodesConfig)
    if dry_run:
        show_plan(config)
        return
    from raygseg.pipelines.episode_scores import table_rows
    from raygseg.pipelines.episodes import score_episodes

    with Reporter() as progress:
        result = score_episodes(config, progress=progress)
    show_table(f"novel classes of fold {config.fold}; protocol {result.protocol}", table_rows(result))
    told = {"episodes": result.episodes, "left out": result.left_out, "too few pictures": list(result.few)}
    show_facts(f"[bold green]scored[/] {config.name}", {**told, **result.files})


def compare(
    words: Words = None,
    dry_run: DryRun = False,
    no_gan: Annotated[bool, typer.Option("--no-gan", help="Leave out the arms that need a generator.")] = False,
) -> None:
    from raygseg.config.schema import GAN_ARMS, CompareConfig

    config = load(words, "compare")
    assert isinstance(config, CompareConfig)
    if no_gan:
        kept = tuple(arm for arm in config.arms if arm not in GAN_ARMS)
        config = config.model_copy(update={"generator": "", "arms": kept})
    if dry_run:
        show_plan(config)
        return
    from raygseg.pipelines.compare import compare as run
    from raygseg.pipelines.compare_report import cells, headings

    with Reporter() as progress:
        result = run(config, progress=progress)
    heads = headings(result.rows, result.decided_by)
    lines = [dict(zip(heads, cells(row, result.decided_by), strict=True)) for row in result.rows]
    show_table("arms, best first (foreground mIoU, then with background)", lines)
    show_facts(f"[bold green]recommended[/] {result.recommended}", {"because": result.reason, **result.files})


def brief(result: Any) -> dict[str, Any]:
    """A result's small facts: long lists (histograms, per-picture scores) are only counted."""
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        items = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
    elif hasattr(result, "_asdict"):
        items = result._asdict()
    else:
        items = dict(result) if isinstance(result, Mapping) else {"result": result}
    return {name: _short(value) for name, value in items.items() if value is not None}


def _short(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and len(value) > 12:
        return f"{len(value)} values"
    if isinstance(value, Mapping):
        return {str(k): _short(v) for k, v in list(value.items())[:40]}
    return value
