from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raygseg.data.picture_files import encode_png
from raygseg.data.sources import LabelledStream, PictureSet, PictureStream, open_labelled, open_pictures
from raygseg.data.splits import nested_subset
from raygseg.data.streams import JointStream, WithLabelled
from raygseg.errors import DataError


@pytest.fixture
def ramps(tmp_path: Path) -> PictureSet:
    """Seven pictures: number i brightens from left to right, starting at 20 i."""
    for i in range(7):
        row = np.arange(8) + 20 * i
        (tmp_path / f"{i}.png").write_bytes(encode_png(np.broadcast_to(row[None, :, None], (8, 8, 3)).astype(np.uint8)))
    return open_pictures(str(tmp_path), 8)


def test_any_cut_of_the_stream_is_the_same_sequence(ramps: PictureSet) -> None:
    stream = PictureStream(ramps, seed=5, flip=True)
    whole = stream.micro_batch(0, 40)["images"]
    assert whole.shape == (40, 3, 8, 8) and whole.dtype == torch.uint8
    pieces = [PictureStream(ramps, 5, True).micro_batch(first, 5)["images"] for first in range(0, 40, 5)]
    assert torch.equal(whole, torch.cat(pieces))


def test_every_epoch_shows_each_picture_once_in_another_order(ramps: PictureSet) -> None:
    images = PictureStream(ramps, seed=1, flip=False).micro_batch(0, 7 * 20)["images"]
    starts = (images[:, 0, 0, 0] // 20).reshape(20, 7)
    assert (starts.sort(1).values == torch.arange(7)).all()
    assert len({tuple(epoch.tolist()) for epoch in starts}) > 15


def test_flips_come_for_half_of_the_numbers_and_mirror(ramps: PictureSet) -> None:
    plain = PictureStream(ramps, seed=2, flip=False).micro_batch(0, 400)["images"]
    flipped = PictureStream(ramps, seed=2, flip=True).micro_batch(0, 400)["images"]
    same = (plain == flipped).flatten(1).all(1)
    assert 150 < int(same.sum()) < 250
    assert torch.equal(flipped[~same], plain[~same].flip(-1))


def test_another_seed_is_another_sequence(ramps: PictureSet) -> None:
    first, second = (PictureStream(ramps, s, False).micro_batch(0, 30)["images"] for s in (0, 1))
    assert not torch.equal(first, second)


def test_labelled_streams_keep_picture_and_labels_together() -> None:
    data = open_labelled("toy://default?count=3&seed=1", 16)
    batch = LabelledStream(data, seed=0).micro_batch(2, 9)
    assert batch["images"].shape == (9, 3, 16, 16) and batch["labels"].shape == (9, 16, 16)
    known = {data.read(i)[0].tobytes(): data.read(i)[1].tobytes() for i in range(3)}
    for image, labels in zip(batch["images"], batch["labels"], strict=True):
        assert known[image.permute(1, 2, 0).numpy().tobytes()] == labels.numpy().tobytes()
    with pytest.raises(DataError, match="one size"):
        LabelledStream(open_labelled("toy://default?count=3", None), 0)


@given(st.sets(st.text(min_size=1, max_size=6), min_size=2, max_size=30), st.integers(0, 2**40), st.randoms())
def test_k_shot_subsets_nest_and_ignore_listing_order(names: set[str], seed: int, shuffler) -> None:
    ordered = sorted(names)
    listed = list(ordered)
    shuffler.shuffle(listed)
    largest = [ordered[i] for i in nested_subset(ordered, len(ordered), seed)]
    assert sorted(largest) == ordered
    for k in range(1, len(ordered) + 1):
        assert [listed[i] for i in nested_subset(listed, k, seed)] == largest[:k]


def test_subsets_differ_by_seed_and_refuse_what_cannot_be() -> None:
    names = [f"p{i}" for i in range(30)]
    assert len({tuple(nested_subset(names, 5, seed)) for seed in range(20)}) > 15
    with pytest.raises(DataError, match="cannot take 31 of 30"):
        nested_subset(names, 31, 0)
    with pytest.raises(DataError, match="repeat"):
        nested_subset(["a", "a"], 1, 0)


FEW = "toy://default?count=3&seed=1"


def test_mirrored_pairs_swap_left_and_right() -> None:
    data = open_labelled(FEW, 16)
    plain = LabelledStream(data, seed=2).micro_batch(0, 24)
    mirrored = LabelledStream(data, seed=2, flip=True).micro_batch(0, 24)
    lut = torch.from_numpy(data.labels.flip_lut)
    kinds = set()
    for i in range(24):
        same = torch.equal(plain["images"][i], mirrored["images"][i])
        kinds.add(same)
        wanted = plain["labels"][i] if same else lut[plain["labels"][i].flip(-1).long()]
        assert torch.equal(mirrored["labels"][i], wanted)
        assert same or torch.equal(mirrored["images"][i], plain["images"][i].flip(-1))
    assert kinds == {True, False}


def test_pairs_with_replacement_resume_anywhere_and_all_come() -> None:
    data = open_labelled(FEW, 16)
    whole = LabelledStream(data, seed=4, with_replacement=True).micro_batch(0, 30)["images"]
    pieces = [LabelledStream(data, 4, with_replacement=True).micro_batch(i, 6)["images"] for i in range(0, 30, 6)]
    assert torch.equal(whole, torch.cat(pieces))
    drawn = [next(j for j in range(3) if np.array_equal(data.read(j)[0], p)) for p in whole.permute(0, 2, 3, 1).numpy()]
    assert set(drawn) == {0, 1, 2}
    assert any(sorted(drawn[i : i + 3]) != [0, 1, 2] for i in range(0, 30, 3)), "not in turn"


def test_two_streams_side_by_side() -> None:
    pictures, labelled = open_pictures("toy://default?count=5&seed=0", 16), open_labelled(FEW, 16)
    both = WithLabelled(pictures, labelled)
    assert len(both) == 8 and np.array_equal(both.read(5), labelled.read(0)[0])
    stream = JointStream(PictureStream(both, 0, False), LabelledStream(labelled, 0))
    batch = stream.micro_batch(8, 8)
    assert {name: tuple(t.shape) for name, t in batch.items()} == {
        "images": (8, 3, 16, 16), "labelled_images": (8, 3, 16, 16), "labels": (8, 16, 16)
    }  # fmt: skip
    again = stream.micro_batch(12, 4)
    assert all(torch.equal(batch[name][4:], again[name]) for name in batch)
