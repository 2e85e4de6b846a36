from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raygseg.data.pairs import decode_pairs, encode_pairs, pair_schema, spread, table_bytes
from raygseg.data.picture_files import decode_mask
from raygseg.errors import DataError
from raygseg.interfaces import Pairs
from raygseg.labels import LabelSpace
from raygseg.seeding import torch_rng


def random_pairs(count: int, classes: int, resolution: int, seed: int = 0, sharpness: float = 3.0) -> Pairs:
    rng = torch_rng(seed, "pairs")
    images = torch.randint(0, 256, (count, 3, resolution, resolution), generator=rng, dtype=torch.uint8)
    logits = sharpness * torch.randn((count, classes, resolution, resolution), generator=rng)
    return Pairs(images, logits.softmax(1), torch.rand(count, generator=rng))


def through_parquet(table):
    from pyarrow import parquet

    return parquet.read_table(io.BytesIO(table_bytes(table)))


@given(
    count=st.integers(1, 5), classes=st.integers(1, 40), resolution=st.sampled_from([1, 4, 8, 16]),
    seed=st.integers(0, 2**32), sharpness=st.sampled_from([0.0, 1.0, 3.0, 50.0]),
)  # fmt: skip
def test_rows_come_back(count: int, classes: int, resolution: int, seed: int, sharpness: float) -> None:
    pairs = random_pairs(count, classes, resolution, seed, sharpness)
    seeds = [seed + i for i in range(count)]
    back = decode_pairs(through_parquet(encode_pairs(pairs, seeds)), classes)
    assert torch.equal(back.images, pairs.images)
    assert back.seeds.tolist() == seeds
    assert torch.equal(back.scores, pairs.scores)
    assert back.probabilities.shape == pairs.probabilities.shape
    assert (back.probabilities.sum(1) - 1).abs().max() < 1e-5
    # The two kept classes are right to the rounding, and to how far rounding took their sum past 1.
    first, top = pairs.probabilities.max(1, keepdim=True)
    assert (back.probabilities.gather(1, top) - first).abs().max() <= 1.01 / 255
    rest = 1 - pairs.probabilities.topk(min(2, classes), 1).values.sum(1)
    worst = (back.probabilities - pairs.probabilities).abs().amax(1)
    assert (worst <= rest.clamp(min=0) + 1.01 / 255).all()


def test_two_classes_are_exact_to_the_rounding() -> None:
    pairs = random_pairs(4, 2, 8)
    back = decode_pairs(encode_pairs(pairs, range(4)), 2)
    assert (back.probabilities - pairs.probabilities).abs().max() <= 0.5 / 255 + 1e-6


def test_what_two_classes_leave_is_shared_equally() -> None:
    classes = torch.tensor([2, 0], dtype=torch.uint8).view(1, 2, 1, 1)
    levels = torch.tensor([153, 51], dtype=torch.uint8).view(1, 2, 1, 1)  # 0.6 and 0.2
    spread_out = spread(classes, levels, 4).flatten()
    assert torch.allclose(spread_out, torch.tensor([0.2, 0.1, 0.6, 0.1]), atol=1e-6)


def test_the_mask_is_the_likeliest_class_with_the_palette() -> None:
    from PIL import Image

    space = LabelSpace(("background", "a", "b"), ((0, 0, 0), (10, 20, 30), (200, 100, 50)))
    pairs = random_pairs(3, 3, 8)
    table = encode_pairs(pairs, [7, 8, 9], space)
    for row in range(3):
        cell = table.column("mask")[row].as_py()
        assert np.array_equal(decode_mask(cell["bytes"]), pairs.probabilities[row].argmax(0).numpy())
        colours = np.asarray(Image.open(io.BytesIO(cell["bytes"])).convert("RGB"))
        assert np.array_equal(colours, space.colourise(pairs.probabilities[row].argmax(0).numpy()))
        assert table.column("image")[row].as_py()["path"] == f"{7 + row}.png"


def test_ties_go_to_the_lower_class() -> None:
    even = Pairs(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.full((1, 5, 4, 4), 0.2), torch.zeros(1))
    cell = encode_pairs(even, [0]).column("top2_classes")[0].as_py()
    assert cell == bytes([0] * 16 + [1] * 16)


@pytest.mark.parametrize("image_format", ["jpeg", "webp"])
def test_lossy_formats_stay_close_and_masks_exact(image_format: str) -> None:
    y, x = np.mgrid[:32, :32]
    smooth = torch.from_numpy(np.stack([x * 8, y * 8, 255 - x * 4]).astype(np.uint8))[None]
    pairs = random_pairs(1, 4, 32)._replace(images=smooth)
    back = decode_pairs(encode_pairs(pairs, [0], image_format=image_format), 4)
    assert (back.images.int() - smooth.int()).abs().float().mean() < 6
    exact = decode_pairs(encode_pairs(pairs, [0]), 4)
    assert torch.equal(back.probabilities, exact.probabilities)


def test_the_same_table_gives_the_same_bytes() -> None:
    tables = [encode_pairs(random_pairs(6, 5, 16), range(6)) for _ in range(2)]
    assert table_bytes(tables[0]) == table_bytes(tables[1])


def test_values_that_are_not_finite_are_refused() -> None:
    pairs = random_pairs(2, 3, 4)
    pairs.probabilities[1, 2, 0, 0] = float("nan")
    with pytest.raises(DataError, match="not finite"):
        encode_pairs(pairs, [0, 1])
    scores = random_pairs(2, 3, 4)._replace(scores=torch.tensor([0.0, float("inf")]))
    with pytest.raises(DataError, match="seed 12: its score"):
        encode_pairs(scores, [11, 12])


def test_too_few_classes_are_named_with_the_seed() -> None:
    table = encode_pairs(random_pairs(3, 6, 8), [5, 6, 7])
    with pytest.raises(DataError, match=r"seed 5: class 5 is out of range for 3 classes"):
        decode_pairs(table, 3)


def test_the_schema_speaks_hugging_face() -> None:
    features = json.loads(pair_schema().metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == features["mask"] == {"_type": "Image"}
    assert list(features) == pair_schema().names
