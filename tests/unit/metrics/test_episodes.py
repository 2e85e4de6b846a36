"""Scores of episodes against a brute-force count; what the released rule changes and what it does not."""

from __future__ import annotations

import numpy as np

from raygseg.metrics.episodes import class_counts, figures, iou, query_confusion, run_difference, run_scores

CLASSES, WAYS = 5, 2


def episodes(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truths and answers [E, 2, 9, 9], ways [E, 2]; some truths lack a way."""
    rng = np.random.default_rng(seed)
    truths, answers = rng.integers(0, WAYS + 1, (2, count, 2, 9, 9))
    truths[rng.random((count, 2)) < 0.4] %= 2  # way 1 only
    truths[:, :, :2] = 255
    ways = np.stack([rng.permutation(CLASSES)[:WAYS] for _ in range(count)])
    return truths.astype(np.uint8), answers.astype(np.uint8), ways


def brute_force(truths: np.ndarray, answers: np.ndarray, ways: np.ndarray, present: bool) -> np.ndarray:
    """[1 + N, 3], pixel by pixel."""
    counts = np.zeros((1 + CLASSES, 3), int)
    for truth, answer, own in zip(truths, answers, ways, strict=True):
        for t, a in zip(truth, answer, strict=True):
            shown = set(t[t != 255].tolist())
            for true, said in zip(t.ravel().tolist(), a.ravel().tolist(), strict=True):
                if true == 255:
                    continue
                rows = {0: 0, 1: 1 + own[0], 2: 1 + own[1]}
                if true == said:
                    counts[rows[true], 0] += 1
                else:
                    counts[rows[said], 1] += said in shown or not present
                    counts[rows[true], 2] += 1
    return counts


def counted(truths: np.ndarray, answers: np.ndarray, ways: np.ndarray, rule: str) -> np.ndarray:
    confusions = np.stack(
        [
            np.stack([query_confusion(t, a, WAYS) for t, a in zip(ts, as_, strict=True)])
            for ts, as_ in zip(truths, answers, strict=True)
        ]
    )
    return class_counts(confusions, ways, CLASSES, rule)  # type: ignore[arg-type]


def test_counts_equal_brute_force_under_both_rules() -> None:
    sample = episodes(12)
    fair, released = (counted(*sample, rule) for rule in ("counted", "present"))
    assert (fair.sum(0) == brute_force(*sample, False)).all()
    assert (released.sum(0) == brute_force(*sample, True)).all()
    differs = fair != released
    assert differs[..., 1].any() and not differs[..., [0, 2]].any(), "only false positives of absent ways"


def test_one_way_queries_that_show_their_class_do_not_tell_the_rules_apart() -> None:
    truths, answers, ways = episodes(10)
    truths, answers = np.minimum(truths, 1) + 254 * (truths == 255).astype(np.uint8), np.minimum(answers, 1)
    confusions = np.stack(
        [np.stack([query_confusion(t, a, 1) for t, a in zip(*pair)]) for pair in zip(truths, answers)]
    )
    assert (confusions.sum(-1) > 0).all()
    both = [class_counts(confusions, ways[:, :1], CLASSES, rule) for rule in ("counted", "present")]
    assert (both[0] == both[1]).all()


def test_figures_are_ratios_of_sums() -> None:
    counts = np.array([[80, 10, 10], [30, 10, 20], [0, 0, 0], [10, 0, 40]])
    found = figures(counts)
    assert np.isclose(found["miou"], (30 / 60 + 10 / 50) / 2), "a class that no episode shows is left out"
    assert np.isclose(found["binary_iou"], (80 / 100 + 40 / 110) / 2)
    assert np.isnan(iou(counts)[2])


def test_runs_give_mean_spread_and_an_interval_that_holds_it() -> None:
    runs = [counted(*episodes(60, seed), "counted") for seed in range(3)]
    scores = run_scores(runs, 300, 0)
    each = [float(figures(run.sum(0))["miou"]) for run in runs]
    assert np.isclose(scores.mean["miou"], np.mean(each)) and np.isclose(scores.std["miou"], np.std(each, ddof=1))
    low, high = scores.interval["miou"]
    assert low < scores.mean["miou"] < high and high - low < 0.1
    assert scores.class_iou.shape == (CLASSES,)
    assert run_scores(runs[:1], 0, 0).interval == {} and run_scores(runs[:1], 0, 0).std["miou"] == 0


def test_a_small_gain_on_the_same_episodes_is_seen() -> None:
    truths, answers, ways = episodes(80)
    better = answers.copy()
    better[:, :, 4] = np.where(truths[:, :, 4] == 255, 0, truths[:, :, 4])
    old, new = (counted(truths, a, ways, "counted") for a in (answers, better))
    gain, low, high = run_difference([new], [old], 300, 0)["miou"]
    assert 0 < low < gain < high
    separate = [run_scores([x], 300, 0).interval["miou"] for x in (new, old)]
    assert high - low < sum(b - a for a, b in separate), "narrower than two intervals apart"
    same = run_difference([old], [old], 50, 0)["miou"]
    assert same == (0, 0, 0)
