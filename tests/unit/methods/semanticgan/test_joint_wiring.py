"""What of a joint run's configuration reaches its streams, its rates and its two augmentations."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from raygseg.interfaces import Stream
from raygseg.methods.semanticgan.training import SemanticGANRecipe
from raygseg.pipelines.trainables import make_training
from tests.unit.engine.joint_training import settings

PICTURES, LABELLED = 40, 5


def made(**changes: Any) -> tuple[SemanticGANRecipe, Stream]:
    training = make_training(settings(**changes).model_dump(mode="json"))
    assert isinstance(training.recipe, SemanticGANRecipe)
    return training.recipe, training.stream


def distinct(pictures: torch.Tensor) -> int:
    return len({picture.numpy().tobytes() for picture in pictures})


@pytest.mark.parametrize("too", [False, True])
def test_labelled_pictures_may_be_shown_to_the_picture_discriminator_too(too: bool) -> None:
    _, stream = made(labelled_as_pictures=too)
    count = PICTURES + LABELLED * too
    assert distinct(stream.micro_batch(0, count)["images"]) == count


@pytest.mark.parametrize(("batch", "replaced"), [(8, True), (4, False)])
def test_labels_are_drawn_with_replacement_where_a_batch_asks_for_more(batch: int, replaced: bool) -> None:
    _, stream = made(schedule={"batch_size": batch}, labelled_flip=False)
    epochs = [distinct(stream.micro_batch(n, LABELLED)["labelled_images"]) for n in range(0, 8 * LABELLED, LABELLED)]
    assert (min(epochs) < LABELLED) == replaced, epochs


def test_labelled_pictures_are_mirrored_where_that_is_asked_for() -> None:
    plain, mirrored = (made(labelled_flip=flip)[1].micro_batch(0, 16) for flip in (False, True))
    turned = [not torch.equal(a, b) for a, b in zip(plain["labelled_images"], mirrored["labelled_images"], strict=True)]
    assert 0 < sum(turned) < 16
    for n in range(16):
        expected = plain["labelled_images"][n].flip(-1) if turned[n] else plain["labelled_images"][n]
        assert torch.equal(mirrored["labelled_images"][n], expected)


def test_the_pair_discriminator_has_a_rate_of_its_own_under_lazy_regularisation() -> None:
    """B11-6: interval 16 gives both 16 / 17 of what is asked for."""
    rates = {"lr_discriminator": 0.002, "lr_label_discriminator": 0.0005}
    recipe, _ = made(optimiser=rates, loss={"r1_interval": 16})
    (judges,) = {id(p.optimiser): p.optimiser for p in recipe.phases if p.name.startswith("D")}.values()
    assert [group["lr"] for group in judges.param_groups] == pytest.approx([0.002 * 16 / 17, 0.0005 * 16 / 17])


def test_each_discriminator_has_an_augmentation_that_follows_its_own_signs() -> None:
    recipe, _ = made()
    before = recipe.progress()
    for step in range(2):  # the interval of both
        recipe.end_step(step, 8, {"sign/real": torch.tensor(1.0), "sign/real_pair": torch.tensor(-1.0)})
    after = recipe.progress()
    assert after["augment_p"] > before["augment_p"]
    assert after["label_augment_p"] < before["label_augment_p"]


@pytest.mark.parametrize("phase", ["Gmain", "Dmain"])
def test_generated_pairs_are_augmented_as_real_ones_are(phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import raygseg.methods.semanticgan.training as module
    from raygseg.engine.loop import Trainer

    seen: list[tuple[float, bool]] = []
    augment = module.augment_pairs

    def watched(images: torch.Tensor, maps: torch.Tensor, p: float, *rest: Any) -> Any:
        shown = augment(images, maps, p, *rest)
        seen.append((p, torch.equal(shown[1], maps)))
        return shown

    monkeypatch.setattr(module, "augment_pairs", watched)
    recipe, stream = made(
        label_augment={"mode": "fixed", "p": 0.9},
        loss={"r1_interval": 100, "path_weight": 0, "feature_matching": "none"},
    )
    kept = [p for p in recipe.phases if p.name == phase]
    recipe.phases[:] = kept
    trainer = Trainer(recipe, stream)
    trainer.step()
    trainer.close()
    # two micro-batches; Gmain judges generated pairs, Dmain generated and real ones
    assert len(seen) == (2 if phase == "Gmain" else 4)
    assert all(p == 0.9 and not same for p, same in seen)


@pytest.mark.parametrize("upright", [False, True])
def test_both_discriminators_see_upright_pictures_where_asked(upright: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import raygseg.nn.adaptive_augment as module
    from raygseg.engine.loop import Trainer

    draw, seen = module.draw_geometry, []

    def watched(*arguments: Any) -> torch.Tensor:
        seen.append(arguments[-1])
        return draw(*arguments)

    monkeypatch.setattr(module, "draw_geometry", watched)
    always = {"mode": "fixed", "p": 0.9, "upright": upright}
    other = {**always, "upright": False}
    for sections, expected in (
        ({"augment": always, "label_augment": other}, [upright, False]),
        ({"augment": other, "label_augment": always}, [False, upright]),
    ):
        seen.clear()
        recipe, stream = made(**sections, loss={"r1_interval": 100, "path_weight": 0, "feature_matching": "none"})
        recipe.phases[:] = [p for p in recipe.phases if p.name == "Gmain"]
        trainer = Trainer(recipe, stream)
        trainer.step()
        trainer.close()
        assert sorted(set(seen)) == sorted(set(expected)) and len(seen) == 4
