"""`raygseg project`: photos into a generator's codes, with reconstructions to look at and a gate.

OUTPUT/projection.json   everything that was found, a picture a row; network and plan by name
OUTPUT/projections.png   each photo above the generator's picture of it; refused ones framed in red
OUTPUT/refused.txt       the photos that the gate refused
OUTPUT/gate.json, gate/  the gate, and the generator's own pictures projected for it
OUTPUT/samples/          what was accepted: codes, pictures, and masks where there were any (`train head` reads it)
OUTPUT/generator/        the generator in the photos' frame, where it had to be framed
OUTPUT/segmenter/        where the generator came with a head: a segmenter by projection
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raygseg.bundle import Bundle, write_bundle
from raygseg.errors import ConfigError
from raygseg.interfaces import Generator
from raygseg.labels import LabelSpace
from raygseg.methods.stylegan2.mobile import MobileGenerator, load_mobile_generator
from raygseg.nn.framing import FULL
from raygseg.nn.latent_encoder import EncoderPlan, kept_encoder
from raygseg.nn.projection import PerceptualDistance, Projection, ProjectionPlan, reconstruct
from raygseg.nn.projection_gate import FIRST_SEED, QUANTILE, Gate, calibrated, own_pictures
from raygseg.nn.template_alignment import Template, template_of
from raygseg.pipelines import kinds
from raygseg.pipelines.feature_nets import FeatureNet, Precision, open_features
from raygseg.pipelines.project import AlignedPhotos, write_projected_samples
from raygseg.pipelines.projection_photos import Photos, is_labelled, read_by_template, read_faces, read_photos
from raygseg.pipelines.projection_store import BATCH, Progress, Start, network_hash, project_pictures
from raygseg.tracking.cards import model_card
from raygseg.viz.grids import png_bytes
from raygseg.viz.reconstructions import side_by_side

ALIGNMENTS = ("auto", "faces", "template", "none")
RECORD, GRID, REFUSED, GATE = "projection.json", "projections.png", "refused.txt", "gate.json"
FACE_PIXELS = 128


@dataclass(frozen=True)
class ProjectSettings:
    """How `run_projection` projects.

    Attributes:
        plan: see `ProjectionPlan`.
        features, weights: see `feature_nets.open_features`.
        start: mean; or the file of an encoder, which is trained and written there where it is missing.
        gate_samples: pictures of the generator that the gate is calibrated on; 0: no gate.
        statistic, quantile, slack: see `projection_gate.calibrated`.
        align: faces (by labelled eyes and mouth), template (by what the generator's pictures have in common, without
            labels), none (squashed), or auto: for the face generator faces where there are labels, else template.
        eyes, mouth: names of those classes.
        resolution: px, of the face generator's picture; 0: 128. Others have theirs.
        batch_size: pictures a forward pass. limit: only the first photos; 0: all.
        store: folder of kept projections, which several outputs may share; empty: within the output.
    """

    plan: ProjectionPlan = field(default_factory=ProjectionPlan)
    features: str = "auto"
    weights: str = ""
    start: str = "mean"
    gate_samples: int = 32
    statistic: str = "distance"
    quantile: float = QUANTILE
    slack: float = 1.0
    align: str = "auto"
    eyes: str = "eyes"
    mouth: str = "mouth"
    resolution: int = 0
    batch_size: int = BATCH
    limit: int = 0
    store: str = ""


@dataclass(frozen=True)
class ProjectResult:
    """What `run_projection` did.

    Attributes:
        features: whose distance. threshold: of the gate; NaN without one.
        pictures: projected. accepted, refused: of these. skipped: could not be used. listed: the refused and the
            skipped, `name: reason`.
        distance: mean over the accepted. files: what was written, by purpose.
    """

    features: str
    pictures: int
    accepted: int
    refused: int
    skipped: int
    distance: float
    threshold: float
    listed: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)


def run_projection(
    generator: str, photos: str, output: str | Path, settings: ProjectSettings = ProjectSettings(),
    progress: Progress | None = None,
) -> ProjectResult:  # fmt: skip
    """Project `photos` into `generator` and write what the module's text lists. The same call goes on.

    Args:
        generator: bundle or checkpoint of a generator, a sampler's bundle (generator with head), or the published
            face generator's weights file.
        photos: see `data.sources`; with masks/ they become labelled samples.
        output: folder on disk.

    Raises:
        DataError: no usable photo. FingerprintError: the folder holds projections under other settings.
        MissingEnvironmentError: no feature network.
    """
    place = Path(output)
    place.mkdir(parents=True, exist_ok=True)
    made, sampler = _opened(generator, settings)
    precision: Precision = getattr(made, "precision", "fp32")  # as the generator's own
    net = open_features(settings.features, generator, made.resolution, settings.weights, precision)
    by_labels = _by_labels(made, generator, photos, settings)
    # Photos that are aligned by their labels need none, but the segmenter will, whose pictures have no labels.
    template = None if by_labels and sampler is None else _template(made, net, settings)
    shown = _photos(photos, made, generator, net, template, by_labels, settings)
    if shown.framing is not None and isinstance(made, MobileGenerator) and made.framing != shown.framing:
        made = made.framed(shown.framing)
        write_bundle(place / "generator", made.to_bundle())
    distance, start = net.distance(), _start(made, settings, progress)
    gate = _gate(made, distance, place, settings, start, progress)
    found = _projected(made, distance, shown.images, shown.valid, place, settings, start, progress)
    accepted = [True] * len(found) if gate is None else gate.judge(found)
    result = _written(place, generator, photos, shown, made, found, gate, accepted, net.name, settings)
    if sampler is not None:
        result.files["segmenter"] = str(_segmenter(place, sampler, made, net, template, settings, gate))
    return result


# --- what goes in ---------------------------------------------------------------------------------


def _opened(generator: str, settings: ProjectSettings) -> tuple[Generator, Bundle | None]:
    """The generator, and the sampler's bundle where it came with a head."""
    if generator.endswith(".safetensors"):
        return load_mobile_generator(generator, settings.resolution or FACE_PIXELS, FULL, "bf16"), None
    bundle = kinds.open_bundle(generator, "")
    if bundle.kind == "sampler":
        sampler = kinds.sampler_from(bundle)
        return sampler.generator, bundle  # type: ignore[attr-defined]
    return kinds.generator_from(bundle), None


