"""The fixed table from the words of a bundle to the classes that rebuild it (`trainables` has that of runs).

A bundle names a class by a word of this table, never by an import path, so loading one cannot run
anything it brings along.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raygseg.bundle import Bundle, read_bundle
from raygseg.engine.checkpoint import PREFIX, read_checkpoint
from raygseg.errors import CheckpointError
from raygseg.interfaces import Generator, PairSampler, Segmenter
from raygseg.pipelines.stretching import StretchingSegmenter, asks_for_stretch

if TYPE_CHECKING:
    from raygseg.methods.panet.network import PrototypeNetwork


def build_generator(build: Mapping[str, Any]) -> Generator:
    """An untrained generator from a bundle's `build`, whose `architecture` is stylegan2 or mobile."""
    arguments = {key: value for key, value in build.items() if key != "architecture"}
    name = build.get("architecture")
    if name == "stylegan2":
        from raygseg.methods.stylegan2.generator import StyleGAN2Generator

        return StyleGAN2Generator(**arguments)
    if name == "mobile":
        from raygseg.methods.stylegan2.mobile import MobileGenerator

        return MobileGenerator.from_build(build)
    raise CheckpointError(f"generators of architecture '{name}' are not known", "update raygseg, or check the bundle")


def generator_from(bundle: Bundle, device: str = "cpu") -> Generator:
    """A ready generator, also that of a joint sampler.

    CheckpointError where the bundle is of another kind or its weights do not fit.
    """
    from torch import nn

    from raygseg.nn.stored_weights import fit_weights

    if bundle.kind == "sampler" and bundle.build.get("method") == "semanticgan":
        from raygseg.methods.semanticgan.sampler import JointSampler

        return JointSampler.from_bundle(bundle, build_generator, device).generator
    if bundle.kind != "generator":
        raise CheckpointError(f"the bundle is a {bundle.kind}, not a generator", "name one that `train gan` wrote")
    generator = build_generator(bundle.build)
    assert isinstance(generator, nn.Module)
    fit_weights(generator, bundle.tensors, "generator")
    generator.eval().requires_grad_(False).to(device)
    return generator


def sampler_from(bundle: Bundle, device: str = "cpu") -> PairSampler:
    """A ready sampler of the method that the bundle's `build` names."""
    if bundle.build.get("method") == "semanticgan":
        from raygseg.methods.semanticgan.sampler import JointSampler

        return JointSampler.from_bundle(bundle, build_generator, device)
    from raygseg.methods.repurposegan.sampler import GeneratorHeadSampler

    return GeneratorHeadSampler.from_bundle(bundle, build_generator, device)


def segmenter_from(bundle: Bundle, device: str = "cpu") -> Segmenter:
    """A ready segmenter of the method that the bundle's `build` names."""
    if bundle.build.get("method") == "backbone-head":
        from raygseg.methods.repurposegan.backbone_segmenter import BackboneHeadSegmenter

        return BackboneHeadSegmenter.from_bundle(bundle, device)
    if bundle.build.get("method") == "projection":
        from raygseg.methods.repurposegan.projection_segmenter import ProjectionSegmenter
        from raygseg.pipelines.feature_nets import rebuilt

        return ProjectionSegmenter.from_bundle(bundle, build_generator, rebuilt, device)
    if bundle.build.get("method") == "panet":
        from raygseg.methods.panet.segmenter import PrototypeSegmenter

        return PrototypeSegmenter.from_bundle(bundle, device)
    if bundle.build.get("method") == "semanticgan-embedding":
        from raygseg.methods.semanticgan.segmenter import EmbeddingSegmenter
        from raygseg.pipelines.feature_nets import rebuilt

        return EmbeddingSegmenter.from_bundle(bundle, build_generator, rebuilt, device)
    from raygseg.methods.student.segmenter import UNetSegmenter

    return UNetSegmenter.from_bundle(bundle, device)


def load_generator(uri: str | Path, tracking_uri: str = "", device: str = "cpu") -> Generator:
    """From a folder, `s3://` or `models:/NAME@alias`; also the running mean in a checkpoint of `train gan`."""
    return generator_from(open_bundle(uri, tracking_uri), device)


def load_sampler(uri: str | Path, tracking_uri: str = "", device: str = "cpu") -> PairSampler:
    """From a folder, `s3://` or `models:/NAME@alias`."""
    return sampler_from(open_bundle(uri, tracking_uri), device)


def load_segmenter(uri: str | Path, tracking_uri: str = "", device: str = "cpu", support: str = "") -> Segmenter:
    """From a folder, `s3://` or `models:/NAME@alias`; a few-shot network with the labelled source `support`.

    Raises ConfigError where a support is missing or not wanted.
    """
    from raygseg.pipelines import few_shot

    bundle = open_bundle(uri, tracking_uri)
    few_shot.check_support(str(uri), bundle.kind, support)
    segmenter = few_shot.supported(bundle, support, device) if support else segmenter_from(bundle, device)
    return StretchingSegmenter(segmenter) if asks_for_stretch(bundle.config) else segmenter


def load_few_shot(uri: str | Path, tracking_uri: str = "", device: str = "cpu") -> tuple[PrototypeNetwork, int]:
    """A few-shot network without support, and the side of the square that it was trained on."""
    from raygseg.methods.panet.network import network_from

    bundle = open_bundle(uri, tracking_uri)
    return network_from(bundle, device), int(bundle.build.get("resolution", 0))


def open_bundle(uri: str | Path, tracking_uri: str) -> Bundle:
    if is_checkpoint(str(uri)):
        return _bundle_of_checkpoint(str(uri).rstrip("/"))
    if Path(uri).is_dir():
        return read_bundle(uri)
    from raygseg.tracking.retrieval import resolve

    return read_bundle(resolve(str(uri), tracking_uri))


def is_checkpoint(uri: str) -> bool:
    """Whether `uri` names a checkpoint by its form: PLACE/checkpoint-NUMBER."""
    return uri.rstrip("/").rsplit("/", 1)[-1].startswith(PREFIX)


def _bundle_of_checkpoint(place: str) -> Bundle:
    """What a run would leave behind if it had ended at this checkpoint."""
    from raygseg.pipelines.run_folder import config_of

    checkpoint = read_checkpoint(place)
    from raygseg.pipelines.trainables import make_bundle

    return make_bundle(config_of(place.rpartition("/")[0] or "."), checkpoint.state["recipe"])
