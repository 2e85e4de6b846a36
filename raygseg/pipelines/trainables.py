"""The fixed table from the kind of a run to what trains it and to the bundle that it leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raygseg.bundle import Bundle
from raygseg.config.encoder import EncoderConfig
from raygseg.config.joint_gan import JointGanConfig
from raygseg.config.panet import PanetConfig
from raygseg.config.schema import KINDS, BackboneHeadConfig, GanConfig, HeadConfig, SegmenterConfig
from raygseg.config.sections import AdversarialRun, Run
from raygseg.data.picture_sets import LabelledSet, PictureSet, data_fingerprint
from raygseg.data.sources import open_labelled, open_pictures
from raygseg.data.splits import nested_subset
from raygseg.data.streams import JointStream, LabelledStream, Pictures, PictureStream, WithLabelled
from raygseg.data.table_order import Portions
from raygseg.engine.checkpoint import CheckpointFolder, read_checkpoint
from raygseg.errors import CheckpointError, ConfigError, DataError
from raygseg.interfaces import Generator, PairSampler

if TYPE_CHECKING:
    from raygseg.engine.loop import Training
from raygseg.pipelines.kinds import build_generator, is_checkpoint, load_generator, open_bundle

PREVIEW_SEEDS = range(64)
PAIR_SEEDS = range(36)


def make_training(config: Mapping[str, Any], device: str = "cpu") -> Training:
    """Networks, data and previews of a run; called in every worker with the plain configuration."""
    run = KINDS[config["kind"]].model_validate(config)
    return _trainable(run).training(run, device)


def make_bundle(run: Run, state: Mapping[str, Any]) -> Bundle:
    """What a finished run leaves behind, from its last state (`Recipe.state_dict`)."""
    return _trainable(run).bundle(run, state)


class _Trainable:
    """How one kind trains and what it yields."""

    def __init__(
        self,
        training: Callable[[Any, str], Training],
        bundle: Callable[[Any, Mapping[str, Any]], Bundle],
    ) -> None:
        self.training, self.bundle = training, bundle


def _trainable(run: Run) -> _Trainable:
    if isinstance(run, GanConfig):
        return _Trainable(_gan_training, _gan_bundle)
    if isinstance(run, JointGanConfig):
        return _Trainable(_joint_training, _joint_bundle)
    if isinstance(run, EncoderConfig):
        from raygseg.pipelines import encoder_run

        return _Trainable(encoder_run.training, encoder_run.bundle)
    if isinstance(run, HeadConfig):
        return _Trainable(_head_training, _head_bundle)
    if isinstance(run, BackboneHeadConfig):
        return _Trainable(_backbone_head_training, _backbone_head_bundle)
    if isinstance(run, SegmenterConfig):
        return _Trainable(_segmenter_training, _segmenter_bundle)
    if isinstance(run, PanetConfig):
        from raygseg.pipelines import few_shot

        return _Trainable(few_shot.training, few_shot.bundle)
    kind = getattr(run, "kind", type(run).__name__)
    raise ConfigError(f"kind: {kind} is not something to train", "use `raygseg generate` or `raygseg evaluate` for it")


def _gan_training(run: GanConfig, device: str) -> Training:
    from raygseg.engine.loop import Training
    from raygseg.methods.stylegan2.training import build_recipe

    data = run.data
    pictures = open_pictures(data.source, data.resolution, data.max_bad_fraction, data.limit)
    recipe = build_recipe(run, device)
    return Training(
        recipe,
        PictureStream(pictures, run.seed, data.flip, portions(run)),
        lambda: {"samples": _samples(recipe.average)},
        _about(pictures=_origin(data.source, pictures)),
    )


def portions(run: AdversarialRun) -> Portions:
    """How a step's pictures are shared out."""
    return Portions(run.schedule.micro, run.schedule.batch_size // run.schedule.micro)


def _samples(generator: Generator) -> NDArray[np.uint8]:
    """A grid of the same seeds at every checkpoint."""
    import torch

    from raygseg.viz.grids import picture_grid, pictures_from_signed

    with torch.no_grad():
        images = generator.render(generator.latents(PREVIEW_SEEDS), PREVIEW_SEEDS).images
    return picture_grid(pictures_from_signed(images.cpu()))


def _gan_bundle(run: GanConfig, state: Mapping[str, Any]) -> Bundle:
    from raygseg.methods.stylegan2.generator import StyleGAN2Generator

    section = run.generator
    base, most = section.widths
    build = {
        "architecture": "stylegan2",
        "resolution": run.data.resolution,
        "z_dim": section.z_dim,
        "w_dim": section.w_dim,
        "mapping_layers": section.mapping_layers,
        "channel_base": base,
        "channel_max": most,
        **({"image_channels": 1} if section.image_channels == 1 else {}),
    }
    generator = build_generator(build)
    assert isinstance(generator, StyleGAN2Generator)
    generator.load_state_dict(state["modules"]["average"])
    return Bundle("generator", build, generator.state_dict())


def _joint_training(run: JointGanConfig, device: str) -> Training:
    from raygseg.engine.loop import Training
    from raygseg.methods.semanticgan.training import build_recipe

    data, labelled = run.data, _labelled(run)
    pictures = open_pictures(data.source, data.resolution, data.max_bad_fraction, data.limit)
    shown: Pictures = pictures
    if run.labelled_as_pictures:
        shown = WithLabelled(pictures, labelled)
    few = len(labelled) < run.schedule.batch_size
    pairs = LabelledStream(labelled, run.seed, run.labelled_flip, with_replacement=few)
    recipe = build_recipe(run, labelled.labels, device)
    facts = _about(pictures=_origin(data.source, pictures), labelled=_origin(run.labelled, labelled))
    if run.start:
        recipe.start_from(_networks_of(run.start), run.start)
        facts["parents"] = {"start": run.start}
    return Training(
        recipe,
        JointStream(PictureStream(shown, run.seed, data.flip, portions(run)), pairs),
        lambda: {"samples": _pair_samples(recipe.sampler())},
        facts,
    )


def _networks_of(place: str) -> Mapping[str, Any]:
    """The networks by name in a checkpoint, or in the newest one of a run's folder."""
    checkpoint = read_checkpoint(place) if is_checkpoint(place) else CheckpointFolder(place).latest()
    if checkpoint is None:
        raise CheckpointError(f"{place}: no checkpoint", "name the folder of a run that has trained, or a checkpoint")
    networks: Mapping[str, Any] = checkpoint.state["recipe"].get("modules", {})
    return networks


def _pair_samples(sampler: PairSampler) -> NDArray[np.uint8]:
    """Pictures beside their labels, of the same seeds at every checkpoint."""
    from raygseg.viz.overlays import pair_sheet

    pairs = sampler.sample(PAIR_SEEDS)
    pictures = pairs.images.permute(0, 2, 3, 1).cpu().numpy()
    return pair_sheet(list(pictures), list(pairs.probabilities.argmax(1).cpu().numpy()), sampler.labels)


def _joint_bundle(run: JointGanConfig, state: Mapping[str, Any]) -> Bundle:
    from raygseg.methods.semanticgan.training import build_recipe

    recipe = build_recipe(run, _labelled(run).labels)
    recipe.load_state_dict(state)
    notes = "Picture and labels come from one generator (SemanticGAN stage 1): no ensemble, so every score is 0."
    return recipe.sampler().to_bundle(notes=notes)


def _head_recipe(run: HeadConfig) -> Any:
    from raygseg.methods.repurposegan.samples import read_samples
    from raygseg.methods.repurposegan.training import build_recipe

    generator = load_generator(run.generator, run.runtime.tracking_uri)
    return build_recipe(run, generator, read_samples(run.samples))


def _head_training(run: HeadConfig, device: str) -> Training:
    from raygseg.engine.loop import Training
    from raygseg.methods.repurposegan.training import SampleStream

    recipe = _head_recipe(run)
    stream = SampleStream(recipe.samples, recipe.head.resolution, run.seed)
    samples = {"source": run.samples, "count": len(recipe.samples), "fingerprint": recipe.samples.fingerprint()}
    return Training(recipe, stream, facts={**_about(samples=samples), "parents": {"generator": run.generator}})


def _head_bundle(run: HeadConfig, state: Mapping[str, Any]) -> Bundle:
    from raygseg.methods.repurposegan.sampler import GeneratorHeadSampler

    recipe = _head_recipe(run)
    recipe.load_state_dict(state)
    generator_build = open_bundle(run.generator, run.runtime.tracking_uri).build
    sampler = GeneratorHeadSampler(
        recipe.generator, recipe.finish(), recipe.samples.labels, run.truncation_psi, recipe.generator.resolution
    )
    return sampler.to_bundle(generator_build)


def _backbone_head_training(run: BackboneHeadConfig, device: str) -> Training:
    from raygseg.engine.loop import Training
    from raygseg.methods.repurposegan.backbone_training import build_recipe

    labelled = _labelled(run)
    recipe = build_recipe(run, labelled, device)
    facts = _about(labelled=_origin(run.labelled, labelled))
    return Training(recipe, LabelledStream(labelled, run.seed), facts=facts)


def _backbone_head_bundle(run: BackboneHeadConfig, state: Mapping[str, Any]) -> Bundle:
    from raygseg.methods.repurposegan.backbone_training import build_recipe

    recipe = build_recipe(run, _labelled(run))
    recipe.load_state_dict(state)
    return recipe.finish().to_bundle()


def _segmenter_training(run: SegmenterConfig, device: str) -> Training:
    from raygseg.engine.loop import Training
    from raygseg.methods.student.training import build_recipe

    labelled = _labelled(run) if run.labelled else None
    origins = {"labelled": _origin(run.labelled, labelled)} if labelled is not None else {}
    if not run.pairs:
        assert labelled is not None
        recipe = build_recipe(run, labelled.labels, None, device)
        return Training(recipe, LabelledStream(labelled, run.seed), facts=_about(**origins))
    from raygseg.data.pair_set import PairSet
    from raygseg.distributed.pair_stream import PairStream

    pairs = PairSet.open(run.pairs)
    origins["pairs"] = {"source": run.pairs, "count": len(pairs), "fingerprint": pairs.fingerprint}
    if labelled is not None and labelled.labels.names != pairs.labels.names:
        raise DataError(
            f"{run.labelled} has the classes {list(labelled.labels.names)}, {run.pairs} has {list(pairs.labels.names)}",
            "label pictures and samples with the same labels.json",
        )
    recipe = build_recipe(run, pairs.labels, pairs.class_frequencies(), device)
    return Training(recipe, PairStream(run, pairs, labelled), facts=_about(**origins))


def _about(**origins: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a run's facts that says where its data came from, by role."""
    return {"data": dict(origins)}


def _origin(source: str, data: PictureSet | LabelledSet) -> dict[str, Any]:
    return {"source": source, "count": len(data), "fingerprint": data_fingerprint(data)}


def _labelled(run: SegmenterConfig | BackboneHeadConfig | JointGanConfig) -> LabelledSet:
    """The labelled pictures, or a seeded subset of `labelled_limit` of them (nested: 1 in 5 in 10)."""
    resolution = run.data.resolution if isinstance(run, JointGanConfig) else run.resolution
    bad = run.data.max_bad_fraction if isinstance(run, JointGanConfig) else run.max_bad_fraction
    labelled = open_labelled(run.labelled, resolution, bad)
    if 0 < run.labelled_limit < len(labelled):
        return labelled.subset(nested_subset(labelled.names, run.labelled_limit, run.seed))
    return labelled


def _segmenter_bundle(run: SegmenterConfig, state: Mapping[str, Any]) -> Bundle:
    from raygseg.data.pair_set import PairSet
    from raygseg.methods.student.segmenter import UNetSegmenter
    from raygseg.methods.student.training import build_network

    labels = PairSet.open(run.pairs).labels if run.pairs else _labelled(run).labels
    net = build_network(run, labels.num_classes)
    net.load_state_dict(state["modules"]["average"])
    return UNetSegmenter(net, labels, run.resolution).to_bundle()
