"""A draw is a source like any other; its folds hold every picture out once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raygseg.data.draws import fold_splits, write_draw
from raygseg.data.sources import open_labelled
from raygseg.data.splits import nested_subset
from raygseg.errors import ConfigError

SOURCE = "toy://default?count=9&seed=1&size=32"


def test_reads_back_as_a_source(tmp_path: Path) -> None:
    data = open_labelled(SOURCE, None)
    place = str(tmp_path / "draw")
    splits = write_draw(data, 5, 2, 3, place)
    back = open_labelled(place, None)
    assert len(back) == 5 and back.labels == data.labels
    for i, index in enumerate(nested_subset(data.names, 5, 3)):
        for stored, original in zip(back.read(i), data.read(index), strict=True):
            assert np.array_equal(stored, original)
    held_out = [open_labelled(f"{place}?split=fold-{f}-out", None).names for f in range(2)]
    assert sorted(name for names in held_out for name in names) == sorted(back.names)
    assert len(open_labelled(f"{place}?split=fold-0", None)) == len(splits["fold-0"]) == 2


def test_what_is_there_stays(tmp_path: Path) -> None:
    data, place = open_labelled(SOURCE, None), str(tmp_path / "draw")
    write_draw(data, 4, 2, 0, place)
    before = (tmp_path / "draw" / "images" / "0.png").stat().st_mtime_ns
    assert write_draw(data, 4, 2, 0, place)["all"] == ["0", "1", "2", "3"]
    assert (tmp_path / "draw" / "images" / "0.png").stat().st_mtime_ns == before


def test_every_name_is_held_out_once() -> None:
    splits = fold_splits(list("abcdefg"), 3)
    assert sorted(name for f in range(3) for name in splits[f"fold-{f}-out"]) == list("abcdefg")
    for fold in range(3):
        assert not set(splits[f"fold-{fold}"]) & set(splits[f"fold-{fold}-out"])


def test_more_folds_than_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="4 labelled pictures cannot be parted into 5"):
        write_draw(open_labelled(SOURCE, None), 4, 5, 0, str(tmp_path))
