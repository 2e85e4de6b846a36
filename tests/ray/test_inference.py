"""Segmenting with Ray actors: the same files and lines as in one process, whatever dies on the way."""

from __future__ import annotations

import csv
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from ray import cloudpickle

from raygseg.bundle import write_bundle
from raygseg.data.picture_jobs import list_pictures
from raygseg.distributed.inference import segment_with_actors
from raygseg.distributed.segment_worker import SegmentWorker
from raygseg.errors import CheckpointError, StorageError
from raygseg.interfaces import Picture, Segmentation
from raygseg.labels import LabelSpace
from raygseg.methods.student.segmenter import UNetSegmenter
from raygseg.nn.unet import UNet
from raygseg.pipelines.kinds import load_segmenter
from raygseg.pipelines.segment import segment

pytestmark = pytest.mark.usefixtures("ray_cluster")

LABELS = LabelSpace(("background", "body", "wheel"))
PICTURES, TORN = 70, ("p011.jpg", "p050.jpg")


@pytest.fixture(scope="module", autouse=True)
def carried_to_the_actors() -> Iterator[None]:
    """Actors cannot import this file: its classes travel with the task."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    net = UNet(3, num_classes=3, width=8, depth=2)
    net.classify.weight.data.mul_(10)  # so that every class is predicted somewhere, far from ties
    net.classify.bias.data.zero_()
    return write_bundle(tmp_path_factory.mktemp("model") / "unet", UNetSegmenter(net, LABELS, 16).to_bundle())


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i in range(PICTURES):
        rng = np.random.default_rng(i)
        small = rng.integers(0, 256, (4, 5, 3)).astype(np.uint8)
        Image.fromarray(small).resize((20 + i, 30), Image.Resampling.BICUBIC).save(folder / f"p{i:03d}.jpg")
    for name in TORN:
        (folder / name).write_bytes((folder / name).read_bytes()[:200])
    return folder


def lines(output: Path) -> list[dict[str, str]]:
    with (output / "segments.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def files(output: Path) -> dict[str, bytes]:
    return {str(p.relative_to(output)): p.read_bytes() for p in output.rglob("*") if p.suffix in (".png", ".jpg")}


def test_actors_write_the_files_and_lines_of_one_process(bundle: Path, photos: Path, tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    segment(str(bundle), str(photos), str(alone), device="cpu")
    result = segment(str(bundle), str(photos), str(together), device="cpu", actors=2)
    assert (result.segmented, result.skipped) == (PICTURES - 2, 2)
    assert files(together) == files(alone) and len(files(alone)) == 2 * (PICTURES - 2)
    assert lines(together) == lines(alone)
    assert {row["file"] for row in lines(together) if row["status"] == "skipped"} == set(TORN)
    shares = [{name: float(row[f"share {name}"]) for name in LABELS.names} for row in lines(alone) if row["mask"]]
    assert all(max(s[name] for s in shares) > 0.05 for name in LABELS.names), "the net must tell pictures apart"
    again = segment(str(bundle), str(photos), str(together), device="cpu")  # so few are done in this process
    assert (again.done_before, again.segmented, again.skipped) == (PICTURES - 2, 0, 2)


@dataclass
class DyingSegmenter:
    """Kills its own process once, in the middle of a job; `marker` says that it did."""

    inner: UNetSegmenter
    marker: str
    seen: int = 0

    @property
    def labels(self) -> LabelSpace:
        return self.inner.labels

    def predict(self, pictures: Sequence[Picture]) -> list[Segmentation]:
        self.seen += len(pictures)
        if self.seen > 8 and not os.path.exists(self.marker):
            Path(self.marker).write_text("died")
            os.kill(os.getpid(), signal.SIGKILL)
        return self.inner.predict(pictures)


@dataclass(frozen=True)
class DyingLoader:
    bundle: str
    output: str
    marker: str

    def __call__(self) -> SegmentWorker:
        inner = load_segmenter(self.bundle, device="cpu")
        return SegmentWorker(DyingSegmenter(inner, self.marker), self.output, False, 4)  # type: ignore[arg-type]


def test_a_killed_actor_leaves_no_hole_and_no_double(bundle: Path, photos: Path, tmp_path: Path) -> None:
    marker = tmp_path / "died"
    jobs = list(list_pictures(str(photos)).jobs())
    rows = list(segment_with_actors(jobs, DyingLoader(str(bundle), str(tmp_path / "out"), str(marker)), actors=2))
    assert marker.exists()
    assert [row.name for row in rows] == [f"p{i:03d}.jpg" for i in range(PICTURES)]
    segment(str(bundle), str(photos), str(tmp_path / "alone"), overlays=False, device="cpu")
    assert files(tmp_path / "out") == files(tmp_path / "alone")


def test_an_actors_error_arrives_as_itself(bundle: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "masks").write_text("in the way")
    with pytest.raises(StorageError, match="masks") as caught:
        segment(str(bundle), str(photos), str(tmp_path / "out"), device="cpu", overlays=False, actors=1)
    assert caught.value.hint


@dataclass(frozen=True)
class FailingLoader:
    def __call__(self) -> SegmentWorker:
        raise CheckpointError("the bundle changed", "run again")


def test_a_model_that_does_not_load_in_the_actor(photos: Path) -> None:
    with pytest.raises(CheckpointError, match="the bundle changed"):
        list(segment_with_actors(list(list_pictures(str(photos)).jobs()), FailingLoader(), actors=1))
