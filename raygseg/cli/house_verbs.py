"""The verbs of the house: quickstart, doctor, benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from raygseg.cli.console import Reporter, json_text, show_facts, stdout
from raygseg.cli.run_verbs import brief
from raygseg.errors import ConfigError

PANEL = "House"


def register(app: typer.Typer) -> None:
    """Add the verbs to the application."""
    app.command(rich_help_panel=PANEL)(quickstart)
    app.command(rich_help_panel=PANEL)(doctor)
    app.command(rich_help_panel=PANEL)(benchmark)


def quickstart(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of everything it makes.")] = Path(
        "runs/quickstart"
    ),
    from_scratch: Annotated[bool, typer.Option("--from-scratch", help="Train the generator too (hours).")] = False,
) -> None:
    """Run the whole chain on the toy set and show what came out: table, report page, registered model.

    [bold]Example[/]

      raygseg quickstart
    """
    from raygseg.pipelines.quickstart import quickstart as run

    with Reporter() as progress:
        result = run(output=str(output), from_scratch=from_scratch, progress=progress)
    show_facts("[bold green]done[/]", brief(result))


def doctor() -> None:
    """Check this machine and what it talks to: versions, disk, memory, Ray, S3, MLflow. Exit code 3 if a check fails.

    [bold]Example[/]

      raygseg doctor
    """
    from rich.markup import escape

    from raygseg.cli.doctor import checks

    console = stdout()
    marks = {"ok": "[green]ok  [/]", "note": "[yellow]note[/]", "fail": "[bold red]FAIL[/]"}
    findings = list(checks())
    for index, finding in enumerate(findings, start=1):
        console.print(f"{index:2}. {marks[finding.state]} {finding.name}: {escape(finding.found)}")
        if finding.fix:
            console.print(f"         [bold]fix:[/] {escape(finding.fix)}")
    failed = sum(finding.state == "fail" for finding in findings)
    console.print(f"{len(findings)} checks, {failed} failed")
    if failed:
        raise typer.Exit(3)


def benchmark(
    name: Annotated[str, typer.Argument(help="Which one; `list` names them.", show_default=False)],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Its settings.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line on stdout.")] = False,
) -> None:
    """Measure one mechanism against its plain form: ratio of times, of memory, relative error.

    [bold]Examples[/]

      raygseg benchmark list
      raygseg benchmark hypercolumn --json
    """
    from raygseg import benchmarks

    if name == "list":
        typer.echo("\n".join(benchmarks.names()))
        return
    with Reporter() as progress:
        result = benchmarks.run(name, progress, **_settings(settings))
    if as_json:
        typer.echo(json_text(result))
    else:
        show_facts(name, result)


def _settings(words: list[str] | None) -> dict[str, Any]:
    """`repeats=5` words as keyword arguments."""
    from raygseg.config.document import read_value

    settings: dict[str, Any] = {}
    for word in words or ():
        key, equals, text = word.partition("=")
        if not equals or not key.isidentifier():
            raise ConfigError(f"'{word}' is not a setting", "write key=value, e.g. repeats=5")
        try:
            settings[key] = read_value(text)
        except ValueError as error:
            raise ConfigError(f"{key}: {error}", "close the bracket or quote") from error
    return settings
