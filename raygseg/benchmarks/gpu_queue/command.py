"""`python jobs/gpu_queue.py`: list, prepare, run, collect. What `run` imports exists beside plain torch."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raygseg.benchmarks.gpu_queue import records, wheels
from raygseg.benchmarks.gpu_queue.items import chosen
from raygseg.benchmarks.gpu_queue.records import RESULTS
from raygseg.errors import RaygsegError

TRAVELS, KEEP = ".gpu", "runs/gpu-queue"


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        code: int = options.verb(options)
    except RaygsegError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return code


def parser() -> argparse.ArgumentParser:
    """The words of the command line."""
    whole = argparse.ArgumentParser(prog="python jobs/gpu_queue.py", description=sys.modules[__package__].__doc__,
                                    formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    verbs = whole.add_subparsers(required=True, metavar="VERB")
    places = argparse.ArgumentParser(add_help=False)
    places.add_argument("--travels", type=Path, default=Path(TRAVELS), help="the folder that goes along (%(default)s)")
    places.add_argument("--keep", type=Path, default=Path(KEEP), help="what came back so far (%(default)s)")
    places.add_argument("--scale", choices=["full", "tiny"], default="full", help=argparse.SUPPRESS)

    listing = verbs.add_parser("list", parents=[places], help="the queue: items, minutes, needs, state")
    listing.set_defaults(verb=_list)

    prepare = verbs.add_parser("prepare", parents=[places], help="fill the folder that goes along")
    prepare.add_argument("item", nargs="*", help="only what these need; default: all that are not done")
    prepare.add_argument("--python", default=wheels.PYTHON, help="of the machine with the GPU (%(default)s)")
    prepare.set_defaults(verb=_prepare)

    run = verbs.add_parser("run", parents=[places], help="on the machine with the GPU: do the next items")
    run.add_argument("item", nargs="*", help="only these, also if they are done; default: all that are not")
    run.add_argument("--minutes", type=float, required=True, help="until when to be over and packed")
    run.add_argument("--output", type=Path, required=True, help="the folder from which files go back")
    run.add_argument("--work", type=Path, help="work in progress on this machine; default: below its /tmp")
    run.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto", help="default: cuda; cpu for tests")
    run.set_defaults(verb=_run)

    collect = verbs.add_parser("collect", parents=[places], help="check and file what came back")
    collect.add_argument("output", type=Path, metavar="DIR", help="the folder with what came back")
    collect.set_defaults(verb=_collect)
    return whole


def _list(options: argparse.Namespace) -> int:
    from raygseg.benchmarks.gpu_queue.lease import table

    known = records.read(options.keep / RESULTS) or records.read(options.travels / RESULTS)
    _print_table(table(known, options.travels))
    return 0


def _prepare(options: argparse.Namespace) -> int:
    from raygseg.benchmarks.gpu_queue.inputs import check_size, prepare

    items = chosen(options.item, records.done_items(records.read(options.keep / RESULTS)))
    notes = prepare(items, options.travels, options.keep, options.python)
    for note in notes:
        print(f"note: {note}")
    tree, folder = check_size(options.travels)
    print(f"{options.travels}: {folder / 2**20:.1f} MiB; the working tree: {tree / 2**20:.1f} MiB")
    names = " ".join(item.name for item in items)
    print(f"for: {names}\nThere, with the working tree and {options.travels} (ignored by git):")
    print("    python jobs/gpu_queue.py run --minutes 9 --output DIR", *options.item)
    print(f"Here, with what came back in DIR:\n    python jobs/gpu_queue.py collect DIR --keep {options.keep}")
    return 0


def _run(options: argparse.Namespace) -> int:
    start = time.monotonic()
    wheels.provide(options.travels / wheels.WHEELS)
    # Everything below needs what may only be importable now.
    import torch

    from raygseg.benchmarks.gpu_queue.chip import device_name
    from raygseg.benchmarks.gpu_queue.lease import ABOUT, RESERVE_SECONDS, Lease, default_work, run_items
    from raygseg.errors import MissingEnvironmentError

    device = "cuda" if options.device == "auto" else options.device
    if device == "cuda" and not torch.cuda.is_available():
        raise MissingEnvironmentError("no CUDA device here: the queue waits", "run it on a machine with a GPU")
    reserve = RESERVE_SECONDS if options.scale == "full" else 0.0
    facts = {"device": device_name(device), "torch": torch.__version__, "commit": _commit(options.travels / ABOUT)}
    lease = Lease(
        travels=options.travels,
        work=options.work or default_work(),
        output=options.output,
        device=device,
        scale=options.scale,
        deadline=start + 60 * options.minutes - reserve,
        facts=facts,
    )
    begun = run_items(lease, options.item)
    print(f"begun: {', '.join(begun) or 'nothing'}; {time.monotonic() - start:.0f} s")
    return 0


def _commit(about: Path) -> str:
    import json

    return str(json.loads(about.read_text()).get("commit", "")) if about.is_file() else ""


def _collect(options: argparse.Namespace) -> int:
    from raygseg.benchmarks.gpu_queue.collection import collect

    for note in collect(options.output, options.travels, options.keep, options.scale):
        print(note)
    return 0


def _print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        print("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip())
