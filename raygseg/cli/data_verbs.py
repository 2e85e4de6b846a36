"""The verb that comes before all others: prepare."""

from __future__ import annotations

from typing import Annotated

import typer

from raygseg.cli.console import Reporter, show_facts, stdout
from raygseg.cli.run_verbs import brief

PANEL = "Prepare pictures"


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command(rich_help_panel=PANEL)(prepare)


def prepare(
    source: Annotated[str, typer.Argument(help="Folder of photos, any depth; or s3://bucket/prefix.")],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder or s3:// prefix.", show_default=False)],
    resolution: Annotated[
        int, typer.Option("--resolution", "-r", help="Side in pixels, e.g. 256.", show_default=False)
    ],
    masks: Annotated[str, typer.Option(help="Folder of PNG or labelme files, or a COCO file.json.")] = "",
    labels: Annotated[str, typer.Option(help="labels.json; else the one beside the masks.")] = "",
    fit: Annotated[str, typer.Option(help="crop: the middle square. pad: all, with bars. squash: all.")] = "crop",
    layout: Annotated[str, typer.Option(help="pictures, celebamask-hq, pascal-part, voc or datasetgan.")] = "pictures",
    task: Annotated[str, typer.Option(help="Classes: faces-10, -3, -8, -19 (celebamask-hq); car, horse.")] = "",
    split: Annotated[str, typer.Option(help="File with one name a line, or a split of splits.json or of VOC.")] = "",
    mask_format: Annotated[str, typer.Option(help="auto, png, coco or labelme.")] = "auto",
    image_format: Annotated[str, typer.Option(help="png (exact), jpeg or webp.")] = "png",
    min_side: Annotated[int, typer.Option(min=0, help="Skip smaller pictures; 0: half the resolution.")] = 0,
    max_aspect: Annotated[float, typer.Option(help="Skip pictures longer than this times their width.")] = 3.0,
    keep_duplicates: Annotated[bool, typer.Option("--keep-duplicates", help="Keep files of equal pixels.")] = False,
    limit: Annotated[int, typer.Option(min=0, help="Only the first so many files; 0: all.")] = 0,
    files_per_shard: Annotated[int, typer.Option(min=0, help="0: as many as suit the resolution.")] = 0,
    max_bad_fraction: Annotated[float, typer.Option(min=0, max=1, help="Share of files that may be bad.")] = 0.2,
    threads: Annotated[int, typer.Option(min=0, help="That decode; 0: one a processor.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what the output holds.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Try a few files, say what would be; write nothing.")
    ] = False,
) -> None:
    """Check, resize and store your photos (and masks), with a page that says what became of each file.

    Photos may be rotated, grey, transparent, 16 bit, of any shape, doubled or
    broken: each is mended or skipped, and named. The output is a source for all
    other steps. The same command again goes on where it stopped.

    Masks are PNGs whose pixel value is the class (or colours that labels.json's
    palette names), COCO JSON or labelme JSON.

    [bold]Examples[/]

      raygseg prepare photos --output runs/photos-32 --resolution 32
      raygseg train configs/gan/photos-32.yaml data.source=runs/photos-32

      raygseg prepare photos -o runs/cars -r 256 --masks masks --dry-run
      raygseg prepare photos -o s3://lab/cars -r 256 --masks cars.json --fit pad
      raygseg prepare CelebAMask-HQ -o faces -r 256 --layout celebamask-hq
      raygseg prepare VOC2010 -o horses -r 128 --layout pascal-part --task horse
    """
    from raygseg.data.preparation.settings import PreparationSettings
    from raygseg.pipelines.prepare import plan
    from raygseg.pipelines.prepare import prepare as run

    settings = PreparationSettings(
        resolution=resolution,
        fit=fit,
        image_format=image_format,
        min_side=min_side,
        max_aspect=max_aspect,
        keep_duplicates=keep_duplicates,
        limit=limit,
        layout=layout,
        task=task,
        split=split,
        mask_format=mask_format,
        files_per_shard=files_per_shard,
    )
    if dry_run:
        facts = plan(source, output, settings, masks=masks, labels=labels, threads=threads)
        show_facts(source, facts)
        stdout().print(f"dry run: {facts['tried']} files were tried, nothing was written")
        return
    with Reporter() as progress:
        result = run(
            source,
            output,
            settings,
            masks=masks,
            labels=labels,
            max_bad_fraction=max_bad_fraction,
            overwrite=overwrite,
            threads=threads,
            progress=progress,
        )
    done = result.done_before == result.files
    show_facts("[bold green]prepared[/]" + (" before, nothing to do" if done else ""), brief(result))
