"""Items cars-128, toy-generator and nuclei-generator: generators trained over as many leases as it takes.

work/ITEM/checkpoint-NIMG           as `engine.local` leaves them; the newest also comes in .gpu/state/ITEM.zip
work/return/ITEM/checkpoint-NIMG    goes back, with Adam's first moments written as zeros: they pack to nothing
work/return/ITEM/grid-NIMG.png      64 pictures of the running mean, the same seeds each time
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from raygseg.benchmarks.gpu_queue.items import CARS_ZIP, NUCLEI_ZIP
from raygseg.benchmarks.gpu_queue.lease import Lease
from raygseg.benchmarks.gpu_queue.resident import ResidentStream, toy_array
from raygseg.benchmarks.support.peers import REPOSITORY
from raygseg.config.schema import GanConfig
from raygseg.data.sources import data_fingerprint, open_pictures
from raygseg.engine.checkpoint import PREFIX, CheckpointFolder, checkpoint_nimg, write_checkpoint
from raygseg.engine.local import run_local
from raygseg.engine.loop import Clock, Hooks
from raygseg.errors import ConfigError
from raygseg.interfaces import Stream
from raygseg.methods.stylegan2.training import StyleGAN2Recipe, build_recipe
from raygseg.viz.grids import picture_grid, pictures_from_signed, png_bytes

Values = dict[str, Any]
GRID_SEEDS = range(64)
STATE = "state"  # .gpu/state/ITEM.zip

# Widths such that the state, without Adam's first moments, is 28 MiB: it travels both ways beside the pictures.
CARS: Values = {
    "name": "cars-128",
    "data": {"source": "cars", "resolution": 128},
    "schedule": {"total_kimg": 5000, "batch_size": 32},
    "generator": {"z_dim": 128, "w_dim": 128, "mapping_layers": 4, "channel_base": 4096, "channel_max": 128},
    "loss": {"r1_gamma": 0.1},
    "augment": {"mode": "ada"},
    "optimiser": {"lr_generator": 0.0025, "lr_discriminator": 0.0025, "precision": "bf16"},
    "runtime": {"tick_kimg": 10, "checkpoint_kimg": 50, "keep_checkpoints": 1},
}
# What differs from configs/toy/gan.yaml: larger steps, for a chip that small ones leave idle, and more of them.
TOY: Values = {"schedule": {"total_kimg": 2000, "batch_size": 64, "micro_batch": 64}, "runtime": CARS["runtime"]}
NUCLEI: Values = {
    "data": {"source": "nuclei?split=in_domain/train&contrast=stretch"},
    "schedule": {"total_kimg": 500, "batch_size": 32, "micro_batch": 32},
    "runtime": CARS["runtime"],
}
TINY: Values = {
    "schedule": {"total_kimg": 0.064, "batch_size": 8, "micro_batch": 8},
    "generator": {"z_dim": 16, "w_dim": 16, "mapping_layers": 2, "channel_base": 64, "channel_max": 8},
    "runtime": {"tick_kimg": 0.016, "checkpoint_kimg": 0.016, "keep_checkpoints": 1},
}
TINY_STEPS = 4  # of its eight, a call


def run(lease: Lease, item: str) -> bool:
    """Train on from the newest state until it is complete or the time is over; True if it is complete."""
    values = settings(item, lease.scale)
    config = GanConfig.model_validate(values)
    folder = lease.work / item
    take_state(lease.travels / STATE / f"{item}.zip", folder)
    recipe = build_recipe(config, lease.device)
    stream = data_stream(item, lease, config)
    hooks = Progress(lease, item, recipe)
    complete = run_local(recipe, stream, str(folder), config.runtime, [hooks], own_print(values), hooks.stop)
    send_state(folder, lease.returned(item), own_print(values))
    return complete


def settings(item: str, scale: str = "full") -> Values:
    """The configuration of an item, as plain values."""
    if item == "cars-128":
        values = copy.deepcopy(CARS)
    elif item == "toy-generator":
        values = _over(yaml.safe_load((REPOSITORY / "configs/toy/gan.yaml").read_text()), TOY)
    elif item == "nuclei-generator":
        values = _over(yaml.safe_load((REPOSITORY / "configs/joint-gan/nuclei-pictures.yaml").read_text()), NUCLEI)
    else:
        raise ConfigError(f"'{item}' is not an item that trains", "see `list`")
    if scale == "tiny":
        values = _over(values, TINY)
        values["data"] = {**values["data"], "resolution": 8}
        if item == "toy-generator":
            values["data"]["source"] = "toy://default?count=32&seed=0"
    return values


def _over(values: Values, changes: Values) -> Values:
    merged = dict(values)
    for key, change in changes.items():
        merged[key] = _over(merged.get(key, {}), change) if isinstance(change, dict) else change
    return merged


def own_print(values: Values) -> str:
    """Of what the item states itself. The configuration's own changes with every new key of the schema."""
    stated = {key: value for key, value in values.items() if key != "runtime"}
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()