def _by_labels(generator: Generator, place: str, source: str, settings: ProjectSettings) -> bool:
    """Whether photos are aligned by labelled eyes and mouth. ConfigError where that cannot be."""
    if settings.align not in ALIGNMENTS:
        raise ConfigError(f"align '{settings.align}' is not known", f"use one of {', '.join(ALIGNMENTS)}")
    is_face = isinstance(generator, MobileGenerator)
    if settings.align == "faces" and not is_face:
        raise ConfigError(f"{place} cannot be framed, so faces cannot be aligned to it", "use --align none")
    return settings.align == "faces" or (settings.align == "auto" and is_face and is_labelled(source))


def _template(generator: Generator, net: FeatureNet, settings: ProjectSettings) -> Template | None:
    """What photos are aligned by without labels; None where they are taken as they are."""
    if settings.align == "none" or (settings.align == "auto" and not isinstance(generator, MobileGenerator)):
        return None
    whole = generator.framed(FULL) if isinstance(generator, MobileGenerator) else generator
    return template_of(whole, net.network)


def _photos(
    source: str, generator: Generator, place: str, net: FeatureNet, template: Template | None, by_labels: bool,
    settings: ProjectSettings,
) -> Photos:  # fmt: skip
    side, limit = generator.resolution, settings.limit
    # A bundle has its frame already; the published weights get the photos'. Other generators show their whole frame.
    own = generator.framing if isinstance(generator, MobileGenerator) else FULL
    framing = None if place.endswith(".safetensors") else own
    if by_labels:
        return read_faces(source, side, limit, framing, settings.eyes, settings.mouth)
    if template is None:
        return read_photos(source, side, limit)
    return read_by_template(source, side, template, net.network, limit, framing)


def _start(generator: Generator, settings: ProjectSettings, progress: Progress | None) -> Start | None:
    if settings.start == "mean":
        return None
    return kept_encoder(settings.start, generator, network_hash(generator), EncoderPlan(), progress)


# --- gate and projection --------------------------------------------------------------------------


def _projected(
    generator: Generator, distance: PerceptualDistance, images: torch.Tensor, valid: torch.Tensor, place: Path,
    settings: ProjectSettings, start: Start | None, progress: Progress | None, stage: str = "project",
) -> Projection:  # fmt: skip
    return project_pictures(
        generator, distance, images, valid, settings.store or place, settings.plan, batch=settings.batch_size,
        start=start, start_name=settings.start, progress=progress, stage=stage,
    )  # fmt: skip


def _gate(
    generator: Generator, distance: PerceptualDistance, place: Path, settings: ProjectSettings,
    start: Start | None, progress: Progress | None,
) -> Gate | None:  # fmt: skip
    """Calibrated on the generator's own pictures, which are projected once and kept."""
    if not settings.gate_samples:
        return None
    images = own_pictures(generator, range(FIRST_SEED, FIRST_SEED + settings.gate_samples))
    valid = torch.ones_like(images[:, :1])
    found = _projected(generator, distance, images, valid, place / "gate", settings, start, progress, "gate")
    way = settings.statistic, settings.quantile, settings.slack
    gate = calibrated(found, settings.plan, distance.name, *way)
    (place / GATE).write_text(json.dumps(gate.to_dict(), indent=1) + "\n")
    return gate


