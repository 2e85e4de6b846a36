"""Fold tables against the published lists, and which pictures a fold trains on and is tested on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raygseg.config.episodes import EpisodeProtocol, named_protocol
from raygseg.data.episodes.folds import COCO_20I, PASCAL_5I, fold_classes
from raygseg.data.episodes.training import evaluation_index, halves, training_index
from raygseg.errors import ConfigError, DataError
from tests.unit.data.episodes.sets import Blocks, blocks

FAIR = EpisodeProtocol()


def test_pascal_5i_is_the_published_table() -> None:
    assert PASCAL_5I == (
        ("aeroplane", "bicycle", "bird", "boat", "bottle"),
        ("bus", "car", "cat", "chair", "cow"),
        ("diningtable", "dog", "horse", "motorbike", "person"),
        ("pottedplant", "sheep", "sofa", "train", "tvmonitor"),
    )


def test_coco_20i_has_both_orders() -> None:
    assert COCO_20I["contiguous"][1] == tuple(range(20, 40))
    assert COCO_20I["interleaved"][1][:3] == (1, 5, 9) and COCO_20I["interleaved"][3][-1] == 79
    for folds in COCO_20I.values():
        assert sorted(c for fold in folds for c in fold) == list(range(80))


def test_folds_of_80_classes_follow_the_stated_order() -> None:
    many = Blocks([[1 + c] for c in range(80)]).index(80)
    assert fold_classes(many, 0, "test", "interleaved")[:2] == ("c1", "c5")
    assert fold_classes(many, 0, "test", "contiguous") == tuple(f"c{c}" for c in range(1, 21))
    assert len(fold_classes(many, 0, "train")) == 60


def test_a_source_states_its_own_folds_or_gets_blocks() -> None:
    index = blocks().index()
    assert fold_classes(index, 2, "test") == ("c3",)
    own = replace(index, folds=(("c1", "c4"), ("c2", "c3")))
    assert fold_classes(own, 0, "test") == ("c1", "c4") and fold_classes(own, 0, "train") == ("c2", "c3")
    with pytest.raises(ConfigError, match="fold: 2 does not exist"):
        fold_classes(own, 2, "test")
    with pytest.raises(DataError, match="3 classes with pictures"):
        fold_classes(blocks(classes=3).index(3), 0, "test")


def test_training_and_test_pictures_are_apart_unless_released() -> None:
    index = blocks(20).index()
    train, test = training_index(index, 0, FAIR), evaluation_index(index, FAIR)
    pictures = [set().union(*(rows.tolist() for rows in part.members)) for part in (train, test)]
    assert not pictures[0] & pictures[1] and pictures[0] | pictures[1] == set(range(len(index)))
    for name, count in index.counts().items():
        assert abs(test.counts()[name] - count / 2) <= 2, name
    released = named_protocol("panet_release")
    assert evaluation_index(index, released).counts() == training_index(index, 0, released).counts() == index.counts()
    assert halves(index) == halves(index)


def test_a_sources_own_test_list_wins() -> None:
    index = blocks().index(test=frozenset(range(10)))
    assert set(evaluation_index(index, FAIR).members[0].tolist()) == {p for p in index.members[0].tolist() if p < 10}
    assert all((rows >= 10).all() for rows in training_index(index, 0, FAIR).members)


def test_novel_pixels_removed_leaves_pictures_of_test_classes_out() -> None:
    index = blocks().index()
    removed = EpisodeProtocol(novel_pixels="removed")
    train = training_index(index, 1, removed)
    assert train.counts()["c2"] == 0 < training_index(index, 1, FAIR).counts()["c2"]
    assert train.counts()["c1"] < training_index(index, 1, FAIR).counts()["c1"]


def test_a_least_number_of_pixels_is_counted() -> None:
    index = blocks().index()
    sizes = {int(p) for row in index.pixels for p in row}
    assert min(sizes) < 64 == max(sizes), "some squares are hidden in part"
    whole = evaluation_index(index, EpisodeProtocol(min_pixels=64, split="same"))
    left = [(whole.counts()[name], count) for name, count in index.counts().items()]
    assert all(0 < fewer <= count for fewer, count in left) and any(fewer < count for fewer, count in left)
    with pytest.raises(ConfigError, match="min_pixels"):
        replace(index, pixels=()).narrowed(range(3), 5)
