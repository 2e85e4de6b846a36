"""Episodes are data: the same from the same seeds, all different pictures, one shot within five, refused when short."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from raygseg.config.episodes import EpisodeProtocol
from raygseg.data.episodes.draws import EpisodeList, draw_episodes
from raygseg.data.episodes.training import TrainingEpisodes
from raygseg.errors import DataError
from tests.unit.data.episodes.sets import Blocks, blocks

INDEX = blocks().index()
NAMES = INDEX.classes


def test_episodes_follow_from_seed_fold_run_and_number_alone() -> None:
    drawn = draw_episodes(INDEX, NAMES, 2, 3, 1, 40, seed=5, fold=1, run=2)
    assert (draw_episodes(INDEX, NAMES, 2, 3, 1, 17, 5, 1, 2).rows == drawn.rows[:17]).all()
    others = [draw_episodes(INDEX, NAMES, 2, 3, 1, 40, *change) for change in ((6, 1, 2), (5, 0, 2), (5, 1, 3))]
    assert len({drawn.digest, *(other.digest for other in others)}) == 4
    assert all((other.rows != drawn.rows).any() for other in others)


def test_an_episode_shows_what_it_says() -> None:
    drawn = draw_episodes(INDEX, NAMES, 2, 4, 2, 60, 0, 0, 0)
    for number in range(len(drawn)):
        episode = drawn.episode(number)
        assert len(set(episode.ways)) == 2
        for way, support in zip(episode.ways, episode.support, strict=True):
            assert len(support) == 4 and set(support) <= set(INDEX.members[way].tolist())
        members = set().union(*(INDEX.members[way].tolist() for way in episode.ways))
        assert set(episode.queries) <= members
        shown = [p for support in episode.support for p in support] + list(episode.queries)
        assert len(set(shown)) == len(shown), "a picture twice in an episode"


def test_the_one_shot_lies_in_the_five_and_asks_the_same() -> None:
    one, five = (draw_episodes(INDEX, NAMES, 1, shots, 1, 30, 0, 0, 0) for shots in (1, 5))
    for number in range(30):
        small, large = one.episode(number), five.episode(number)
        assert small.ways == large.ways and small.queries == large.queries
        assert small.support[0][0] == large.support[0][0]


def test_all_classes_and_pictures_come_up() -> None:
    drawn = draw_episodes(INDEX, NAMES, 1, 1, 1, 600, 0, 0, 0)
    counts = np.bincount(drawn.rows[:, 0], minlength=4)
    assert counts.min() > 110 and len(drawn.pictures()) == len(INDEX)


def test_a_list_is_one_small_file_that_cannot_be_altered_unseen(tmp_path: Path) -> None:
    drawn = draw_episodes(INDEX, NAMES, 1, 5, 1, 20, 3, 0, 1)
    place = str(tmp_path / "list.json")
    drawn.save(place)
    again = EpisodeList.load(place)
    assert again.digest == drawn.digest and (again.rows == drawn.rows).all() and again.episode(3) == drawn.episode(3)
    document = json.loads(Path(place).read_text())
    document["rows"][0][1] += 1
    Path(place).write_text(json.dumps(document))
    with pytest.raises(DataError, match="not those of its digest"):
        EpisodeList.load(place)
    Path(place).write_text("[1]")
    with pytest.raises(DataError, match="not a list of episodes"):
        EpisodeList.load(place)


def test_too_few_pictures_are_refused_by_name() -> None:
    small = Blocks([[1], [1], [2], [2], [2]]).index(2)
    with pytest.raises(DataError, match=r"needs 3 pictures.*too few of: c1 \(2\)") as caught:
        draw_episodes(small, small.classes, 1, 2, 1, 5, 0, 0, 0)
    assert "min_pictures=3" in caught.value.hint
    with pytest.raises(DataError, match="3 ways need as many classes"):
        draw_episodes(small, small.classes, 3, 1, 1, 5, 0, 0, 0)


def test_ways_that_share_their_pictures_need_the_other_rule() -> None:
    both = Blocks([[1, 2], [1, 2], [1, 2]]).index(2)
    with pytest.raises(DataError, match="overlap too much"):
        draw_episodes(both, both.classes, 2, 2, 1, 5, 0, 0, 0)
    drawn = draw_episodes(both, both.classes, 2, 2, 1, 5, 0, 0, 0, distinct="class")
    assert all(len(set(support)) == 2 for support in drawn.episode(0).support)


def test_training_episodes_mirror_pictures_with_their_labels() -> None:
    plain, flipped = (TrainingEpisodes(INDEX, NAMES, 2, 2, 1, 24, 0, EpisodeProtocol(), flip) for flip in (False, True))
    turned = 0
    for number in range(6):
        a, b = plain.episode(number), flipped.episode(number)
        for way in range(2):
            for shot in range(2):
                names = ("support_images", "fore", "back")
                same = [(a[n][way, shot] == b[n][way, shot]).all() for n in names]
                mirrored = [(a[n][way, shot][..., ::-1] == b[n][way, shot]).all() for n in names]
                assert all(same) or all(mirrored)
                turned += not same[0]
    assert 4 < turned < 20
    assert plain.identity() != flipped.identity()
    assert (flipped.episode(3)["query_labels"] == flipped.episode(3)["query_labels"]).all()
    assert flipped.drawn(3) == plain.drawn(3) != plain.drawn(4)
