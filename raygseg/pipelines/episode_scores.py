"""What an evaluation by episodes found: scores from counts, scores.json and table.md with protocol and digests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raygseg.config.episodes import EpisodesConfig
from raygseg.data import object_store
from raygseg.data.episodes.draws import EpisodeList
from raygseg.data.episodes.index import ClassIndex
from raygseg.metrics.episodes import RunScores, class_counts, run_scores
from raygseg.pipelines.episode_store import ListCounts, list_name


@dataclass(frozen=True)
class EpisodesResult:
    """What `score_episodes` found and wrote.

    Attributes:
        scores: by number of shots.
        classes: novel classes that were asked about. counts: by shots, [E, 1 + N, 3] of each run.
        protocol: in words. episodes: digest of each list, by name.
        left_out: episodes that could not be read. few: classes with too few pictures.
        output: the folder. files: what was written there, by purpose.
    """

    scores: Mapping[int, RunScores]
    counts: Mapping[int, list[Any]]
    classes: tuple[str, ...]
    protocol: str
    episodes: Mapping[str, str]
    left_out: int
    few: tuple[str, ...]
    output: str
    files: Mapping[str, str]


@dataclass(frozen=True)
class Asked:
    """What is asked in a fold: the lists of episodes, and what they are of.

    Attributes:
        index: of the pictures that may be shown. classes: of the fold. few: of those, left out for want of pictures.
    """

    index: ClassIndex
    classes: tuple[str, ...]
    few: tuple[str, ...]
    lists: tuple[EpisodeList, ...]
    split: str


def result_of(
    config: EpisodesConfig, asked: Asked, counted: Sequence[ListCounts], place: str, protocol: str
) -> EpisodesResult:
    """protocol: in words."""
    positions = [asked.index.position(name) for name in asked.classes]
    place_of = np.full(len(asked.index.classes), -1, np.int64)
    place_of[positions] = np.arange(len(positions))
    by_shots: dict[int, list[Any]] = {}
    for episodes, counts in zip(asked.lists, counted, strict=True):
        ways = place_of[episodes.rows[:, : episodes.ways]]
        kept = class_counts(counts.confusions, ways, len(positions), config.protocol.false_positives)
        by_shots.setdefault(episodes.shots, []).append(kept)
    scores = {shots: run_scores(runs, config.bootstrap, config.seed) for shots, runs in by_shots.items()}
    names = {"scores": "scores.json", "table": "table.md"}
    return EpisodesResult(
        scores,
        by_shots,
        asked.classes,
        protocol,
        {list_name(x): x.digest for x in asked.lists},
        sum(len(counts.left_out) for counts in counted),
        asked.few,
        place,
        {purpose: object_store.join(place, name) for purpose, name in names.items()},
    )


def write_scores(config: EpisodesConfig, result: EpisodesResult, asked: Asked, network: str, seconds: float) -> None:
    """scores.json and table.md."""
    record = {
        "name": config.name,
        "model": config.model or "VGG-16 as ImageNet left it, no training",
        "network": network,
        "data": config.data,
        "index": asked.index.fingerprint,
        "protocol": result.protocol,
        "split": asked.split,
        "fold": config.fold,
        "ways": config.ways,
        "marks": config.marks,
        "resolution": config.resolution,
        "episodes": dict(result.episodes),
        "episodes_a_run": config.episodes,
        "left_out": result.left_out,
        "classes_with_too_few_pictures": list(result.few),
        "seconds": round(seconds, 1),
        "scores": {str(shots): score_values(scores, result.classes) for shots, scores in result.scores.items()},
    }
    object_store.write_bytes(result.files["scores"], (json.dumps(record, indent=1) + "\n").encode())
    object_store.write_bytes(result.files["table"], markdown(config, result, asked.split).encode())


def score_values(scores: RunScores, classes: Sequence[str]) -> dict[str, Any]:
    """Plain values of a run's scores; an absent class is null."""
    return {
        "miou": scores.mean["miou"],
        "binary_iou": scores.mean["binary_iou"],
        "std": dict(scores.std),
        "by_run": dict(scores.by_run),
        "interval": {name: list(ends) for name, ends in scores.interval.items()},
        "class_iou": {n: None if np.isnan(v) else float(v) for n, v in zip(classes, scores.class_iou, strict=True)},
    }


def table_rows(result: EpisodesResult) -> list[dict[str, Any]]:
    """A row a number of shots, for a person; per cent."""
    rows = []
    for shots, scores in result.scores.items():
        ends = scores.interval.get("miou")
        rows.append(
            {
                "shots": shots,
                "mean-IoU": f"{100 * scores.mean['miou']:.1f}",
                "over runs": f"+- {100 * scores.std['miou']:.1f}",
                "95 %": f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}" if ends else "-",
                "binary-IoU": f"{100 * scores.mean['binary_iou']:.1f}",
            }
        )
    return rows


def markdown(config: EpisodesConfig, result: EpisodesResult, split: str) -> str:
    """One row a number of shots, in per cent, under the protocol that they hold for."""
    digests = ", ".join(f"{name} {digest}" for name, digest in result.episodes.items())
    rows = table_rows(result)
    heads = [*rows[0], *result.classes]
    lines = [
        f"Protocol {result.protocol}; test pictures: {split}; fold {config.fold}, {config.ways} way, marks:"
        f" {config.marks}, {config.resolution} px, {config.runs} x {config.episodes} episodes ({digests}).",
        "",
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
    ]
    for row, scores in zip(rows, result.scores.values(), strict=True):
        parts = ["-" if np.isnan(v) else f"{100 * v:.1f}" for v in scores.class_iou]
        lines.append(f"| {' | '.join([*map(str, row.values()), *parts])} |")
    return "\n".join(lines) + "\n"