# --- what comes out -------------------------------------------------------------------------------


def _written(
    place: Path, generator: str, source: str, photos: Photos, made: Generator, found: Projection,
    gate: Gate | None, accepted: list[bool], features: str, settings: ProjectSettings,
) -> ProjectResult:  # fmt: skip
    """Record, grid, refused list and samples."""
    pictures = reconstruct(made, found.ws, settings.batch_size, found.noise)
    rows = _rows(photos, found, gate, accepted)
    refused = [f"{row['name']}: {gate.statistic} {row[gate.statistic]:.4f} > {gate.threshold:.4f}"
               for row in rows if gate is not None and not row["accepted"]]  # fmt: skip
    record = {
        "generator": generator, "photos": source, "features": features, "start": settings.start,
        "plan": asdict(settings.plan), "gate": None if gate is None else gate.to_dict(),
        "accepted": sum(accepted), "refused": len(refused), "coverage": sum(accepted) / max(1, len(accepted)),
        "pictures": rows, "skipped": [{"name": n, "reason": r} for n, r in photos.skipped],
    }  # fmt: skip
    (place / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    (place / REFUSED).write_text("".join(f"{line}\n" for line in refused))
    caption = f"distance by {features}" + (f", gate: {gate.statistic} up to {gate.threshold:.4f}" if gate else "")
    (place / GRID).write_bytes(png_bytes(side_by_side(photos.images, pictures, accepted, caption)))
    good = [i for i, fine in enumerate(accepted) if fine]
    if good:
        _samples(place / "samples", photos.rows(good), found.rows(good), pictures[good], features)
    listed = refused + [f"{name}: {reason}" for name, reason in photos.skipped]
    files = {
        "record": str(place / RECORD),
        "grid": str(place / GRID),
        "samples": str(place / "samples") if good else "",
    }
    mean = float(found.distances[good].mean()) if good else float("nan")
    threshold = float("nan") if gate is None else gate.threshold
    return ProjectResult(
        features, len(found), len(good), len(refused), len(photos.skipped), mean, threshold, listed, files
    )


def _rows(photos: Photos, found: Projection, gate: Gate | None, accepted: list[bool]) -> list[dict[str, Any]]:
    """A JSON row a picture."""
    values = [None] * len(found) if gate is None else gate.values(found).tolist()
    rows = []
    for i, name in enumerate(photos.names):
        row = {
            "name": name,
            "accepted": accepted[i],
            "distance": round(float(found.distances[i]), 5),
            "squared_error": round(float(found.squared_errors[i]), 6),
            "anchor": round(float(found.anchors[i]), 5),
            "start_distance": round(float(found.start_distances[i]), 5),
        }
        rows.append(row if gate is None else {**row, gate.statistic: values[i]})
    return rows


def _samples(place: Path, photos: Photos, found: Projection, pictures: torch.Tensor, features: str) -> None:
    """Labelled samples; without masks only codes and pictures, which may then be labelled."""
    side = photos.images.shape[-1]
    masks = np.zeros((0, side, side), np.uint8) if photos.masks is None else photos.masks
    labels = photos.labels or LabelSpace(("background", "part 1"), void=255)
    aligned = AlignedPhotos(photos.names, labels, photos.framing or FULL, photos.images, photos.valid, masks)
    write_projected_samples(place, aligned, found, pictures, features)


def _segmenter(
    place: Path, sampler: Bundle, generator: Generator, net: FeatureNet, template: Template | None,
    settings: ProjectSettings, gate: Gate | None,
) -> Path:  # fmt: skip
    """The bundle of generator, head, plan and gate."""
    from raygseg.methods.repurposegan.projection_segmenter import ProjectionSegmenter

    if settings.start != "mean":
        raise ConfigError("a segmenter starts its projections at the mean w", "project with --start mean")
    opened: Any = kinds.sampler_from(sampler)
    networks = generator, opened.head, opened.labels, net.distance()
    segmenter = ProjectionSegmenter(*networks, settings.plan, gate, template=template)
    facts: dict[str, Any] = {"features": net.name, "steps": settings.plan.steps}
    if gate is not None:
        facts |= {"gate": f"{gate.statistic} up to {gate.threshold:.4f}, from {gate.samples} generated pictures"}
    bundle = segmenter.to_bundle(sampler.build["generator"], net.build, **facts)
    return write_bundle(place / "segmenter", replace(bundle, card=model_card("segmenter", bundle)))
