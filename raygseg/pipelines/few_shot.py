"""What kind `panet` trains, and a few-shot network with its support as a segmenter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from raygseg.bundle import Bundle
from raygseg.config.panet import PanetConfig
from raygseg.data.sources import open_labelled
from raygseg.errors import ConfigError

if TYPE_CHECKING:
    from raygseg.data.episodes.training import TrainingEpisodes
    from raygseg.engine.loop import Training
    from raygseg.methods.panet.segmenter import PrototypeSegmenter

FEW_SHOT = "few-shot"  # the kind of bundle that needs a support set


# --- at work -------------------------------------------------------------------------------------


def check_support(model: str, kind: str, support: str) -> None:
    """Raise ConfigError where a model lacks the support that it needs, or is given one that it does not take."""
    if kind == FEW_SHOT and not support:
        raise ConfigError(
            f"{model} needs a support set", "give labelled pictures: --support FOLDER (in Python support=)"
        )
    if kind != FEW_SHOT and support:
        raise ConfigError(f"{model} is a {kind}: it takes no support set", "leave --support out")


def supported(bundle: Bundle, support: str, device: str = "cpu") -> PrototypeSegmenter:
    """A few-shot network with the labelled pictures of the source `support`, whose features are computed here.

    Raises DataError where the support cannot be used.
    """
    from raygseg.methods.panet.network import network_from
    from raygseg.methods.panet.segmenter import with_support

    labelled = open_labelled(support, None)
    network = network_from(bundle, device)
    return with_support(network, list(labelled), labelled.labels, int(bundle.build["resolution"]), support)


# --- training ------------------------------------------------------------------------------------


def training(run: PanetConfig, device: str) -> Training:
    """Recipe, stream of episodes, and what the run learns from."""
    from raygseg.engine.loop import Training
    from raygseg.methods.panet.training import EpisodeStream, build_recipe

    episodes = training_episodes(run)
    origin = {"source": run.data, "fingerprint": episodes.identity()}
    facts = {
        "data": {"episodes": origin},
        "fold": str(run.fold),
        "base classes": ", ".join(episodes.classes),
        "protocol": run.protocol.described(),
    }
    return Training(build_recipe(run, device), EpisodeStream(episodes), facts=facts)


def training_episodes(run: PanetConfig) -> TrainingEpisodes:
    """The endless sequence of training episodes of a run. Raises DataError naming a class with too few pictures."""
    from raygseg.data.episodes.folds import fold_classes
    from raygseg.data.episodes.sources import read_class_index
    from raygseg.data.episodes.training import TrainingEpisodes, training_index

    whole = read_class_index(run.data, run.max_bad_fraction)
    index = training_index(whole, run.fold, run.protocol)
    counts = index.counts()
    named = fold_classes(whole, run.fold, "train", run.protocol.coco_order)
    classes = [name for name in named if counts[name] >= run.min_pictures]
    return TrainingEpisodes(
        index, classes, run.ways, run.shots, run.queries, run.resolution, run.seed, run.protocol, run.flip
    )


def bundle(run: PanetConfig, state: Mapping[str, Any]) -> Bundle:
    """The trained network, from a run's last state."""
    from raygseg.methods.panet.training import build_network
    from raygseg.nn.backbones.catalogue import LICENCES

    network = build_network(run, blank=True)
    network.load_state_dict(state["modules"]["network"])
    terms = LICENCES.get(run.network.encoder, "those of the weights file it began with")
    return network.to_bundle(
        run.resolution,
        episodes=f"{run.ways}-way {run.shots}-shot",
        alignment=f"weight {run.alignment:g}" if run.alignment else "none",
        licence="The code is Apache-2.0. The weights inherit what the training data allows and, through the encoder, "
        f"its terms: {terms}.",
    )
