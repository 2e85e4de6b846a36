"""The released PANet code on our episodes, in a process of its own (`peers.run_beside`)."""

from __future__ import annotations

import functools
import importlib
import json
import sys
import time
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from raygseg.benchmarks.support import peers
from raygseg.config.episodes import EpisodesConfig
from raygseg.data.episodes.index import ClassIndex
from raygseg.data.episodes.reading import read_episode
from raygseg.data.episodes.sources import read_class_index
from raygseg.engine.process import use_cpu
from raygseg.nn.backbones.vgg16 import MEAN
from raygseg.nn.backbones.vgg16_stride8 import load_vgg16_stride8
from raygseg.pipelines.episode_scores import Asked
from raygseg.pipelines.episodes import ask

VOID = 255


@functools.lru_cache(maxsize=1)
def opened(source: str) -> ClassIndex:
    """The index of a source, opened once a process."""
    return read_class_index(source)


def asked_episodes(config: EpisodesConfig) -> Asked:
    """The episodes of a configuration; both processes draw the same."""
    return ask(config, opened(config.data))


def stacked(asked: Asked, number: int, config: EpisodesConfig) -> dict[str, Tensor]:
    """The arrays of an episode as tensors: support [W, K, ...], queries [Q, ...]."""
    arrays = read_episode(asked.index, asked.lists[0].episode(number), config.resolution, config.protocol)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def in_double(arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """All but the labels in float64."""
    return {name: array if name == "query_labels" else array.double() for name, array in arrays.items()}


def as_they_take_it(arrays: dict[str, Tensor]) -> tuple[Any, Any, Any, Any]:
    """Lists of ways of lists of shots of [1, ...]; pictures as the weights file wants them, RGB minus its mean."""
    mean = torch.tensor(MEAN).view(3, 1, 1)

    def shots(name: str, pictures: bool) -> list[list[Tensor]]:
        ways = arrays[name] if arrays[name].is_floating_point() else arrays[name].float()
        return [[(shot - mean if pictures else shot)[None] for shot in way] for way in ways]

    queries = [(query - mean)[None] for query in arrays["query_images"]]
    return shots("support_images", True), shots("fore", False), shots("back", False), queries


def main(settings: dict[str, Any]) -> dict[str, Any]:
    """Logits, losses and gradients of the first episodes into a file; IoU of all by their metric."""
    use_cpu(settings["threads"])
    peers.enter(peers.PANET)
    config = EpisodesConfig.model_validate(settings["config"])
    asked = asked_episodes(config)
    classes = asked.index.classes
    network = importlib.import_module("models.fewshot").FewShotSeg(cfg={"align": True})
    own = load_vgg16_stride8(config.weights).state_dict()
    state = network.encoder.state_dict()
    network.encoder.load_state_dict(dict(zip(state, own.values(), strict=True)))
    metric = importlib.import_module("util.metric").Metric(max_label=len(classes), n_runs=1)
    tensors: dict[str, Tensor] = {}
    began = time.perf_counter()
    network.eval()
    for number in range(len(asked.lists[0])):
        arrays = stacked(asked, number, config)
        with torch.no_grad():
            logits, _ = network(*as_they_take_it(arrays))
        if number < settings["logits_of"]:
            tensors[f"logits.{number}"] = logits
        ways = [way + 1 for way in asked.lists[0].episode(number).ways]
        for answer, truth in zip(logits.argmax(1), arrays["query_labels"], strict=True):
            metric.record(answer.numpy(), truth.numpy(), labels=ways, n_run=0)
    seconds = time.perf_counter() - began
    network.train().double()
    for number in range(settings["steps_of"]):
        tensors |= _step(network, in_double(stacked(asked, number, config)), number)
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, settings["file"])
    used = sorted({int(way) + 1 for row in asked.lists[0].rows for way in row[: config.ways]})
    by_class, mean = metric.get_mIoU(labels=used, n_run=0)
    _, binary = metric.get_mIoU_binary(n_run=0)
    found = {classes[place - 1]: float(value) for place, value in zip(used, by_class, strict=True)}
    return {"class_iou": found, "mean_iou": float(mean), "binary_iou": float(np.mean(binary)), "seconds": seconds}


def _step(network: Any, arrays: dict[str, Tensor], number: int) -> dict[str, Tensor]:
    """Both losses and their sum's gradients, as the released training loop adds them up."""
    network.zero_grad()
    logits, aligned = network(*as_they_take_it(arrays))
    segmentation = functional.cross_entropy(logits, arrays["query_labels"].long(), ignore_index=VOID)
    (segmentation + aligned).backward()
    found = {f"losses.{number}": torch.stack([segmentation, torch.as_tensor(aligned)])}
    for place, parameter in enumerate(network.encoder.parameters()):
        found[f"gradients.{number}.{place}"] = parameter.grad.clone()
    return found


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
