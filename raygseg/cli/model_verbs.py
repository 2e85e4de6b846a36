"""The verbs around trained things: sample, fidelity, agreement, report, segment, import, pull, inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raygseg.cli.console import Reporter, json_text, show_facts, show_table
from raygseg.cli.run_verbs import brief

PANEL = "Use what was trained"

MODEL = "A bundle: folder, s3://bucket/prefix or models:/NAME@alias."


def register(app: typer.Typer) -> None:
    """Add the verbs to the application."""
    app.command(rich_help_panel=PANEL)(sample)
    app.command(rich_help_panel=PANEL)(fidelity)
    app.command(rich_help_panel=PANEL)(agreement)
    app.command(rich_help_panel=PANEL)(report)
    app.command(rich_help_panel=PANEL)(segment)
    app.command("import", rich_help_panel=PANEL)(import_)
    app.command(rich_help_panel=PANEL)(pull)
    app.command(rich_help_panel=PANEL)(inspect)


def sample(
    generator: Annotated[str, typer.Argument(help="Generator. " + MODEL, show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures.", show_default=False)],
    count: Annotated[int, typer.Option("--count", "-k", min=0, help="Pictures; 0: 10 to label, a usual sheet.")] = 0,
    seed: Annotated[int, typer.Option(help="Candidates, or the pictures of a sheet, follow from it.")] = 0,
    truncation_psi: Annotated[float, typer.Option(min=0.0, help="1: full variety; less: more typical.")] = 1.0,
    candidates: Annotated[int, typer.Option(min=1, help="Pictures among which to pick the most diverse.")] = 256,
    labeller: Annotated[str, typer.Option(help="A segmenter that paints the masks in place of a person.")] = "",
    sheet: Annotated[str, typer.Option(help="Only draw one picture: grid, truncation or interpolation.")] = "",
) -> None:
    """Export a few diverse generated pictures with their seeds, to be labelled with any tool.

    For each images/SEED.png paint a masks/SEED.png of class indices, fill in
    labels.json, and train a head on the folder: samples=to-label.

    With [cyan]--sheet[/], one PNG to look at instead: a grid, what truncation does,
    or the way from picture to picture. A checkpoint is a generator too.

    [bold]Examples[/]

      raygseg sample models:/toy-gan@champion --count 10 --output to-label
      raygseg sample runs/cars/checkpoint-000100000 --sheet truncation --output cars.png
    """
    if sheet:
        from raygseg.pipelines.sheets import draw_sheet

        place = draw_sheet(generator, sheet, str(output), count=count, seed=seed, truncation_psi=truncation_psi)
        show_facts("[bold green]drawn[/]", {"sheet": place})
        return
    count = count or 10
    from raygseg.pipelines.sample import sample_for_labelling

    result = sample_for_labelling(
        generator, count, output, seed=seed, truncation_psi=truncation_psi, candidates=max(candidates, count)
    )
    facts = brief(result)
    if labeller:
        from raygseg.pipelines.label_samples import label_exported

        facts["masks"] = label_exported(output, labeller)
    show_facts("[bold green]sampled[/]", facts)


def fidelity(
    generator: Annotated[str, typer.Argument(help="Bundle, checkpoint, or a run's folder.", show_default=False)],
    pictures: Annotated[str, typer.Argument(help="Real pictures: folder, Parquet, s3://, toy://", show_default=False)],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder of fidelity.jsonl; a run's is known.")] = "",
    count: Annotated[int, typer.Option("--count", "-k", min=4, help="Generated pictures to compare.")] = 5000,
    network: Annotated[str, typer.Option(help="Whose features: vgg16.")] = "vgg16",
    weights: Annotated[str, typer.Option(help="File of its weights; else RAYGSEG_DATA is searched.")] = "",
    truncation_psi: Annotated[float, typer.Option(min=0.0, help="1: full variety.")] = 1.0,
    limit: Annotated[int, typer.Option(min=0, help="Only the first so many real pictures; 0: all.")] = 0,
    bf16: Annotated[bool, typer.Option("--bf16", help="Quicker; moves the figures a little.")] = False,
    actors: Annotated[int, typer.Option(min=0, help="Ray actors; 0: as the number of pictures asks for.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """How close generated pictures are to real ones: FID, KID, precision and recall.

    Of a run's folder every checkpoint is measured, and those measured before are
    not measured again. Figures of other networks, sizes or counts do not compare.

    [bold]Examples[/]

      raygseg fidelity runs/cars photos/cars
      raygseg fidelity models:/toy-gan@champion 'toy://default?count=5000&seed=1' --count 5000
    """
    from raygseg.pipelines.fidelity import fidelity as run
    from raygseg.pipelines.fidelity import table

    with Reporter() as progress:
        results = run(
            generator,
            pictures,
            output,
            count=count,
            network=network,
            weights=weights,
            truncation_psi=truncation_psi,
            limit=limit,
            precision="bf16" if bf16 else "fp32",
            actors=actors,
            device=device,
            progress=progress,
        )
    show_table(f"{results[0].metric}: {results[0].fakes:,} generated, {results[0].reals:,} real", table(results))


def agreement(
    sampler: Annotated[str, typer.Argument(help="Bundle, checkpoint, or a run's folder.", show_default=False)],
    segmenter: Annotated[str, typer.Argument(help="Segmenter. " + MODEL, show_default=False)],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder of agreement.jsonl; a run's is known.")] = "",
    count: Annotated[int, typer.Option("--count", "-k", min=1, help="Generated pictures.")] = 500,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Whether generated labels fit their pictures: mIoU with a segmenter trained on real labels.

    Of a run's folder every checkpoint is measured, and those measured before are
    not measured again.

    [bold]Example[/]

      raygseg agreement runs/toy-joint runs/toy-oracle/bundle --count 500
    """
    from raygseg.pipelines.agreement import agreement as run
    from raygseg.pipelines.agreement import table

    with Reporter() as progress:
        results = run(sampler, segmenter, output, count=count, device=device, progress=progress)
    show_table(f"labels of {results[0].samples:,} samples against {segmenter}", table(results))


def report(
    run: Annotated[str, typer.Argument(help="A run's folder.", show_default=False)],
    output: Annotated[str, typer.Option("--output", "-o", help="file.html; else report.html in the folder.")] = "",
) -> None:
    """Draw a training run as one page: curves, sample grids, configuration.

    [bold]Example[/]

      raygseg report runs/toy-gan
    """
    from raygseg.pipelines.run_report import run_report

    show_facts("[bold green]drawn[/]", {"page": run_report(run, output)})


def segment(
    model: Annotated[str, typer.Argument(help="Segmenter. " + MODEL, show_default=False)],
    source: Annotated[str, typer.Argument(metavar="INPUT", help="A picture, a folder or Parquet.", show_default=False)],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder for masks, overlays, CSV.", show_default=False)],
    support: Annotated[str, typer.Option(help="Labelled pictures that show a few-shot network its classes.")] = "",
    overlays: Annotated[bool, typer.Option(help="Also draw the parts over the pictures.")] = True,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures a forward pass.")] = 16,
    actors: Annotated[int, typer.Option(min=0, help="Ray actors; 0: as the input's size asks for.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Segment your own pictures: masks at their original size, overlays and a CSV of part areas.

    [bold]Examples[/]

      raygseg segment models:/toy-segmenter@champion photo.jpg --output parts
      raygseg segment runs/toy-segmenter/bundle holiday/ --output parts --no-overlays
      raygseg segment runs/panet/bundle holiday/ --support labelled --output parts
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
            support=support,
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
