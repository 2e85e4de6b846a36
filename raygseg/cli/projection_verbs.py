"""The verb that takes photos into a generator: project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raygseg.cli.console import Reporter, show_facts, stdout
from raygseg.cli.model_verbs import PANEL

LISTED = 20


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command(rich_help_panel=PANEL)(project)


def project(
    generator: Annotated[str, typer.Argument(help="Generator or sampler, or FILE.safetensors.", show_default=False)],
    photos: Annotated[str, typer.Argument(help="Folder of pictures, with masks/ or without.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to fill.", show_default=False)],
    steps: Annotated[int, typer.Option(min=1, help="Steps of the search.")] = 60,
    noise_share: Annotated[float, typer.Option(min=0, max=1, help="Of the steps, for the noise maps too.")] = 0.2,
    features: Annotated[str, typer.Option(help="auto, vgg16, efficientnet-lite0 or discriminator.")] = "auto",
    weights: Annotated[str, typer.Option(help="Its file or bundle; else RAYGSEG_DATA, or beside the generator.")] = "",
    start: Annotated[str, typer.Option(help="mean, or an encoder's file: trained there if missing.")] = "mean",
    gate: Annotated[int, typer.Option(min=0, help="Generated pictures to calibrate the gate on; 0: none.")] = 32,
    statistic: Annotated[str, typer.Option(help="What the gate judges; see the record.")] = "distance",
    quantile: Annotated[float, typer.Option(min=0, max=1, help="Of the generator's own that the gate lets in.")] = 0.95,
    slack: Annotated[float, typer.Option(min=0, help="Factor on the gate's threshold.")] = 1.0,
    align: Annotated[str, typer.Option(help="auto, faces (by eyes and mouth), template (no labels), none.")] = "auto",
    resolution: Annotated[int, typer.Option(min=0, help="px, of weights from a file; 0: 128.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 8,
    limit: Annotated[int, typer.Option(min=0, help="Only the first so many photos; 0: all.")] = 0,
) -> None:
    """Find the codes under which a generator draws your photos, and refuse those it cannot draw.

    Photos with masks become labelled samples that [cyan]train head[/] takes. A
    sampler (generator with head) also gives a segmenter that works by projection.
    The same command again goes on, picture by picture.

    [bold]Examples[/]

      raygseg project configs/toy/generator 'toy://default?count=16&seed=3' -o runs/toy-projected
      raygseg project runs/cars/bundle photos/cars --gate 48 --features discriminator -o runs/cars-projected
      raygseg project face_generator_mobile.safetensors faces/frontal -o runs/faces-projected
    """
    from raygseg.nn.projection import ProjectionPlan
    from raygseg.pipelines.projection_run import ProjectSettings, run_projection

    settings = ProjectSettings(
        plan=ProjectionPlan(steps=steps, noise_share=noise_share),
        features=features,
        weights=weights,
        start=start,
        gate_samples=gate,
        statistic=statistic,
        quantile=quantile,
        slack=slack,
        align=align,
        resolution=resolution,
        batch_size=batch_size,
        limit=limit,
    )
    with Reporter() as progress:
        result = run_projection(generator, photos, output, settings, progress)
    facts = {
        "distance by": result.features,
        "accepted": f"{result.accepted} of {result.pictures}",
        "refused by the gate": f"{result.refused} (above {result.threshold:.4f})" if gate else "no gate",
        "skipped": result.skipped,
        "mean distance of the accepted": result.distance,
        **result.files,
    }
    show_facts("[bold green]projected[/]", facts)
    for line in result.listed[:LISTED]:
        stdout().print(f"  {line}", markup=False)
    if len(result.listed) > LISTED:
        stdout().print(f"  and {len(result.listed) - LISTED} more in {output}/projection.json", markup=False)
