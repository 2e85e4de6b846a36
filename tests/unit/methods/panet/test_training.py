"""PANet's recipe: it learns, its loss is the spec's, it resumes and is shared out exactly."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from raygseg.engine import state_tree
from raygseg.engine.checkpoint import read_checkpoint, write_checkpoint
from raygseg.engine.gradients import Alone
from raygseg.engine.loop import Hooks, Trainer, train_loop
from raygseg.errors import DataError
from raygseg.interfaces import Draws, MicroBatch
from raygseg.methods.panet.losses import alignment_loss, segmentation_loss
from raygseg.methods.panet.network import FrontCache, signed
from raygseg.methods.panet.training import SPARE, EpisodeStream, PanetRecipe
from tests.unit.engine.two_workers import differing, train, train_together
from tests.unit.methods.panet.few_shapes import ShapeEpisodes, configure, shapes, small_network

STEPS = 4


@pytest.fixture(scope="module")
def alone() -> dict[str, Tensor]:
    torch.set_num_threads(1)
    return train(Alone(), shapes, (), STEPS)


def batch_of(count: int, first: int = 0, shots: int = 1) -> MicroBatch:
    return MicroBatch(EpisodeStream(ShapeEpisodes(shots)).micro_batch(first, count), Draws(0, 0, 0), 0)


def test_it_learns_with_and_without_alignment() -> None:
    for alignment in (0.0, 1.0):
        config = configure(alignment=alignment, schedule={"total_kimg": 0.2, "batch_size": 4})
        recipe = PanetRecipe(config, "cpu", small_network())
        before = recipe.phases[0].loss(batch_of(16, 10_000)).statistics
        assert train_loop(Trainer(recipe, EpisodeStream(ShapeEpisodes())), 100, 100, Hooks())
        after = recipe.phases[0].loss(batch_of(16, 10_000)).statistics
        assert after["loss/segmentation"] < 0.6 * before["loss/segmentation"]
        assert after["foreground_iou"] > 0.6
        assert ("loss/alignment" in after) == bool(alignment)


@pytest.mark.parametrize("shots", [1, 3])
def test_the_loss_is_both_parts(shots: int) -> None:
    recipe = PanetRecipe(configure(alignment=0.5), "cpu", small_network())
    batch = batch_of(3, shots=shots)
    loss, statistics = recipe.phases[0].loss(batch)
    net, data = recipe.network, batch.data
    support = net.features(signed(data["support_images"].flatten(0, 2))).unflatten(0, (3, 1, shots))
    query = net.features(signed(data["query_images"].flatten(0, 1))).unflatten(0, (3, 1))
    logits = net.classify(support, data["fore"], data["back"], query, (32, 32))
    prototypes = net.prototypes(net.pool(support, data["fore"]), net.pool(support, data["back"]))
    own = alignment_loss(query, net.scores(query, prototypes), support, data["fore"], data["back"], 20.0)
    torch.testing.assert_close(loss, segmentation_loss(logits, data["query_labels"]) + 0.5 * own)
    assert statistics["loss"] == loss.detach()


def test_a_mirrored_episode_costs_the_same() -> None:
    """For an encoder that knows no left and right."""
    network = small_network()
    for name in ("first", "second"):
        kernel = getattr(network.encoder, name).weight
        kernel.data = (kernel.data + kernel.data.flip(-1)) / 2
        getattr(network.encoder, name).stride = (1, 1)
    recipe = PanetRecipe(configure(), "cpu", network)
    batch = batch_of(2)
    mirrored = MicroBatch({name: array.flip(-1) for name, array in batch.data.items()}, batch.draws, 0)
    torch.testing.assert_close(recipe.phases[0].loss(mirrored).loss, recipe.phases[0].loss(batch).loss)


def test_the_rate_falls_in_steps() -> None:
    recipe = PanetRecipe(configure(optimiser={"lr": 1e-3, "lr_step_kimg": 10}), "cpu", small_network())
    found = [1e-3 * recipe.lr_share(nimg) for nimg in (0, 9_999, 10_000, 25_000)]
    assert found == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5])


def test_frozen_maps_are_made_once_a_picture_and_change_nothing() -> None:
    """With the cache, with one that holds a single map, without one: the same weights bit for bit."""
    size, weights = 8 * 16 * 16 * 4, []
    for memory in (1 << 20, size, 0):
        recipe = PanetRecipe(configure(network={"frozen_parts": 1}), "cpu", small_network())
        recipe.fronts = FrontCache(memory)
        trainer = Trainer(recipe, EpisodeStream(ShapeEpisodes()))
        for _ in range(3):
            trainer.step()
        trainer.close()
        assert recipe.fronts.maps.peak <= memory
        weights.append(recipe.network.encoder.second.weight.detach().clone())
    assert torch.equal(weights[0], weights[1]) and torch.equal(weights[0], weights[2])

    recipe = PanetRecipe(configure(network={"frozen_parts": 1}), "cpu", small_network())
    batch = batch_of(3)
    first, again = (recipe.phases[0].loss(batch).loss for _ in range(2))
    assert torch.equal(first, again) and recipe.fronts.maps.made == len(recipe.fronts.maps) == 6
    plain = PanetRecipe(configure(), "cpu", small_network())
    torch.testing.assert_close(first, plain.phases[0].loss(batch).loss)


def test_frozen_parts_stay() -> None:
    config = configure(network={"frozen_parts": 1})
    recipe = PanetRecipe(config, "cpu", small_network())
    before = {k: v.clone() for k, v in recipe.network.state_dict().items()}
    Trainer(recipe, EpisodeStream(ShapeEpisodes())).step()
    moved = {k for k, v in recipe.network.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {"encoder.second.weight", "encoder.second.bias"}
    with pytest.raises(ValueError, match="leaves none of 5"):
        configure(network={"frozen_parts": 5})


class Torn(ShapeEpisodes):
    """Number 3 names a file that is torn, and so does all from `broken` on."""

    broken = 1 << 60

    def episode(self, number: int) -> dict[str, NDArray[np.uint8]]:
        if number == 3 or number % SPARE >= self.broken:
            raise DataError(f"{number % SPARE}.jpg: cannot be decoded", "remove the file")
        return super().episode(number)


def test_an_episode_that_cannot_be_read_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = EpisodeStream(Torn()).micro_batch(2, 3)
    assert "episode 3 is replaced: 3.jpg" in caplog.text
    plain = EpisodeStream(ShapeEpisodes())
    spare = plain.micro_batch(3 + SPARE, 1)
    for name, array in plain.micro_batch(2, 3).items():
        assert torch.equal(found[name][[0, 2]], array[[0, 2]])
        assert torch.equal(found[name][1:2], spare[name])
    torn = Torn()
    torn.broken = 6
    with pytest.raises(DataError, match=r"7.jpg: cannot be decoded"):
        EpisodeStream(torn).micro_batch(7, 1)


@pytest.mark.timeout(120)
def test_two_workers_equal_one_that_accumulates(alone: dict[str, Tensor], tmp_path: Path) -> None:
    ((first, second),) = train_together(2, str(tmp_path), shapes, [()], STEPS)
    assert differing(first, alone) == []
    assert differing(second, alone) == []


@pytest.mark.parametrize("stop_at", [1, 3])
def test_resuming_from_a_file_changes_nothing(alone: dict[str, Tensor], tmp_path: Path, stop_at: int) -> None:
    first = Trainer(*shapes())
    for _ in range(stop_at):
        first.step()
    write_checkpoint(str(tmp_path), first.state_dict(), {})
    first.close()
    second = Trainer(*shapes())
    second.load_state_dict(read_checkpoint(str(tmp_path)).state)
    for _ in range(STEPS - stop_at):
        second.step()
    second.close()
    assert differing(state_tree.split(second.state_dict())[0], alone) == []
