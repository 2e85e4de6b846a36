"""The whole chain in small: real Ray workers, Parquet, MLflow store and registry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raygseg.bundle import verify_bundle
from raygseg.pipelines.quickstart import Sizes, quickstart

SMALL = Sizes(taste_kimg=0.064, num_pairs=192, student_kimg=0.512, head_steps=12)


@pytest.mark.timeout(600)
def test_the_chain_ends_with_a_registered_model_and_goes_on_when_called_again(tmp_path: Path) -> None:
    result = quickstart(str(tmp_path), sizes=SMALL)
    assert 0 <= result.student_miou_foreground <= 1
    assert "<html" in Path(result.report).read_text()
    verify_bundle(tmp_path / "pulled")
    photos = sorted((tmp_path / "photos").glob("*.jpg"))
    masks = sorted((tmp_path / "segmented" / "masks").glob("*.png"))
    assert len(masks) == len(photos) == 12
    for photo, mask in zip(photos, masks, strict=True):
        assert Image.open(mask).size == Image.open(photo).size
        assert int(np.asarray(Image.open(mask)).max()) < 9
    pairs = {file: file.stat().st_mtime_ns for file in (tmp_path / "pairs").rglob("*.parquet")}
    assert pairs
    again = quickstart(str(tmp_path), sizes=SMALL)
    assert again.student_miou_foreground == result.student_miou_foreground
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "pairs").rglob("*.parquet")} == pairs
