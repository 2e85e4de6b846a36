"""How `kind: encoder` trains and what it leaves behind: a segmenter by embedding (SemanticGAN stages 2 and 3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raygseg.bundle import Bundle
from raygseg.config.encoder import EncoderConfig
from raygseg.data.picture_sets import LabelledSet, data_fingerprint
from raygseg.data.sources import open_labelled, open_pictures
from raygseg.data.splits import nested_subset
from raygseg.data.streams import JointStream, LabelledStream, PictureStream
from raygseg.errors import DataError
from raygseg.pipelines.feature_nets import FeatureNet, Precision, open_features

if TYPE_CHECKING:
    from raygseg.engine.loop import Training
    from raygseg.methods.semanticgan.encoder_training import EncoderRecipe
    from raygseg.methods.semanticgan.label_codec import LabelCodec
    from raygseg.methods.semanticgan.sampler import JointSampler
    from raygseg.methods.semanticgan.segmenter import EmbeddingSegmenter

SHOWN = 8  # labelled pictures in a preview


def open_joint(uri: str, tracking_uri: str = "") -> JointSampler:
    """A generator with a label branch, from a folder, `s3://`, `models:/NAME@alias` or a checkpoint of its training.

    Raises CheckpointError where it is something else or its weights do not fit.
    """
    from raygseg.methods.semanticgan.sampler import JointSampler
    from raygseg.pipelines import kinds

    return JointSampler.from_bundle(kinds.open_bundle(uri, tracking_uri), kinds.build_generator)


def training(run: EncoderConfig, device: str) -> Training:
    """Recipe, both streams, previews and facts of a run."""
    from raygseg.engine.loop import Training
    from raygseg.methods.semanticgan.encoder_training import build_recipe

    joint, data = open_joint(run.generator, run.runtime.tracking_uri), run.data
    labelled = labelled_of(run, joint.codec)
    pictures = open_pictures(data.source, data.resolution, data.max_bad_fraction, data.limit)
    features = _features(run, run.features.precision)
    recipe = build_recipe(run, joint.generator, joint.codec, features.distance(), device)
    stream = JointStream(PictureStream(pictures, run.seed, data.flip), LabelledStream(labelled, run.seed))
    origins = {
        role: {"source": source, "count": len(held), "fingerprint": data_fingerprint(held)}
        for role, source, held in (("pictures", data.source, pictures), ("labelled", run.labelled, labelled))
    }
    facts = {"data": origins, "parents": {"generator": run.generator}, "features": features.name}
    return Training(recipe, stream, previews(recipe, labelled), facts)


def labelled_of(run: EncoderConfig, codec: LabelCodec) -> LabelledSet:
    """The labelled pictures, or the k of the run's seed. DataError where their classes are not the generator's."""
    labelled = open_labelled(run.labelled, run.data.resolution, run.data.max_bad_fraction)
    if labelled.labels.names != codec.labels.names:
        raise DataError(
            f"{run.labelled} has the classes {list(labelled.labels.names)}, the generator {list(codec.labels.names)}",
            "use the labelled pictures that the joint generator was trained with",
        )
    if 0 < run.labelled_limit < len(labelled):
        return labelled.subset(nested_subset(labelled.names, run.labelled_limit, run.seed))
    return labelled


def bundle(run: EncoderConfig, state: Mapping[str, Any]) -> Bundle:
    """The segmenter of a finished run, from its last state."""
    # Half precision would let a picture's answer move with its batch.
    features = _features(run, "fp32")
    joint = open_joint(run.generator, run.runtime.tracking_uri)
    made = _segmenter(run, joint, features, state)
    build = {"architecture": "stylegan2", **joint.generator.build}
    facts = {"features": features.name, "steps": run.embedding.steps}
    return made.to_bundle(build, features.build, **facts)


def _segmenter(
    run: EncoderConfig, joint: JointSampler, features: FeatureNet, state: Mapping[str, Any]
) -> EmbeddingSegmenter:
    from raygseg.methods.semanticgan.embedding import EmbeddingPlan
    from raygseg.methods.semanticgan.encoder_training import build_encoder
    from raygseg.methods.semanticgan.segmenter import EmbeddingSegmenter

    encoder = build_encoder(run, joint.generator)
    encoder.load_state_dict(state["modules"]["average"])
    plan = EmbeddingPlan(**run.embedding.model_dump())
    return EmbeddingSegmenter(joint.generator, encoder, joint.codec, features.distance(), plan)


def _features(run: EncoderConfig, precision: Precision) -> FeatureNet:
    section = run.features
    return open_features(section.name, run.generator, run.data.resolution, section.weights, precision)


def previews(recipe: EncoderRecipe, labelled: LabelledSet) -> Callable[[], Mapping[str, NDArray[np.uint8]]]:
    """A grid at every checkpoint: labelled pictures, what the generator makes of their codes, and both label maps."""

    def drawn() -> Mapping[str, NDArray[np.uint8]]:
        import torch

        from raygseg.methods.semanticgan.segmenter import as_drawn
        from raygseg.methods.stylegan2.training import to_signed
        from raygseg.viz.grids import picture_grid, pictures_from_signed
        from raygseg.viz.overlays import overlay

        rows = [labelled.read(i) for i in range(min(SHOWN, len(labelled)))]
        images = torch.from_numpy(np.stack([picture for picture, _ in rows])).permute(0, 3, 1, 2)
        with torch.no_grad():
            shown = as_drawn(recipe.generator, to_signed(images.to(recipe.device)))
            rendered = recipe.generator.render(recipe.average(shown))
            assert rendered.label_logits is not None
            maps = recipe.codec.decode(rendered.label_logits).cpu().numpy()
        again = list(pictures_from_signed(rendered.images.cpu()))
        tiles = [picture for picture, _ in rows] + again
        tiles += [overlay(picture, truth, labelled.labels) for picture, truth in rows]
        tiles += [overlay(picture, found, labelled.labels) for (picture, _), found in zip(rows, maps, strict=True)]
        return {"embeddings": picture_grid(tiles, columns=len(rows))}

    return drawn
