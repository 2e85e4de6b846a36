"""The generator of a comparison: framed once as the labelled photos are, projected into once for all arms.

OUT/generator/     the published face generator in the photos' frame, which is found without their labels
OUT/projections/   every photo's projection, whichever arm, draw or cell asked for it first
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from raygseg.bundle import CHECKSUMS, read_bundle, write_bundle
from raygseg.config.schema import CompareConfig
from raygseg.data.object_store import join, local_path
from raygseg.interfaces import Segmenter
from raygseg.methods.repurposegan.projection_segmenter import ProjectionSegmenter
from raygseg.methods.stylegan2.mobile import load_mobile_generator
from raygseg.nn.framing import FULL
from raygseg.nn.projection import Projection, ProjectionPlan
from raygseg.nn.template_alignment import template_of
from raygseg.pipelines.feature_nets import open_features
from raygseg.pipelines.projection_photos import read_by_template
from raygseg.pipelines.projection_run import ProjectSettings
from raygseg.pipelines.projection_store import project_pictures

FRAMED, KEPT = "generator", "projections"


def framed_generator(weights: str, photos: str, resolution: int, output: str | Path) -> str:
    """A bundle of the published face generator that shows what `photos` show on average; made once.

    The photos' labels are not looked at.
    """
    place = Path(output)
    if not (place / CHECKSUMS).is_file():
        whole = load_mobile_generator(weights, resolution, FULL, "bf16")
        net = open_features("auto", weights, resolution, precision="bf16").network
        shown = read_by_template(photos, resolution, template_of(whole, net), net)
        assert shown.framing is not None, "it was not given"
        write_bundle(place, whole.framed(shown.framing).to_bundle({"framed_by": photos}))
    return str(place)


def generator_of(config: CompareConfig, results: str) -> str:
    """The generator as the arms take it: as configured, or the published weights framed."""
    if not config.generator.endswith(".safetensors"):
        return config.generator
    place = local_path(join(results, FRAMED))
    return framed_generator(config.generator, config.labelled, config.resolution, place)


def projection_settings(config: CompareConfig, generator: str, results: str, gate_samples: int) -> ProjectSettings:
    """How every arm projects: into the shared store; face photos are aligned without labels."""
    is_face = read_bundle(generator).build.get("architecture") == "mobile" if Path(generator).is_dir() else False
    return ProjectSettings(
        ProjectionPlan(config.projection_steps),
        gate_samples=gate_samples,
        align="template" if is_face else "none",
        store=config.projections or str(local_path(join(results, KEPT))),
    )


def keep_projections(segmenter: Segmenter, config: CompareConfig, results: str) -> None:
    """Let a segmenter by projection look its pictures up before it projects them."""
    if not isinstance(segmenter, ProjectionSegmenter):
        return
    store = config.projections or str(local_path(join(results, KEPT)))

    def find(images: Tensor, valid: Tensor) -> Projection:
        return project_pictures(segmenter.generator, segmenter.distance, images, valid, store, segmenter.plan)

    segmenter.find = find
