"""A segmenter trained on stretched pictures is shown stretched ones, whoever asks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raygseg.bundle import write_bundle
from raygseg.data.contrast import stretched
from raygseg.labels import LabelSpace
from raygseg.methods.student.segmenter import UNetSegmenter
from raygseg.nn.unet import UNet
from raygseg.pipelines.kinds import load_segmenter
from raygseg.pipelines.stretching import asks_for_stretch


def test_the_configuration_is_asked_wherever_a_source_stands() -> None:
    assert asks_for_stretch({"kind": "encoder", "data": {"source": "d?split=train&contrast=stretch"}})
    assert asks_for_stretch({"labelled": "d?contrast=stretch&split=train"})
    assert not asks_for_stretch({"data": {"source": "d?split=contrast"}, "steps": 3})


@pytest.mark.parametrize("source", ["nuclei?contrast=stretch", "nuclei"])
def test_a_loaded_segmenter_answers_for_pictures_as_they_are(tmp_path: Path, source: str) -> None:
    rng = np.random.default_rng(0)
    labels = LabelSpace(("background", "nucleus"))
    segmenter = UNetSegmenter(UNet(3, 2, width=8, depth=2), labels, 32)
    bundle = segmenter.to_bundle({"labelled": source})
    loaded = load_segmenter(write_bundle(tmp_path / "b", bundle))
    picture = rng.integers(0, 30, (32, 32, 3)).astype(np.uint8)
    shown = stretched(picture) if "stretch" in source else picture
    answer, expected = loaded.predict([picture])[0], segmenter.predict([shown])[0]
    assert np.array_equal(answer.label_map, expected.label_map)
    assert np.array_equal(answer.confidence, expected.confidence)
    assert loaded.labels == labels and loaded.resolution == 32
