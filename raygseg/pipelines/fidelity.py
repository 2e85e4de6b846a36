"""How close a generator's pictures are to real ones: FID, KID, precision and recall.

Of a finished generator, of one checkpoint, or of every checkpoint of a run, which gives the curve that
losses cannot give. Figures are appended to fidelity.jsonl, so the same command again does only what is missing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from raygseg.data import object_store
from raygseg.data.sources import data_fingerprint, open_pictures
from raygseg.engine.checkpoint import CheckpointFolder, checkpoint_nimg
from raygseg.errors import DataError
from raygseg.metrics import distributions
from raygseg.metrics.distributions import FeatureStatistics
from raygseg.nn.backbones.pooled import SHOWN, side_for, weights_file
from raygseg.pipelines import kinds, run_folder
from raygseg.pipelines.feature_statistics import FakePictures, Look, RealPictures, read_statistics, statistics_of
from raygseg.pipelines.figure_file import oldest_first, read_figures, write_figures

Progress = Callable[[str, float, float, Mapping[str, float]], None]  # (stage, done, total, facts)
RECORD = "fidelity.jsonl"


class _Measured(NamedTuple):
    """What two figures must share to be compared."""

    metric: str
    fakes: int
    reals: int
    side: int
    precision_of_features: str
    truncation_psi: float
    reals_fingerprint: str


@dataclass(frozen=True)
class Fidelity:
    """The figures of one generator.

    Attributes:
        generator: bundle or checkpoint. nimg: pictures it was trained on; -1: not known.
        fid, kid, kid_error, precision, recall: see `metrics.distributions`.
        metric: FID-VGG16 and the like: which features.
        fakes, reals: pictures compared. side: px at which the network saw them.
        precision_of_features: fp32 or bf16 convolutions.
        truncation_psi: under which the fakes were made.
        reals_fingerprint: of the real pictures.
    """

    generator: str
    nimg: int
    fid: float
    kid: float
    kid_error: float
    precision: float
    recall: float
    metric: str
    fakes: int
    reals: int
    side: int
    precision_of_features: str
    truncation_psi: float
    reals_fingerprint: str

    def figures(self) -> dict[str, float]:
        """For curves, by name."""
        name = self.metric.lower().replace("-", "_")
        return {name: self.fid, "kid": self.kid, "precision": self.precision, "recall": self.recall}

    def measured(self) -> _Measured:
        return _Measured(*(getattr(self, name) for name in _Measured._fields))

    def key(self) -> tuple[object, ...]:
        """Two records with the same key are the same measurement."""
        return self.generator, self.nimg, *self.measured()


def fidelity(
    generator: str,
    pictures: str,
    output: str = "",
    *,
    count: int = 5000,
    network: str = "vgg16",
    weights: str = "",
    truncation_psi: float = 1.0,
    limit: int = 0,
    precision: Literal["fp32", "bf16"] = "fp32",
    actors: int = 0,
    device: str = "auto",
    here: bool = False,
    keep_reals: bool = False,
    progress: Progress | None = None,
) -> list[Fidelity]:
    """Compare `count` generated pictures with all of `pictures`; one record a generator, oldest first.

    Args:
        generator: bundle (folder, s3://, models:/NAME@alias), checkpoint, or a run's folder: all its checkpoints.
        pictures: folder, Parquet, s3:// or toy:// of real pictures, resized as for training; not mirrored.
        output: folder or s3:// prefix of fidelity.jsonl; empty: the run's folder, else nothing is written.
        network, weights: whose features, and the file of its weights (else from RAYGSEG_DATA).
        limit: use only the first so many real pictures; 0: all.
        precision: of the network's convolutions. bf16 is quicker and moves the figures a little.
        actors: Ray actors; 0: none for few pictures, else as many as fit into the cluster.
        here: without actors, in this process. keep_reals: leave what is known of the real pictures in `output`,
            and find it there (some 20 MB).

    Raises:
        DataError: no pictures, or a run without a checkpoint. MissingEnvironmentError: no weights.
    """
    look = Look(weights_file(network, weights), 0, precision, device)
    found = checkpoints_at(generator)
    of_run = is_run(generator)
    output = output or (generator if of_run else "")
    known = read_figures(Fidelity, output, RECORD)
    resolution = kinds.load_generator(found[0][1]).resolution
    look = dataclasses.replace(look, side=side_for(resolution))
    reals = open_pictures(pictures, resolution, limit=limit)
    measured = _Measured(
        f"FID-{SHOWN[network]}", count, len(reals), look.side, precision, truncation_psi, data_fingerprint(reals)
    )
    real: FeatureStatistics | None = None
    results: list[Fidelity] = []
    for i, (nimg, place) in enumerate(found):
        before = known.get((place, nimg, *measured))
        if before is not None:
            results.append(before)
            continue
        if real is None:
            make = RealPictures(look, pictures, resolution, limit)
            kept = object_store.join(output, _reals_file(measured)) if keep_reals and output else ""
            bar = _bar(progress, "real pictures", 0, 1)
            real = read_statistics(kept) or statistics_of(make, len(reals), -1 if here else actors, bar, kept)
        fakes = FakePictures(look, place, truncation_psi)
        bar = _bar(progress, "generated pictures", i, len(found))
        fake = statistics_of(fakes, count, -1 if here else actors, bar)
        results.append(Fidelity(place, nimg, **_figures(real, fake), **measured._asdict()))
        if output:
            write_figures([*known.values(), *results], output, RECORD)
    if of_run:
        _track(generator, results)
    return results


def _reals_file(measured: _Measured) -> str:
    """Named after all that decides it."""
    network = measured.metric.lower().removeprefix("fid-")
    way = f"{network}-{measured.side}-{measured.precision_of_features}"
    return f"reals-{way}-{measured.reals_fingerprint[:16]}.npz"


def _figures(real: FeatureStatistics, fake: FeatureStatistics) -> dict[str, Any]:
    kid = distributions.kernel_distance(real.kept, fake.kept)
    covered = distributions.precision_recall(real.kept, fake.kept)
    return {
        "fid": distributions.frechet_distance(real, fake),
        "kid": kid.value,
        "kid_error": kid.error,
        "precision": covered.precision,
        "recall": covered.recall,
    }


# --- which generators, and what is known ----------------------------------------------------------


def checkpoints_at(place: str) -> list[tuple[int, str]]:
    """(nimg, place) of a trained thing, or of the checkpoints of a run's folder, oldest first.

    Raises DataError for a run without a checkpoint.
    """
    place = place.rstrip("/")
    if kinds.is_checkpoint(place):
        return [(checkpoint_nimg(place.rsplit("/", 1)[-1]), place)]
    if is_run(place):
        names = sorted(CheckpointFolder(place).names())
        if not names:
            raise DataError(f"{place}: a run without a checkpoint", "train on, or name a bundle")
        return [(checkpoint_nimg(name), object_store.join(place, name)) for name in names]
    return [(-1, place)]


def is_run(place: str) -> bool:
    """Whether `place` is the folder of a training run."""
    if place.startswith("models:/") or kinds.is_checkpoint(place):
        return False
    return object_store.exists(object_store.join(place.rstrip("/"), run_folder.RECORD))


def records(folder: str) -> list[Fidelity]:
    """What was measured in `folder` before, oldest generator first."""
    return oldest_first(read_figures(Fidelity, folder, RECORD).values())


def curve(folder: str) -> list[Fidelity]:
    """The checkpoints measured in `folder` in one and the same way: in the way most of them were."""
    ways: dict[_Measured, list[Fidelity]] = {}
    for record in records(folder):
        if record.nimg >= 0:
            ways.setdefault(record.measured(), []).append(record)
    return max(ways.values(), key=len, default=[])


def _track(folder: str, results: list[Fidelity]) -> None:
    log_measured(folder, {result.nimg: result.figures() for result in results})


def log_measured(folder: str, measured: Mapping[int, Mapping[str, float]]) -> None:
    """Figures by pictures seen into the experiment store's record of the training run in `folder`."""
    from raygseg.tracking.hooks import TrackingHook

    local = folder if object_store.is_s3(folder) else str(object_store.local_path(folder).absolute())
    hook = TrackingHook(run_folder.tracking_settings(run_folder.config_of(folder), local))
    for nimg, figures in measured.items():
        hook.run.log_metrics(nimg, figures)
    hook.release()


def _bar(progress: Progress | None, stage: str, done_before: int, parts: int) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda done, total: progress(stage, done_before * total + done, parts * total, {})


def table(results: list[Fidelity]) -> list[dict[str, Any]]:
    """Rows for a person."""
    return [
        {
            "kimg": round(r.nimg / 1000, 1) if r.nimg >= 0 else "-",
            r.metric: round(r.fid, 2),
            "KID x 1000": f"{1000 * r.kid:.2f} +- {1000 * r.kid_error:.2f}",
            "precision": round(r.precision, 3),
            "recall": round(r.recall, 3),
            "generator": Path(r.generator).name,
        }
        for r in results
    ]
