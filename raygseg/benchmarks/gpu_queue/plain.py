"""What items that train several things in turn share: any run beside plain torch, and the data that came along."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

from raygseg.benchmarks.gpu_queue.items import VGG16
from raygseg.benchmarks.gpu_queue.lease import Lease
from raygseg.bundle import write_bundle
from raygseg.config.loader import fingerprint
from raygseg.config.sections import Run
from raygseg.engine.checkpoint import CheckpointFolder, read_checkpoint
from raygseg.engine.local import run_local
from raygseg.nn.backbones.catalogue import FILES
from raygseg.pipelines.trainables import make_bundle, make_training


class LeaseOverError(Exception):
    """The lease ends; what was begun goes on from its checkpoint if the machine is lent again."""


def train(config: Run, lease: Lease) -> Path:
    """Train in `config.runtime.output` from the newest checkpoint there; the bundle. No Ray, no tracking, no registry.

    Raises LeaseOverError with a checkpoint left behind.
    """
    folder, own = Path(config.runtime.output), fingerprint(config)
    training = make_training(config.model_dump(mode="json"), lease.device)
    stop: Callable[[], bool] = lambda: lease.remaining() <= 0  # noqa: E731
    if not run_local(training.recipe, training.stream, str(folder), config.runtime, [], own, stop):
        raise LeaseOverError
    state = read_checkpoint(newest(folder)).state["recipe"]
    return Path(write_bundle(folder / "bundle", make_bundle(config, state)))


def newest(folder: Path) -> str:
    """The newest checkpoint of a run; "" where there is none."""
    found = CheckpointFolder(str(folder)).names()
    return str(folder / sorted(found)[-1]) if found else ""


def data_folder(lease: Lease, archive: str) -> Path:
    """What `archive` holds, unpacked once on this machine, with the VGG-16 weights where RAYGSEG_DATA has them.

    RAYGSEG_DATA names it from now on, for this process.
    """
    place = lease.work / "data" / Path(archive).stem
    if not place.is_dir():
        partial = place.with_name(f".{place.name}.partial")
        with zipfile.ZipFile(lease.travels / archive) as file:
            file.extractall(partial)
        partial.replace(place)
    weights = place / "weights" / FILES["vgg16"]
    if (lease.travels / VGG16).is_file() and not weights.is_file():
        weights.parent.mkdir(exist_ok=True)
        weights.symlink_to((lease.travels / VGG16).absolute())
    os.environ["RAYGSEG_DATA"] = str(place)
    return place