def data_stream(item: str, lease: Lease, config: GanConfig) -> Stream:
    data = config.data
    if item == "toy-generator":
        array = _kept(lease.work / "toy.npy", lambda: toy_array(data.source, data.resolution))
        return ResidentStream(open_pictures(data.source, data.resolution), array, config.seed, data.flip, lease.device)
    with tempfile.TemporaryDirectory() as place:
        cars = item == "cars-128"
        with zipfile.ZipFile(lease.travels / (CARS_ZIP if cars else NUCLEI_ZIP)) as archive:
            archive.extractall(place)
            made_as = archive.comment.decode()
        source = place if cars else f"{place}/{data.source}"
        pictures = open_pictures(source, data.resolution, data.max_bad_fraction)
        if not lease.has(item, "pictures"):
            facts = {"count": len(pictures), "fingerprint": data_fingerprint(pictures), "made_as": made_as}
            lease.record(item, "pictures", facts)
        return ResidentStream(pictures, pictures.as_array(), config.seed, data.flip, lease.device)


def _kept(path: Path, make: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Made once on this machine."""
    if path.is_file():
        kept: NDArray[np.uint8] = np.load(path, allow_pickle=False)
        return kept
    array = make()
    temporary = path.with_name("making-" + path.name)
    np.save(temporary, array, allow_pickle=False)
    temporary.replace(path)
    return array


class Progress(Hooks):
    """Figures at every tick and a grid at every checkpoint; asks to stop when the time is over."""

    def __init__(self, lease: Lease, item: str, recipe: StyleGAN2Recipe) -> None:
        self.lease, self.item, self.recipe = lease, item, recipe
        self._steps = 0

    def stop(self) -> bool:
        """Asked before every step; True ends the run after it."""
        self._steps += 1
        if self.lease.scale == "tiny" and self._steps >= TINY_STEPS:
            return True
        return self.lease.remaining() <= 0

    def on_tick(self, clock: Clock, metrics: Mapping[str, float]) -> None:
        figures = {name: float(f"{value:.5g}") for name, value in metrics.items()}
        images = 1000 / metrics["s_per_kimg"] if metrics.get("s_per_kimg") else 0.0
        if self.lease.device == "cuda":
            figures["peak_mib"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
        self.lease.record(
            self.item, f"kimg {clock.kimg:g}", {"nimg": clock.nimg, "images_per_second": round(images, 1), **figures}
        )

    def on_checkpoint(self, clock: Clock, state: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        content = png_bytes(picture_grid(render(self.recipe.average)))
        (self.lease.returned(self.item) / f"grid-{clock.nimg:09d}.png").write_bytes(content)


@torch.no_grad()
def render(generator: Any) -> NDArray[np.uint8]:
    """uint8 [64, R, R, 3]."""
    images = generator.render(generator.latents(GRID_SEEDS), GRID_SEEDS).images
    return pictures_from_signed(images.float().cpu())


# --- the state on its way --------------------------------------------------------------------------


def take_state(archive: Path, folder: Path) -> None:
    """Unpack the state that came along, unless one that is newer lies here already."""
    if not archive.is_file():
        return
    with zipfile.ZipFile(archive) as file:
        names = {name.split("/")[0] for name in file.namelist()}
        came = max((checkpoint_nimg(name) for name in names if name.startswith(PREFIX)), default=-1)
        here = max((checkpoint_nimg(name) for name in CheckpointFolder(str(folder)).names()), default=-1)
        if came > here:
            file.extractall(folder)


def send_state(folder: Path, target: Path, fingerprint: str) -> None:
    """Put the newest checkpoint where it is packed, in place of an older one."""
    found = CheckpointFolder(str(folder), fingerprint=fingerprint).latest()
    if found is None:
        return
    for old in target.glob(f"{PREFIX}*"):
        shutil.rmtree(old)
    facts = {key: found.facts[key] for key in ("nimg", "fingerprint", "metrics")}
    place = target / Path(found.uri).name
    write_checkpoint(str(place), without_first_moments(found.state), facts)


def without_first_moments(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state with zeros for Adam's running mean of gradients.

    With beta1 = 0, which all our GAN optimisers have, the mean is the last gradient and is overwritten
    before it is read: the steps to come are the same, bit for bit.
    """
    optimisers = {}
    for name, optimiser in state["recipe"]["optimisers"].items():
        assert all(group["betas"][0] == 0 for group in optimiser["param_groups"]), name
        moments = {
            number: {**entry, "exp_avg": torch.zeros_like(entry["exp_avg"])}
            for number, entry in optimiser["state"].items()
        }
        optimisers[name] = {**optimiser, "state": moments}
    return {**state, "recipe": {**state["recipe"], "optimisers": optimisers}}
