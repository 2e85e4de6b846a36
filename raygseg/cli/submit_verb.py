"""`raygseg submit VERB …`: the same command line on a cluster."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raygseg.cli.console import stderr, stdout
from raygseg.cli.run_verbs import TRAINED_KINDS, load
from raygseg.errors import ConfigError

if TYPE_CHECKING:
    from raygseg.config.sections import Run
    from raygseg.pipelines.submit import Prepared, Request

PANEL = "Run a configuration"
CONFIGURED = ("train", "generate", "evaluate", "episodes", "compare")
SUBMITTED = (*CONFIGURED, "segment", "benchmark")  # the scripts of jobs/

SUBMIT_HELP = """Run a verb on a Ray cluster: checked here, packed, started, followed.

Takes the verb's own words. The configuration, its bases and the local inputs it
names go along, files that git ignores too; outputs must be s3:// or on a disk
that all hosts share. Prints the [cyan]ray job submit[/] line that does the same.

Ends with the job's own exit code. Ctrl-C stops the job, which saves first; the
same command goes on. Ctrl-C twice leaves the job to itself.

[bold]Examples[/]

  raygseg submit train configs/toy/gan.yaml runtime.workers=3 runtime.output=s3://lab/toy-gan
  raygseg submit generate configs/toy/generate.yaml output=s3://lab/pairs --address http://head:8265
  raygseg submit train configs/toy/head.yaml runtime.output=s3://lab/toy-head --dry-run
"""


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command(
        help=SUBMIT_HELP, rich_help_panel=PANEL, context_settings={"ignore_unknown_options": True},
    )(submit)  # fmt: skip


def submit(
    context: typer.Context,
    verb: Annotated[str, typer.Argument(help=f"One of {', '.join(SUBMITTED)}.", show_default=False)],
    words: Annotated[
        list[str] | None, typer.Argument(metavar="WORDS", help="What the verb takes.", show_default=False)
    ] = None,
    address: Annotated[
        str, typer.Option(help="http://HEAD:8265; else RAY_API_SERVER_ADDRESS or RAY_ADDRESS.", show_default=False)
    ] = "",
    include: Annotated[
        list[str] | None, typer.Option(help="A further file or folder to take along; repeat.", show_default=False)
    ] = None,
    runtime_env: Annotated[
        str, typer.Option(help="YAML; else cluster/runtime-env.yaml where there is one.", show_default=False)
    ] = "",
    job: Annotated[str, typer.Option(help="Name of the job; else made up.", show_default=False)] = "",
    wait: Annotated[bool, typer.Option(help="Follow the job to its end.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and pack; submit nothing.")] = False,
) -> None:
    import dataclasses

    from raygseg.pipelines import submit as pipeline

    group = context.parent.command if context.parent is not None else None
    assert group is not None, "a verb of the application"
    request = request_of(group, verb, list(words or ()))
    request = dataclasses.replace(
        request, include=tuple(include or ()), runtime_env=runtime_env, address=address, job=job
    )
    prepared = pipeline.prepare(request)
    _show(prepared)
    if dry_run:
        stdout().print("dry run: nothing was submitted")
        return
    code, end = pipeline.run(prepared, _write, lambda text: stderr().print(text, markup=False), wait)
    stderr().print(end, markup=False)
    if code:
        raise typer.Exit(code)


def request_of(group: Any, verb: str, words: list[str]) -> Request:
    """The words checked as the verb itself would check them. Raises ConfigError, or click's usage errors."""
    from raygseg.pipelines.submit import Request

    if verb not in SUBMITTED:
        raise ConfigError(f"'{verb}' is not run on a cluster", f"use one of {', '.join(SUBMITTED)}")
    command = group.commands[verb]  # of click, or of the copy that typer carries
    parameters = dict(command.make_context(verb, list(words)).params)
    if verb not in CONFIGURED:
        output = parameters.pop("output", None)
        outputs = {} if output is None else {"--output": str(output)}
        return Request(verb, words, _settings(parameters), outputs=outputs)
    given = list(parameters["words"] or ())
    config = load(given, None if verb == "train" else verb)
    _check(config, verb)
    file = given[0] if given and ("=" not in given[0] or Path(given[0]).is_file()) else ""
    return Request(verb, words, config.model_dump(mode="json"), file, _outputs(config))


def _check(config: Run, verb: str) -> None:
    """Raise ConfigError for what would fail on the cluster minutes later."""
    if verb != "train":
        return
    from raygseg.pipelines.train import check_shares

    if config.kind not in TRAINED_KINDS:
        raise ConfigError(f"kind '{config.kind}' is not trained", f"submit it with `raygseg submit {config.kind}`")
    check_shares(config)


def _outputs(config: Run) -> dict[str, str]:
    """Every place the run writes, by key."""
    own = getattr(config, "output", None)
    place = {"runtime.output": config.runtime.output} if own is None else {"output": own or config.runtime.output}
    store = config.runtime.tracking_uri
    if store.startswith("sqlite:///"):
        place["runtime.tracking_uri"] = store.removeprefix("sqlite:///")
    return place


def _settings(parameters: dict[str, Any]) -> dict[str, Any]:
    """A verb's parameters as key and value; words such as `sampler=runs/head` by their own key."""
    settings: dict[str, Any] = {}
    for key, value in parameters.items():
        for item in value if isinstance(value, (list, tuple)) else [value]:
            name, equals, text = str(item).partition("=")
            settings[name if equals and name.isidentifier() else key] = text if equals else str(item)
    return settings


def _show(prepared: Prepared) -> None:
    """What goes along, and the line that Ray's own command takes; on stderr, the log alone goes to stdout."""
    pack = prepared.pack
    parts = ", ".join(f"{name} ({size / 1024:,.0f} KiB)" for name, size in pack.parts.items())
    lines = [f"packed {pack.files} files, {pack.bytes / 2**20:.2f} MiB: {parts}"]
    if prepared.elsewhere:
        lines.append(f"not packed, every host must have them: {', '.join(prepared.elsewhere)}")
    lines.append(prepared.ray_command)
    for line in lines:
        stderr().print(line, markup=False)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
