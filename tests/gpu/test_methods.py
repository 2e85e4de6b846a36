"""Joint training, its encoder, embedding and PANet on a CUDA device, beside the same on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from raygseg.benchmarks.gpu_queue.chip import kernels
from raygseg.config.encoder import EncoderConfig
from raygseg.config.panet import PanetConfig
from raygseg.data.sources import open_labelled, open_pictures
from raygseg.data.streams import JointStream, LabelledStream, PictureStream
from raygseg.engine.loop import Trainer
from raygseg.interfaces import Recipe
from raygseg.methods.panet.network import blank_network
from raygseg.methods.panet.training import PanetRecipe
from raygseg.methods.semanticgan.embedding import EmbeddingPlan
from raygseg.methods.semanticgan.encoder_training import EncoderRecipe
from raygseg.methods.semanticgan.label_codec import LabelCodec
from raygseg.methods.semanticgan.segmenter import EmbeddingSegmenter
from raygseg.methods.stylegan2.training import StyleGAN2Recipe
from raygseg.pipelines.trainables import make_training
from tests.unit.engine.joint_training import settings
from tests.unit.methods.semanticgan.tiny_joint import ENCODER, THREE, joint_generator, tiny_distance, tiny_encoder

DEVICE = "cuda"


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    with kernels(tf32=False):
        yield


def step(recipe: Recipe, stream: Any) -> dict[str, float]:
    trainer = Trainer(recipe, stream)
    found = {name: float(value) for name, value in trainer.step().items() if value.numel() == 1}
    trainer.close()
    return found


def close(here: dict[str, float], there: dict[str, float], loosest: float = 2e-3) -> None:
    assert here.keys() == there.keys() and any(name.startswith("loss") for name in here)
    for name, value in there.items():
        assert here[name] == pytest.approx(value, rel=loosest, abs=2e-4), name


def test_a_joint_step_agrees_with_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StyleGAN2Recipe, "_drawn_on", "cpu")  # a GPU's generator draws other numbers
    config = settings().model_dump(mode="json")
    here, there = (make_training(config, device) for device in (DEVICE, "cpu"))
    close(step(here.recipe, here.stream), step(there.recipe, there.stream))


def test_an_encoder_step_agrees_with_the_cpu() -> None:
    config = EncoderConfig.model_validate(
        {
            "name": "encoder",
            "generator": "here",
            "data": {"source": "toy://default?count=8&seed=0", "resolution": 32},
            "labelled": "toy://default?count=6&seed=7",
            "schedule": {"total_kimg": 0.008, "batch_size": 4},
            "encoder": ENCODER,
        }
    )
    pictures, labelled = open_pictures(config.data.source, 32), open_labelled(config.labelled, 32)
    stream = JointStream(PictureStream(pictures, 0, True), LabelledStream(labelled, 0))
    codec = LabelCodec(labelled.labels)
    here, there = (
        EncoderRecipe(config, joint_generator(codec), codec, on(device), device) for device in (DEVICE, "cpu")
    )
    close(step(here, stream), step(there, stream))


def on(device: str) -> Any:
    distance = tiny_distance()
    distance.network.to(device)  # type: ignore[attr-defined]
    return distance


def embedder(steps: int, device: str) -> EmbeddingSegmenter:
    codec = LabelCodec(THREE)
    generator = joint_generator(codec).to(device)
    encoder = tiny_encoder(joint_generator(codec)).to(device)
    return EmbeddingSegmenter(generator, encoder, codec, on(device), EmbeddingPlan(steps=steps))


def test_an_embedding_agrees_with_the_cpu() -> None:
    pictures = [np.random.default_rng(i).integers(0, 256, (40, 32, 3), dtype=np.uint8) for i in range(3)]
    here, there = (embedder(0, device) for device in (DEVICE, "cpu"))
    for one, other in zip(here.predict(pictures), there.predict(pictures), strict=True):
        assert (one.label_map == other.label_map).mean() > 0.99
    # Steps of Adam part from one another by rounding; each device repeats itself.
    longer = embedder(3, DEVICE)
    first, again = (longer.predict(pictures) for _ in range(2))
    assert all((a.label_map == b.label_map).mean() > 0.99 for a, b in zip(first, again, strict=True))


class Episodes:
    """Two pictures an episode, of noise with a brighter square."""

    def micro_batch(self, first: int, count: int) -> dict[str, torch.Tensor]:
        rows = []
        for number in range(first, first + count):
            rng = np.random.default_rng(number)
            masks = np.zeros((2, 33, 33), np.uint8)
            for mask in masks:
                top, left = rng.integers(0, 16, 2)
                mask[top : top + 14, left : left + 14] = 1
            pictures = (rng.integers(0, 100, (2, 3, 33, 33)) + 150 * masks[:, None]).astype(np.uint8)
            rows.append((pictures, masks))
        pictures = torch.from_numpy(np.stack([p for p, _ in rows]))
        masks = torch.from_numpy(np.stack([m for _, m in rows]))
        return {
            "support_images": pictures[:, None, :1], "fore": masks[:, None, :1], "back": 1 - masks[:, None, :1],
            "query_images": pictures[:, 1:], "query_labels": masks[:, 1:],
        }  # fmt: skip


def test_an_episode_agrees_with_the_cpu() -> None:
    config = PanetConfig.model_validate(
        {"name": "panet", "data": "here", "schedule": {"total_kimg": 1, "batch_size": 2}}
    )

    def recipe(device: str) -> PanetRecipe:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return PanetRecipe(config, device, blank_network("vgg16"))

    close(step(recipe(DEVICE), Episodes()), step(recipe("cpu"), Episodes()))
