"""The served wrappers: shapes, types and parameters, around small stand-ins for the networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raygseg.bundle import Bundle, write_bundle
from raygseg.errors import CheckpointError, DataError
from raygseg.interfaces import Pairs, Picture, Rendering, Segmentation
from raygseg.labels import LabelSpace
from raygseg.pipelines import serving


class RedIsPart:
    """A segmenter for which red above 127 is class 1; confidence is the red channel."""

    labels = LabelSpace(("background", "part"))
    resolution = 8

    def predict(self, pictures: Sequence[Picture]) -> list[Segmentation]:
        assert len(pictures) <= serving.BATCH
        return [Segmentation((p[..., 0] > 127).astype(np.uint8), p[..., 0]) for p in pictures]

    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        raise AssertionError("not asked for")


class SeedColour:
    """Sampler and generator whose picture has the seed's colour."""

    labels = LabelSpace(("background", "part"))
    resolution, num_ws, w_dim, feature_layers = 4, 1, 1, ()

    def sample(self, seeds: Sequence[int]) -> Pairs:
        shade = torch.tensor(seeds, dtype=torch.uint8)[:, None, None, None]
        part = (shade % 2).float().expand(-1, 1, 4, 4)
        return Pairs(shade.expand(-1, 3, 4, 4), torch.cat([1 - part, part], 1), torch.tensor(seeds) / 10)

    def latents(self, seeds: Sequence[int], truncation_psi: float = 1.0) -> torch.Tensor:
        return torch.tensor(seeds, dtype=torch.float32)[:, None, None] * truncation_psi

    def render(self, ws: torch.Tensor, noise_seeds: Sequence[int] | None = None, layers: Any = ()) -> Rendering:
        return Rendering(ws[..., None].expand(-1, 3, 4, 4), {})


def test_segmenter_gives_label_maps_or_both() -> None:
    pictures = np.zeros((serving.BATCH + 3, 5, 7, 3), np.uint8)
    pictures[-1, 0, 0, 0] = 200
    served = serving.ServedSegmenter(RedIsPart())
    maps = served.predict(pictures)
    assert maps.shape == (serving.BATCH + 3, 5, 7) and maps.dtype == np.uint8
    assert maps.sum() == 1 and maps[-1, 0, 0] == 1
    both = served.predict(pictures, {"confidence": True})
    assert np.array_equal(both["label_map"], maps) and both["confidence"][-1, 0, 0] == 200
    assert served.predict(pictures[:0]).shape == (0, 5, 7)


@pytest.mark.parametrize("bad", [np.zeros((4, 4, 3), np.uint8), np.zeros((1, 4, 4, 3), np.float32)])
def test_segmenter_refuses_what_is_no_batch_of_pictures(bad: Any) -> None:
    with pytest.raises(DataError, match="pictures must be uint8"):
        serving.ServedSegmenter(RedIsPart()).predict(bad)


def test_sampler_and_generator_take_seeds() -> None:
    seeds = np.arange(serving.BATCH + 2)
    pairs = serving.ServedSampler(SeedColour()).predict(seeds)
    assert pairs["image"].shape == (18, 4, 4, 3) and (pairs["image"][17] == 17).all()
    assert (pairs["mask"][17] == 1).all() and (pairs["mask"][16] == 0).all() and pairs["score"][5] == 0.5
    generator = serving.ServedGenerator(SeedColour())
    assert (generator.predict(np.array([0, 1]))[1] == 255).all()
    assert (generator.predict(np.array([0, 1]), {"truncation_psi": 0.0})[1] == 128).all()
    with pytest.raises(DataError, match="seeds must be integers"):
        generator.predict(np.zeros(2))


def test_the_loader_verifies_and_knows_kinds(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "odd", Bundle("panda", {}, {"w": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match="kind 'panda' cannot be served"):
        serving._load_pyfunc(str(folder))
    (folder / "card.md").write_text("changed")
    with pytest.raises(CheckpointError, match=r"card\.md: checksum differs"):
        serving._load_pyfunc(str(folder))
