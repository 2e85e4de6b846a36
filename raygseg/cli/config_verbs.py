"""`raygseg config show|schema`: what a configuration resolves to, and every key there is."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from raygseg.cli.console import show_yaml, stdout
from raygseg.cli.run_verbs import Words, load

config_app = typer.Typer(no_args_is_help=True, help="Show what a configuration resolves to, and every key there is.")


def register(app: typer.Typer) -> None:
    """Add `config` to the application."""
    app.add_typer(config_app, name="config", rich_help_panel="House")


@config_app.command()
def show(words: Words = None) -> None:
    """Print the resolved configuration: every key, its defaults and bases filled in, then its fingerprint.

    [bold]Example[/]

      raygseg config show configs/toy/gan.yaml schedule.batch_size=32
    """
    from raygseg.config.loader import fingerprint, resolved_yaml

    config = load(words)
    show_yaml(f"{resolved_yaml(config)}# fingerprint: {fingerprint(config)}\n")


@config_app.command()
def schema(
    kind: Annotated[str, typer.Argument(help="gan, head, segmenter, generate, evaluate.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="A JSON schema, for editors that check YAML.")] = False,
) -> None:
    """List every key of a kind with its type, default and meaning.

    [bold]Example[/]

      raygseg config schema gan
    """
    from rich.markup import escape
    from rich.table import Table

    from raygseg.config.reference import json_schema, keys

    if as_json:
        typer.echo(json.dumps(json_schema(kind), indent=1))
        return
    table = Table(box=None, padding=(0, 2))
    for heading in ("key", "type", "default", "meaning"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "key")
    for key in keys(kind):
        default = "[bold]required[/]" if key.default is None else escape(key.default)
        table.add_row(f"[cyan]{escape(key.name)}[/]", escape(key.type), default, escape(key.description))
    stdout().print(table)
