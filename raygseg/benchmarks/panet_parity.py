"""Our PANet against the released code: same VGG-16 weights, same episodes, protocol `panet_release`.

The released code runs in a process of its own from the checkout `PANet` in RAYGSEG_PEERS: its network makes logits
and losses, its own metric the IoU of each class. Ours is what `raygseg episodes` runs: features once a picture, pooled
means, counts. Besides, one training step of a few episodes is compared: both losses and the encoder's gradients.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from raygseg.benchmarks.support import peers
from raygseg.benchmarks.support.agreement import relative_error
from raygseg.benchmarks.support.data_folder import data_folder
from raygseg.benchmarks.support.parity_panet import asked_episodes, in_double, opened, stacked
from raygseg.config.episodes import EpisodesConfig
from raygseg.engine.process import use_cpu
from raygseg.methods.panet.losses import alignment_loss, segmentation_loss
from raygseg.methods.panet.network import PrototypeNetwork, pretrained_network, signed
from raygseg.metrics.episodes import iou
from raygseg.nn.backbones.catalogue import FILES
from raygseg.pipelines.episodes import score_episodes

CHILD = "raygseg.benchmarks.support.parity_panet"


def run(
    data: str = "",
    source: str = "animals_voc",
    episodes: int = 100,
    shots: int = 1,
    ways: int = 1,
    fold: int = 2,
    resolution: int = 201,
    logits_of: int = 10,
    steps_of: int = 2,
    min_pictures: int = 20,
    threads: int = 1,
) -> dict[str, Any]:
    """Compare. `logit_error`: max |ours - theirs| (logits lie within +- 20); `iou_error`: of any class.

    Args:
        data: folder with `source` and weights/; empty: RAYGSEG_DATA.
        source: below it, as `raygseg episodes` takes it; may end in ?split=NAME.
        fold: whose classes; of animals_voc fold 2 has the most pictures (dog, horse, person).
        episodes: how many the IoU is over. logits_of: of how many the logits are compared.
        steps_of: of how many losses and gradients are compared, in double precision: gradients jump at ReLU's kink.
        min_pictures: classes with fewer are left out.

    Raises:
        MissingEnvironmentError: no RAYGSEG_PEERS, no data, or the released code failed.
    """
    use_cpu(threads)
    place = data_folder(data, source.partition("?")[0])
    peers.peer_folder(peers.PANET)
    weights = str(place / "weights" / FILES["vgg16"])
    with tempfile.TemporaryDirectory() as scratch:
        config = EpisodesConfig.model_validate(
            {
                "name": "parity", "data": str(place / source), "weights": weights, "output": scratch, "fold": fold,
                "ways": ways, "shots": (shots,), "episodes": episodes, "runs": 1, "min_pictures": min_pictures,
                "resolution": resolution, "protocol": {"name": "panet_release"}, "bootstrap": 0,
                "runtime": {"in_process": True},
            }
        )  # fmt: skip
        file = str(Path(scratch) / "theirs.safetensors")
        settings = {"logits_of": logits_of, "steps_of": steps_of, "threads": threads, "file": file}
        theirs = peers.run_beside(CHILD, {"config": config.model_dump(mode="json"), **settings})
        tensors = load_file(file)
        network = pretrained_network("vgg16", weights)
        found = _agreement(config, network, tensors, logits_of, steps_of)
        result = score_episodes(config, network, opened(config.data))
    ours = iou(result.counts[shots][0].sum(0))
    rows = {name: float(ours[1 + i]) for i, name in enumerate(result.classes)}
    asked: dict[str, float] = theirs["class_iou"]
    errors = {name: abs(rows[name] - value) for name, value in asked.items()}
    binary = abs(result.scores[shots].mean["binary_iou"] - theirs["binary_iou"])
    return {
        **found,
        "iou_error": max([*errors.values(), binary]),
        "class_iou": {name: {"ours": rows[name], "theirs": asked[name]} for name in asked},
        "mean_iou": {"ours": float(np.nanmean([rows[n] for n in asked])), "theirs": theirs["mean_iou"]},
        "binary_iou": {"ours": result.scores[shots].mean["binary_iou"], "theirs": theirs["binary_iou"]},
        "seconds_of_theirs": theirs["seconds"],
        "protocol": result.protocol,
        "episodes": dict(result.episodes),
        "settings": {
            "source": source, "episodes": episodes, "ways": ways, "shots": shots, "fold": fold,
            "resolution": resolution, "logits_of": logits_of, "steps_of": steps_of, "min_pictures": min_pictures,
            "threads": threads, "torch": torch.__version__,
        },
    }  # fmt: skip


def _agreement(
    config: EpisodesConfig, network: PrototypeNetwork, theirs: dict[str, Tensor], logits_of: int, steps_of: int
) -> dict[str, float]:
    """Largest differences of logits, losses and gradients over the first episodes."""
    asked = asked_episodes(config)
    found = {"logit_error": 0.0, "loss_error": 0.0, "gradient_error": 0.0}
    for number in range(logits_of):
        with torch.no_grad():
            logits = _forward(network, stacked(asked, number, config))["logits"]
        difference = float((logits[0] - theirs[f"logits.{number}"]).abs().max())
        found["logit_error"] = max(found["logit_error"], difference)
    network.train().double()
    for number in range(steps_of):
        arrays = in_double(stacked(asked, number, config))
        parts = _forward(network, arrays)
        support, fore, back = parts["support"], arrays["fore"][None], arrays["back"][None]
        aligned = alignment_loss(parts["query"], parts["scores"], support, fore, back, network.scale)
        losses = torch.stack([segmentation_loss(parts["logits"], arrays["query_labels"][None]), aligned])
        found["loss_error"] = max(found["loss_error"], relative_error(losses.detach(), theirs[f"losses.{number}"]))
        network.zero_grad()
        losses.sum().backward()
        for place, parameter in enumerate(network.encoder.parameters()):
            assert parameter.grad is not None
            error = relative_error(parameter.grad, theirs[f"gradients.{number}.{place}"])
            found["gradient_error"] = max(found["gradient_error"], error)
    network.eval().float()
    return found


def _forward(network: PrototypeNetwork, arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """Maps, scores and logits of one episode, with a leading 1."""
    support, query = arrays["support_images"], arrays["query_images"]
    pictures = torch.cat([support.flatten(0, 1), query])
    maps = network.features(pictures / 127.5 - 1 if pictures.dtype == torch.float64 else signed(pictures))
    count = support.shape[:2].numel()
    known, asked = maps[:count].unflatten(0, support.shape[:2])[None], maps[None, count:]
    fore, back = arrays["fore"][None], arrays["back"][None]
    scores = network.scores(asked, network.prototypes(network.pool(known, fore), network.pool(known, back)))
    size = (query.shape[-2], query.shape[-1])
    return {"support": known, "query": asked, "scores": scores, "logits": network.enlarge(scores, size)}
