"""The verbs around trained things: sample, segment, import, pull, inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raygseg.cli.console import Reporter, json_text, show_facts
from raygseg.cli.run_verbs import brief

PANEL = "Use what was trained"

MODEL = "A bundle: folder, s3://bucket/prefix or models:/NAME@alias."


def register(app: typer.Typer) -> None:
    """Add the verbs to the application."""
    app.command(rich_help_panel=PANEL)(sample)
    app.command(rich_help_panel=PANEL)(segment)
    app.command("import", rich_help_panel=PANEL)(import_)
    app.command(rich_help_panel=PANEL)(pull)
    app.command(rich_help_panel=PANEL)(inspect)


def sample(
    generator: Annotated[str, typer.Argument(help="Generator. " + MODEL, show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures.", show_default=False)],
    count: Annotated[int, typer.Option("--count", "-k", min=1, help="How many pictures to label.")] = 10,
    seed: Annotated[int, typer.Option(help="Candidates follow from it.")] = 0,
    truncation_psi: Annotated[float, typer.Option(min=0.0, help="1: full variety; less: more typical.")] = 1.0,
    candidates: Annotated[int, typer.Option(min=1, help="Pictures among which to pick the most diverse.")] = 256,
    labeller: Annotated[str, typer.Option(help="A segmenter that paints the masks in place of a person.")] = "",
) -> None:
    """Export a few diverse generated pictures with their seeds, to be labelled with any tool.

    For each images/SEED.png paint a masks/SEED.png of class indices, fill in
    labels.json, and train a head on the folder: samples=to-label.

    [bold]Example[/]

      raygseg sample models:/toy-gan@champion --count 10 --output to-label
    """
    from raygseg.pipelines.sample import sample_for_labelling

    result = sample_for_labelling(
        generator, count, output, seed=seed, truncation_psi=truncation_psi, candidates=max(candidates, count)
    )
    facts = brief(result)
    if labeller:
        from raygseg.pipelines.label_samples import label_exported

        facts["masks"] = label_exported(output, labeller)
    show_facts("[bold green]sampled[/]", facts)


def segment(
    model: Annotated[str, typer.Argument(help="Segmenter. " + MODEL, show_default=False)],
    source: Annotated[str, typer.Argument(metavar="INPUT", help="A picture, a folder or Parquet.", show_default=False)],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder for masks, overlays, CSV.", show_default=False)],
    overlays: Annotated[bool, typer.Option(help="Also draw the parts over the pictures.")] = True,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures a forward pass.")] = 8,
    actors: Annotated[int, typer.Option(min=0, help="Ray actors; 0: as the input's size asks for.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Segment your own pictures: masks at their original size, overlays and a CSV of part areas.

    [bold]Examples[/]

      raygseg segment models:/toy-segmenter@champion photo.jpg --output parts
      raygseg segment runs/toy-segmenter/bundle holiday/ --output parts --no-overlays
    """
    from raygseg.pipelines.segment import segment as run

    with Reporter() as progress:
        result = run(
            model,
            source,
            output,
            overlays=overlays,
            batch_size=batch_size,
            actors=actors,
            device=device,
            progress=progress,
        )
    show_facts("[bold green]segmented[/]", brief(result))


def import_(
    file: Annotated[Path, typer.Argument(help="NVIDIA .pkl or rosinality .pt.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make.", show_default=False)],
    discriminator: Annotated[str, typer.Option(help="Folder to make for the discriminator too.")] = "",
    raw: Annotated[bool, typer.Option("--raw", help="The weights as trained, not their moving average.")] = False,
) -> None:
    """Make a generator bundle of public StyleGAN2 weights. Runs nothing from the file.

    Read are snapshots of stylegan2-ada-pytorch, of stylegan3 with its stylegan2
    configuration, and checkpoints of rosinality's stylegan2-pytorch.

    [bold]Example[/]

      raygseg import network-snapshot.pkl --output runs/imported
    """
    from raygseg.pipelines.import_weights import import_weights

    show_facts("[bold green]imported[/]", brief(import_weights(file, output, raw=raw, discriminator=discriminator)))


def pull(
    model: Annotated[str, typer.Argument(help="NAME, models:/NAME@alias, models:/NAME/VERSION.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make.", show_default=False)],
) -> None:
    """Copy a registered model here and verify the checksum of each of its files.

    [bold]Example[/]

      raygseg pull models:/toy-segmenter@champion --output toy-segmenter
    """
    from raygseg.pipelines.registry import pull as run

    show_facts("[bold green]pulled[/]", brief({"bundle": str(run(model, str(output)))}))


def inspect(
    path: Annotated[str, typer.Argument(help="A bundle, a checkpoint, a pair set, a folder.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Say what a path holds: kind, sizes, fingerprint, classes, figures. Runs nothing from it.

    [bold]Example[/]

      raygseg inspect runs/toy-pairs
    """
    from raygseg.pipelines.inspect import inspect as run

    result = run(path)
    if as_json:
        typer.echo(json_text(result, indent=1))
    else:
        show_facts(path, brief(result))
