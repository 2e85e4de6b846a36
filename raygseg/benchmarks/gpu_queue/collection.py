"""File what came back from the machine with the GPU: records, grids, states, generators as bundles."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from raygseg.benchmarks.gpu_queue import parcels, records
from raygseg.benchmarks.gpu_queue.inputs import pack_state, refresh_records
from raygseg.benchmarks.gpu_queue.records import RESULTS, Record
from raygseg.benchmarks.gpu_queue.trained import STATE, settings
from raygseg.bundle import write_bundle
from raygseg.config.schema import GanConfig
from raygseg.engine.checkpoint import PREFIX, checkpoint_nimg, read_checkpoint
from raygseg.errors import DataError
from raygseg.pipelines.trainables import make_bundle

PICTURES = {
    "cars-128": "$RAYGSEG_DATA/cars/unlabelled",
    "toy-generator": "toy://default?count=5000&start=50000",
    "nuclei-generator": "'$RAYGSEG_DATA/nuclei?split=in_domain/train&contrast=stretch'",
}


def collect(output: Path, travels: Path, keep: Path, scale: str = "full") -> list[str]:
    """Put what lies in `output` into `keep`, and what the next run needs of it into `travels`; what to know or do.

    May be called again with the same or older files: nothing is taken twice, and no state goes back in time.

    Raises:
        DataError: nothing came back, or a part is missing, cut short or altered.
    """
    came = records.read(output / RESULTS)
    whole = (output / parcels.INDEX).is_file()
    if not came and not whole:
        raise DataError(f"{output}: neither {RESULTS} nor {parcels.INDEX}", "name the folder with what came back")
    fresh = records.unknown(came, records.read(keep / RESULTS))
    records.append(keep / RESULTS, fresh)
    notes = [f"{len(fresh)} new records in {keep / RESULTS}", *(_failed(record) for record in fresh if _bad(record))]
    if whole:
        with tempfile.TemporaryDirectory() as place:
            parcels.unpack(output, Path(place))
            for item in sorted(Path(place).iterdir()):
                notes += _file(item, keep / item.name, scale)
                pack_state(keep / item.name, travels / STATE / f"{item.name}.zip")
    else:
        notes.append("no files besides: the run was stopped before it packed any, or made none")
    refresh_records(travels, keep)
    return notes


def _bad(record: Record) -> bool:
    return "error" in record or record.get("passed") is False


def _failed(record: Record) -> str:
    said = str(record.get("error") or record.get("summary", "")).strip()
    return f"FAILED {record['item']} {record['key']}: {said.splitlines()[-1] if said else 'no reason given'}"


def _file(came: Path, keep: Path, scale: str) -> list[str]:
    """One item's files."""
    keep.mkdir(parents=True, exist_ok=True)
    notes = []
    grids = sorted(came.glob("*.png"))
    for grid in grids:
        shutil.copyfile(grid, keep / grid.name)
    if grids:
        notes.append(f"{len(grids)} grids, the newest {keep / grids[-1].name}")
    known = max((checkpoint_nimg(path.name) for path in keep.glob(f"{PREFIX}*")), default=-1)
    for checkpoint in sorted(came.glob(f"{PREFIX}*")):
        nimg = checkpoint_nimg(checkpoint.name)
        if nimg <= known:
            notes.append(f"{came.name}: the state at {nimg / 1000:g} kimg is not newer than {known / 1000:g}, left out")
            continue
        notes.append(_take(came.name, checkpoint, keep, scale))
    return notes


def _take(item: str, checkpoint: Path, keep: Path, scale: str) -> str:
    """A checkpoint in place of older ones, and its generator as a bundle beside those of before."""
    found = read_checkpoint(str(checkpoint))  # whole, or CheckpointError
    nimg = checkpoint_nimg(checkpoint.name)
    bundle = make_bundle(GanConfig.model_validate(settings(item, scale)), found.state["recipe"])
    place = write_bundle(keep / f"generator-{nimg:09d}", bundle)
    older = list(keep.glob(f"{PREFIX}*"))
    shutil.copytree(checkpoint, keep / checkpoint.name)
    for path in older:
        shutil.rmtree(path)
    pictures = PICTURES.get(item, "PICTURES")
    return f"{item} at {nimg / 1000:g} kimg: {place}\n    raygseg fidelity {place} {pictures}"
