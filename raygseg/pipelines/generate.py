"""Generate labelled pairs: a sampler bundle in, a pair set out, recorded in MLflow."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raygseg.bundle import CHECKSUMS, file_sha256
from raygseg.data.object_store import is_s3, local_path
from raygseg.data.shards import Manifest
from raygseg.errors import CheckpointError
from raygseg.interfaces import PairSampler

if TYPE_CHECKING:
    from raygseg.config.schema import GenerateConfig
    from raygseg.tracking.runs import TrackedRun

Progress = Callable[..., None]  # (stage, done, total, facts)


@dataclass(frozen=True)
class GenerateResult:
    """What lies at `output` now.

    Attributes:
        output: the pair set. num_pairs: rows in it. made: rows of this call.
        pairs_per_second: in the steady state of the run that completed the set.
        bytes: of all Parquet files.
        class_shares: share of each class among all mask pixels.
        mean_score: of all rows (higher is less certain).
        seconds: of this call. run_id: MLflow's, empty where its store did not answer.
    """

    output: str
    num_pairs: int
    made: int
    pairs_per_second: float
    bytes: int
    class_shares: dict[str, float]
    mean_score: float
    seconds: float
    run_id: str = ""


def generate(config: GenerateConfig, progress: Progress | None = None) -> GenerateResult:
    """Make `config.num_pairs` pairs at `config.output`, or what is missing of them.

    Run again after any interruption it goes on; see `data.shards` for the modes.

    Args:
        config: what to sample and where to put it.
        progress: called as (stage, pairs done, pairs in all, {"pairs/s": ...}) when shards are done.

    Raises:
        FingerprintError: the place holds pairs of another sampler or other settings.
        CheckpointError, RegistryError: the sampler cannot be loaded.
        StorageError: the place refuses; what is committed stays.
    """
    from raygseg.distributed import generation

    began = time.perf_counter()
    output, wanted, _ = planned_set(config)  # loaded once here, for its classes and resolution
    loader = _loader(config)
    run = _tracked(config, output, wanted)
    made = [0, 0]  # pairs there at the start, and now

    def tell(state: generation.Progress) -> None:
        made[1] = state.done
        if state.pairs_per_second == 0:
            made[0] = state.done
        else:
            run.log_metrics(state.done, {"pairs_per_second": state.pairs_per_second})
        if progress is not None:
            facts = {"pairs/s": state.pairs_per_second} if state.pairs_per_second else {}
            progress("generate", state.done, state.total, facts)

    runtime = config.runtime
    try:
        pool = generation.ActorPool.on(runtime.device, config.actors, runtime.threads, runtime.max_failures)
        manifest = generation.generate_pairs(loader, output, wanted, config.mode, pool, tell)
    except BaseException as error:
        run.finish("FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    result = _result(output, manifest, made[1] - made[0], time.perf_counter() - began, run.run_id)
    _record(run, result)
    return result


def load_checked_sampler(argument: str, device: str) -> PairSampler:
    """In an actor: the sampler of `_loader`'s argument, if it still is the one the driver saw.

    An alias may move while generation runs; rows of two models must not end in one set.
    """
    from raygseg.pipelines.kinds import load_sampler

    wanted = json.loads(argument)
    place, digest = _resolve(wanted["sampler"], wanted["tracking_uri"])
    if digest != wanted["digest"]:
        raise CheckpointError(
            f"{wanted['sampler']}: changed since generation began", "name a fixed version (models:/NAME/3), then rerun"
        )
    return load_sampler(place, device=device)


def _loader(config: GenerateConfig) -> Any:
    """What each actor is told: the address, and the digest of the bundle it must find there."""
    from raygseg.distributed.generation import SamplerLoader

    uri = config.sampler
    if "://" not in uri and not uri.startswith("models:/"):
        uri = str(Path(uri).absolute())  # actors may run elsewhere
    _, digest = _resolve(uri, config.runtime.tracking_uri)
    argument = {"sampler": uri, "tracking_uri": config.runtime.tracking_uri, "digest": digest}
    return SamplerLoader(__name__, load_checked_sampler.__name__, json.dumps(argument))


def _resolve(uri: str, tracking_uri: str) -> tuple[Path, str]:
    """A local folder of the bundle, and the digest of its checksums: of all its content."""
    from raygseg.tracking.retrieval import resolve

    folder = resolve(uri, tracking_uri)
    return folder, file_sha256(folder / CHECKSUMS)[:16]


def planned_set(config: GenerateConfig) -> tuple[str, Manifest, PairSampler]:
    """Where the pair set lies, its manifest before anything is made, and the sampler, on the CPU."""
    argument = _loader(config).argument
    sampler = load_checked_sampler(argument, "cpu")
    return _absolute(config.output), _wanted(config, argument, sampler), sampler


def _wanted(config: GenerateConfig, argument: str, sampler: PairSampler) -> Manifest:
    """The manifest of what is asked for."""
    settings = {
        "sampler": json.loads(argument)["digest"],
        "first_seed": config.first_seed,
        "batch_size": config.batch_size,
        "image_format": config.image_format,
    }
    return Manifest(settings, sampler.labels, sampler.resolution, (config.num_pairs,), config.rows_per_shard)


def _tracked(config: GenerateConfig, output: str, wanted: Manifest) -> TrackedRun:
    from raygseg.config.loader import fingerprint
    from raygseg.tracking.runs import TrackedRun

    return TrackedRun.find_or_create(
        config.runtime.tracking_uri,
        config.runtime.experiment,
        config.name,
        fingerprint(config),
        config.model_dump(mode="json"),
        {"raygseg.pairs": output, "raygseg.sampler": config.sampler},
        # As a URI, so that the tracking journal stays out of the pair set.
        run_dir=output if is_s3(output) else f"file://{output}",
        data={"sampler": (config.sampler, str(wanted.settings["sampler"]))},
    )


def _result(output: str, manifest: Manifest, made: int, seconds: float, run_id: str) -> GenerateResult:
    stats = manifest.stats
    assert stats is not None, "a complete manifest has statistics"
    pixels = max(sum(stats.class_pixels), 1)
    return GenerateResult(
        output=output,
        num_pairs=manifest.num_pairs,
        made=made,
        pairs_per_second=round(manifest.pairs_per_second, 2),
        bytes=stats.bytes,
        class_shares={n: c / pixels for n, c in zip(manifest.labels.names, stats.class_pixels, strict=True)},
        mean_score=stats.score_sum / max(stats.rows, 1),
        seconds=round(seconds, 2),
        run_id=run_id,
    )


def _record(run: TrackedRun, result: GenerateResult) -> None:
    """Totals as metrics, at the number of pairs; then the run is over."""
    shares = {f"share.{name}": share for name, share in result.class_shares.items()}
    totals = {"pairs": result.num_pairs, "bytes": result.bytes, "mean_score": result.mean_score}
    run.log_metrics(result.num_pairs, {**totals, "throughput": result.pairs_per_second, **shares})
    run.finish()


def _absolute(output: str) -> str:
    return output.rstrip("/") if is_s3(output) else str(local_path(output).absolute())
