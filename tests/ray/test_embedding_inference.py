"""Embedding many pictures with Ray actors gives the masks that one process gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raygseg.bundle import write_bundle
from raygseg.pipelines.segment import segment
from tests.unit.methods.semanticgan.tiny_joint import (
    FEATURES,
    as_pictures,
    drawn,
    generator_build,
    joint_generator,
    tiny_segmenter,
)

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_actors_give_the_masks_of_one_process(tmp_path: Path) -> None:
    made = tiny_segmenter(steps=2)
    bundle = write_bundle(tmp_path / "bundle", made.to_bundle(generator_build(made.codec), FEATURES))
    (tmp_path / "photos").mkdir()
    for i, picture in enumerate(as_pictures(drawn(joint_generator(made.codec), 10))):
        Image.fromarray(picture).save(tmp_path / "photos" / f"{i}.png")
    places = {actors: tmp_path / f"masks-{actors}" for actors in (0, 2)}
    for actors, place in places.items():
        result = segment(str(bundle), str(tmp_path / "photos"), str(place), actors=actors, batch_size=4, overlays=False)
        assert result.segmented == 10
    for i in range(10):
        one, other = (np.asarray(Image.open(place / "masks" / f"{i}.png")) for place in places.values())
        assert (one == other).mean() > 0.995
