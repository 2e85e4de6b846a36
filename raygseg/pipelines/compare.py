"""Which route serves these labels: every arm trained alike, scored on pictures it has not seen, one table.

OUT/draw-D/labelled/           the k pictures of draw D and their folds
OUT/draw-D/SPLIT/ARM/          a training (SPLIT: fold-0, ..., or all)
OUT/cells/*.npz, *.json, *.png what each scored, picture by picture, what it cost, what it looks like
OUT/table.md, compare.json, report.html, winner.yaml

Every cell is stored when it is done, and a training that was cut short goes on: the same command resumes.
The folds (or `validation`) decide; `tests` are shown and decide nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from raygseg.config.loader import resolved_yaml
from raygseg.config.schema import GAN_ARMS, CompareConfig
from raygseg.data import object_store
from raygseg.labels import LabelSpace
from raygseg.metrics.paired import DECIDING, Ends, OverDraws, difference, over_draws
from raygseg.pipelines import run_folder
from raygseg.pipelines.compare_arms import ARMS, PAIR_ARMS, Place, chosen_arms, share_pairs
from raygseg.pipelines.compare_trial import Cell, Cost, Trial

Progress = Callable[..., None]  # (stage, done, total, facts)


@dataclass(frozen=True)
class Row:
    """One arm: its figures by set, its cost, and how far it is behind the best on the deciding set.

    `coverage`: by set, the share of the pictures that the arm did not refuse.
    """

    arm: str
    sets: Mapping[str, OverDraws]
    cost: Cost
    behind: float
    behind_ends: Ends
    coverage: Mapping[str, float]


@dataclass(frozen=True)
class CompareResult:
    """What `compare` found.

    Attributes:
        recommended: the best arm on the deciding set. reason: in a sentence.
        rows: one an arm, best first. decided_by: folds or validation.
        output, files: what was written.
    """

    recommended: str
    reason: str
    decided_by: str
    rows: list[Row] = field(repr=False)
    labels: LabelSpace = field(repr=False)
    output: str
    files: dict[str, str]


def compare(config: CompareConfig, progress: Progress | None = None) -> CompareResult:
    """Run every arm on every draw and fold that is not done, then write the table, the page and the winner.

    Args:
        config: see `CompareConfig`.
        progress: called as (stage, done, total, facts); one unit is a training or a scoring.

    Raises:
        FingerprintError: OUT holds another comparison. ConfigError: an arm that cannot run.
        KeyboardInterrupt: what was done is stored; the same command goes on.
    """
    from raygseg.pipelines.compare_report import write_results

    arms = chosen_arms(config)
    place = run_folder.place_of(config)
    run_folder.claim(place, config)
    trial = Trial(config, place)
    work = list(trial.cells(arms))
    if places := trial.unfinished(PAIR_ARMS & set(arms)):
        share_pairs(config, places, progress)
    for number, cell in enumerate(work):
        trial.run(cell, _within(progress, number, len(work), cell))
    if progress is not None:
        progress("compare", len(work), len(work), {})
    rows = ranked(trial, arms)
    recommended, reason = recommendation(rows, trial.decided_by)
    files = write_results(config, place, rows, trial.labels, trial.decided_by, reason, trial.plates(arms))
    winner = ARMS[recommended].file(config, winner_place(trial, recommended))
    object_store.write_bytes(files["winner"], winner_text(config, recommended, winner).encode())
    return CompareResult(recommended, reason, trial.decided_by, rows, trial.labels, place, files)


def _within(progress: Progress | None, number: int, count: int, cell: Cell) -> Progress | None:
    """What a cell tells of its own progress, as a part of the whole."""
    if progress is None:
        return None

    def tell(stage: str, done: float, total: float, facts: Mapping[str, Any] | None = None) -> None:
        part = round(number + min(1.0, done / total if total else 0.0), 2)
        told = {"cell": cell.name, "now": stage, **{k: v for k, v in (facts or {}).items() if k == "loss"}}
        progress("compare", part, count, told)

    tell("start", 0, 1)
    return tell


def ranked(trial: Trial, arms: list[str]) -> list[Row]:
    """Every arm's figures, best on the deciding set first; of equals the simpler."""
    config, labels = trial.config, trial.labels
    counts = {arm: {name: trial.counts(arm, name) for name in trial.sets()} for arm in arms}
    figures = {
        arm: {name: over_draws(c, labels, config.bootstrap, config.seed) for name, c in sets.items()}
        for arm, sets in counts.items()
    }
    decider = trial.decided_by
    order = sorted(arms, key=lambda arm: -figures[arm][decider].figures[DECIDING])
    rows = []
    for arm in order:
        gap, ends = difference(counts[arm][decider], counts[order[0]][decider], labels, config.bootstrap, config.seed)
        coverage = {name: trial.coverage(arm, name) for name in trial.sets()}
        rows.append(Row(arm, figures[arm], trial.cost(arm), gap, ends, coverage))
    return rows


def recommendation(rows: list[Row], decided_by: str) -> tuple[str, str]:
    """The best arm on the deciding set, and what can be said of the others, in a sentence."""
    best, others = rows[0], rows[1:]
    score = 100 * best.sets[decided_by].figures[DECIDING]
    text = f"{best.arm} ({ARMS[best.arm].text}): {score:.1f} mIoU of the parts by {decided_by}"
    close = [row.arm for row in others if row.behind_ends[1] >= 0]
    if not others:
        return best.arm, f"{text}; nothing was set beside it"
    if not close:
        return best.arm, f"{text}, ahead of every other arm beyond the interval of the pictures"
    cheapest = min([best, *(row for row in others if row.arm in close)], key=lambda row: row.cost.train_s)
    remark = f"{text}; not told apart from it by these pictures: {', '.join(close)}"
    return best.arm, remark if cheapest is best else f"{remark}; the cheapest of them is {cheapest.arm}"


def winner_place(trial: Trial, arm: str) -> Place:
    """Where the winner learns from: the first draw's k pictures, through the source itself where no more is needed.

    An arm through a generator takes the projections and pairs of that draw, which are there if it was scored
    on anything but the folds, and are made if not.
    """
    if arm in GAN_ARMS:
        return trial.place_of(0, "all")
    return Place(trial.config.labelled, f"{trial.place}/winner", trial.config.seed)


def winner_text(config: CompareConfig, arm: str, run: Any) -> str:
    """The winning arm on all k pictures, as a file that `raygseg train` runs."""
    limit = {"labelled_limit": config.shots} if config.shots and "labelled_limit" in type(run).model_fields else {}
    run = run.model_copy(update={"name": f"{config.name}-winner", **limit})
    run = run.model_copy(update={"runtime": run.runtime.model_copy(update={"output": "", "tracking_uri": ""})})
    lines = [f"# The arm '{arm}' of the comparison {config.name}, on all its labelled pictures.",
             "# raygseg train THIS-FILE"]  # fmt: skip
    return "\n".join(lines) + "\n" + resolved_yaml(run)
