"""What the network is given: marks, void, ways, sizes."""

from __future__ import annotations

import numpy as np
import pytest

from raygseg.config.episodes import EpisodeProtocol, named_protocol
from raygseg.data.episodes.draws import Episode
from raygseg.data.episodes.reading import read_episode, read_marks, read_truth
from raygseg.errors import DataError
from tests.unit.data.episodes.sets import Blocks

SET = Blocks([[1, 2], [2, 3], [3], [1]])
INDEX = SET.index(3)
FAIR = EpisodeProtocol()


def test_marks_leave_out_void_and_other_ways() -> None:
    truth = SET.class_map(0)
    marks = read_marks(INDEX, 0, (1, 0), 0, 24, FAIR)  # way 0 is class c2
    assert (marks.fore == (truth == 2)).all()
    assert (marks.back == (truth == 0)).all(), "void and the other way are in neither"
    assert (read_marks(INDEX, 0, (1,), 0, 24, FAIR).back == np.isin(truth, (0, 1))).all(), (
        "other classes are background"
    )
    released = read_marks(INDEX, 0, (1, 0), 0, 24, named_protocol("panet_release"))
    assert (released.back == np.isin(truth, (0, 255))).all() and (released.fore == marks.fore).all()


def test_truth_has_every_way_and_keeps_void() -> None:
    truth = SET.class_map(1)
    expected = np.select([truth == 255, truth == 3, truth == 2], [255, 1, 2], 0)
    assert (read_truth(INDEX, 1, (2, 1), None) == expected).all()
    assert (read_truth(INDEX, 1, (0, 1), None) == np.select([truth == 255, truth == 2], [255, 2], 0)).all(), "one shown"
    assert read_truth(INDEX, 1, (2, 1), 12).shape == (12, 12)


def test_an_episode_has_the_agreed_arrays() -> None:
    arrays = read_episode(INDEX, Episode((0, 2), ((0, 3), (1, 2)), (1,)), 16, FAIR)
    assert {name: array.shape for name, array in arrays.items()} == {
        "support_images": (2, 2, 3, 16, 16), "fore": (2, 2, 16, 16), "back": (2, 2, 16, 16),
        "query_images": (1, 3, 16, 16), "query_labels": (1, 16, 16),
    }  # fmt: skip
    assert all(array.dtype == np.uint8 for array in arrays.values())


def test_an_empty_mask_names_the_file_and_the_class() -> None:
    with pytest.raises(DataError, match=r"p002\.png: empty mask, no pixel of c1"):
        read_marks(INDEX, 2, (0,), 0, 24, FAIR)


def test_weak_labels_see_the_mask_and_what_to_ignore() -> None:
    seen = {}

    def annotate(mask: np.ndarray, ignore: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        seen["mask"], seen["ignore"] = mask, ignore
        fore = np.zeros_like(mask)
        fore[tuple(np.argwhere(mask)[rng.integers(mask.sum())])] = True
        return fore, ~mask & ~ignore

    marks = read_marks(INDEX, 0, (1, 0), 0, 24, FAIR, annotate, np.random.default_rng(0))
    truth = SET.class_map(0)
    assert (seen["mask"] == (truth == 2)).all() and (seen["ignore"] == np.isin(truth, (1, 255))).all()
    assert marks.fore.sum() == 1 and marks.fore.dtype == np.uint8
    # where void is background, so it is for who marks
    read_marks(INDEX, 0, (1, 0), 0, 24, named_protocol("panet_release"), annotate, np.random.default_rng(0))
    assert (seen["ignore"] == (truth == 1)).all()


def test_a_class_that_a_smaller_map_loses_has_no_marks() -> None:
    """As with whole masks: the way's prototype is zero, the episode counts."""

    class Speck(Blocks):
        def class_map(self, row: int) -> np.ndarray:
            found = np.zeros((24, 24), np.uint8)
            found[1, 1] = 1
            return found

    def annotate(mask: np.ndarray, ignore: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        raise AssertionError("there is nothing to mark")

    index = Speck([[1]]).index(1)
    marks = read_marks(index, 0, (0,), 0, 4, FAIR, annotate, np.random.default_rng(0))
    assert not marks.fore.any() and marks.back.all()


def test_a_query_without_its_class_is_named() -> None:
    with pytest.raises(DataError, match=r"p002\.png: empty mask, no pixel of c1"):
        read_truth(INDEX, 2, (0,), None)


def test_resampling_is_what_the_protocol_says() -> None:
    smooth, plain = (read_episode(INDEX, Episode((0,), ((0,),), (3,)), 10, p) for p in (FAIR, named_protocol("hsnet")))
    assert (smooth["query_images"] != plain["query_images"]).any()
    assert (smooth["fore"] == plain["fore"]).all()
