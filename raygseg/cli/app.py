"""`raygseg VERB …`: the application, its global options and its exit codes.

Exit codes: 0 ok, 1 the run failed, 2 usage or configuration, 3 environment, 130 interrupted.
Nothing heavy is imported here: every command imports its pipeline when it runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import raygseg
from raygseg.cli import config_verbs, data_verbs, house_verbs, model_verbs, projection_verbs, run_verbs, submit_verb
from raygseg.cli.console import show_error, show_unexpected
from raygseg.errors import RaygsegError

VERBOSE = "--verbose"
INTERRUPTED = 130  # what typer turns a KeyboardInterrupt into

app = typer.Typer(
    name="raygseg",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="[bold]First steps[/]:  raygseg doctor  ·  raygseg quickstart",
)
data_verbs.register(app)
run_verbs.register(app)
model_verbs.register(app)
projection_verbs.register(app)
submit_verb.register(app)
house_verbs.register(app)
config_verbs.register(app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"raygseg {raygseg.__version__}")
        raise typer.Exit


@app.callback()
def raygseg_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    verbose: Annotated[bool, typer.Option(VERBOSE, help="Show whole traces of errors; may stand anywhere.")] = False,
) -> None:
    """Part segmentation from ten labels.

    A pile of unlabelled pictures and a handful of labelled ones become a
    part segmenter: train a generative model, read labels out of it, generate
    labelled pairs, distil a small network. On one laptop or a Ray cluster.
    """


def user_error(error: BaseException) -> RaygsegError | None:
    """The RaygsegError in an error's chain of causes: Ray wraps what a worker raised in errors of its own."""
    seen: set[int] = set()
    pending: list[object] = [error]
    while pending:
        current = pending.pop(0)
        if isinstance(current, RaygsegError):
            return current
        if isinstance(current, BaseException) and id(current) not in seen:
            seen.add(id(current))
            failures = getattr(current, "worker_failures", None)
            pending += [current.__cause__, getattr(current, "cause", None), current.__context__]
            pending += list(failures.values()) if isinstance(failures, dict) else []
    return None


def _interruption(leaving: BaseException) -> str:
    """What the KeyboardInterrupt behind an exit had to say, e.g. how far the run came."""
    link: BaseException | None = leaving
    while link is not None:
        if isinstance(link, KeyboardInterrupt) and link.args:
            return f"interrupted: {link.args[0]}"
        link = link.__cause__ or link.__context__
    return "interrupted"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: sys.argv) and return its exit code; errors are printed, not raised."""
    words = list(sys.argv[1:] if argv is None else argv)
    verbose = VERBOSE in words
    words = [word for word in words if word != VERBOSE]
    try:
        app(args=words, prog_name="raygseg")
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        if code == INTERRUPTED:
            typer.echo(_interruption(leaving), err=True)
        return code
    except BrokenPipeError:
        # `| head` has gone: point stdout elsewhere, or the interpreter complains once more on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 - the last resort turns any error into a message and a code
        if verbose:
            import traceback

            traceback.print_exception(error)
        known = user_error(error)
        if known is None:
            show_unexpected(error)
            return 1
        show_error(known)
        return known.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
