"""Which route serves k labelled faces: five arms by k, draw and set, with the rungs where points are lost.

`compare` of configs/faces/compare.yaml at each k, in OUT/k-K, with a pretrained face generator that was framed
without labels; every photo is projected once and every generated picture rendered once for all heads of all k.
Beside it OUT/strong: the U-Net on all labelled training photos, which also judges the generated labels.
All arms train for as many steps; validation photos decide, test photos are only shown. Every cell is kept: the
same command goes on. Projecting takes half a minute a photo, so that arm sees 60 of the turned faces, evenly by yaw.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raygseg.benchmarks.faces import data_folder
from raygseg.config.loader import load_config
from raygseg.config.schema import CompareConfig
from raygseg.data.draws import write_chosen
from raygseg.data.pair_set import PairSet
from raygseg.data.pairs import stored_images, top_two
from raygseg.data.sources import open_labelled
from raygseg.labels import LabelSpace
from raygseg.metrics.confusion import confusion_counts
from raygseg.metrics.paired import Counts, over_draws
from raygseg.pipelines.compare import compare
from raygseg.pipelines.compare_arms import PAIR_ARMS, pairs_run
from raygseg.pipelines.compare_generator import FRAMED, KEPT, framed_generator
from raygseg.pipelines.compare_trial import Trial
from raygseg.pipelines.kinds import load_segmenter
from raygseg.pipelines.shared_pairs import Progress, write_shared
from raygseg.seeding import numpy_rng

CONFIG = "configs/faces/compare.yaml"
ARMS = ("direct", "backbone", "student", "mixed", "projection")
GENERATOR = "weights/face_generator_mobile.safetensors"
TURNED, SOME = "multipose", "multipose-60"
YAWS = (0, 15, 30, 45, 60, 75, 90)
SPLITS = {"labelled": "train", "validation": "val"}
SIDE = 128
VARIANTS, MOST = 40, 16  # renderings that a head learns from, shared among k photos: a GB of maps; of one photo


def run(
    output: str = "runs/faces-ladder",
    data: str = "",
    shots: Sequence[int] = (1, 10),
    draws: int = 3,
    arms: Sequence[str] = ARMS,
    total_kimg: float = 4,
    num_pairs: int = 1000,
    projection_steps: int = 30,
    turned: int = 60,
    judged: int = 500,
    until: str = "table",
    overrides: Sequence[str] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Foreground mIoU and mIoU of every arm, k and set; writes OUT/table.md and OUT/ladder.json.

    Args:
        output: folder of the cells; several processes may work on different arms there.
        data: folder of the data sets; empty: the environment variable RAYGSEG_DATA.
        shots: k. draws: seeded draws of the k photos, nested over k.
        total_kimg: length of every training.
        turned: turned faces for the arm `projection`.
        judged: pairs of each set whose labels are set against the strong labeller's.
        until: arms (only train and score) or table.
        overrides: of the comparison, `key=value`.
    """
    ladder = Ladder(Path(output).absolute(), data_folder(data), draws)
    settings = (f"schedule.total_kimg={total_kimg}", f"num_pairs={num_pairs}", f"projection_steps={projection_steps}")
    ladder.frame()
    ladder.choose_turned(turned)
    if wanted := tuple(sorted(PAIR_ARMS & set(arms))):
        ladder.draw_pairs([ladder.config(k, wanted, (*settings, *overrides)) for k in shots], progress)
    for k in shots:
        for group in (tuple(arm for arm in ARMS if arm in arms and arm != "projection"), ("projection",)):
            if set(group) & set(arms):
                compare(ladder.config(k, group, (*settings, *overrides)), progress)
    if until == "arms":
        return {"output": str(ladder.output)}
    compare(ladder.strong((*settings, *overrides)), progress)
    return ladder.results(shots, (*settings, *overrides), judged)


@dataclass(frozen=True)
class Ladder:
    """Where everything lies and how each comparison is configured."""

    output: Path
    data: Path
    draws: int

    def frame(self) -> None:
        """The framed generator's bundle."""
        photos = f"{self.data}/faces/frontal?split=train"
        framed_generator(str(self.data / GENERATOR), photos, SIDE, self.output / FRAMED)

    def choose_turned(self, count: int) -> None:
        """A folder of `count` turned faces, as many of every yaw as can be."""
        photos = open_labelled(f"{self.data}/faces/{TURNED}", None)
        by_yaw = defaultdict(list)
        for index, name in enumerate(photos.names):
            by_yaw[abs(self.yaws()[Path(name).stem])].append(index)
        shuffled = {yaw: list(numpy_rng(0, "turned", yaw).permutation(rows)) for yaw, rows in by_yaw.items()}
        ranks = [(rank, yaw, int(index)) for yaw, rows in shuffled.items() for rank, index in enumerate(rows)]
        chosen = sorted(index for _, _, index in sorted(ranks)[:count])
        stems = [Path(photos.names[index]).stem for index in chosen]
        write_chosen(photos, chosen, stems, str(self.output / SOME), {"test": stems})

    def yaws(self) -> dict[str, int]:
        """Degrees by the photo's stem."""
        meta: dict[str, Any] = json.loads((self.data / "faces" / "meta.json").read_text())
        return {str(stem): int(yaw) for stem, yaw in meta["yaw_degrees"].items()}

    def config(self, k: int, arms: Sequence[str], overrides: Sequence[str]) -> CompareConfig:
        """The comparison at k labels; of the projection arm on fewer turned faces."""
        folder = self.data / "faces"
        turned = f"{self.output / SOME}?split=test" if tuple(arms) == ("projection",) else str(folder / TURNED)
        name = SOME if tuple(arms) == ("projection",) else TURNED
        tests = f"{{frontal: '{folder}/frontal?split=test', {name}: '{turned}'}}"
        where = (
            f"generator={self.output / FRAMED}",
            f"projections={self.output / KEPT}",
            f"runtime.output={self.output / f'k-{k}'}",
            f"runtime.tracking_uri=sqlite:///{self.output / f'mlflow-{arms[0]}.db'}",
        )
        what = (f"name=faces-k{k}", f"shots={k}", f"draws={self.draws}", f"arms=[{', '.join(arms)}]", f"tests={tests}")
        variants = f"style_variants={max(1, min(MOST, VARIANTS // k))}"
        return self._loaded(*what, *where, variants, *overrides)

    def strong(self, overrides: Sequence[str]) -> CompareConfig:
        """The U-Net on all labelled training photos."""
        folder = self.data / "faces"
        tests = f"{{frontal: '{folder}/frontal?split=test', {TURNED}: '{folder}/{TURNED}'}}"
        where = (
            f"runtime.output={self.output / 'strong'}",
            f"runtime.tracking_uri=sqlite:///{self.output / 'strong.db'}",
        )
        return self._loaded("name=strong", "shots=0", "draws=1", "arms=[direct]", f"tests={tests}", *where, *overrides)

    def _loaded(self, *overrides: str) -> CompareConfig:
        sources = [f"{key}={self.data}/faces/frontal?split={part}" for key, part in SPLITS.items()]
        config = load_config(CONFIG, [*sources, *overrides])
        assert isinstance(config, CompareConfig)
        return config

    def draw_pairs(self, configs: Sequence[CompareConfig], progress: Progress | None = None) -> None:
        """Pairs of every head of every k that is still needed, each picture rendered once."""
        runs = [
            pairs_run(config, place)
            for config in configs
            for place in Trial(config, str(config.runtime.output)).unfinished(config.arms)
        ]
        if runs:
            write_shared(runs, progress)

    # --- figures ---------------------------------------------------------------------------------

    def results(self, shots: Sequence[int], overrides: Sequence[str], judged: int) -> dict[str, Any]:
        """Every table, as JSON values."""
        judge = Trial(self.strong(overrides), str(self.output / "strong"))
        figures: dict[str, Any] = {"strong": self._figures(judge, "direct", TURNED)}
        for k in shots:
            for arm in ARMS:
                trial = Trial(self.config(k, (arm,), overrides), str(self.output / f"k-{k}"))
                figures[f"k={k} {arm}"] = self._figures(trial, arm, SOME if arm == "projection" else TURNED)
            figures[f"k={k} pairs"] = {"agreement with strong": self._agreement(trial, judge, judged)}
        (self.output / "ladder.json").write_text(json.dumps(figures, indent=1) + "\n")
        (self.output / "table.md").write_text(markdown(figures))
        return {"output": str(self.output), "figures": figures}

    def _figures(self, trial: Trial, arm: str, turned: str) -> dict[str, Any]:
        found = {name: _scores(trial.counts(arm, name), trial.labels) for name in ("validation", "frontal", turned)}
        for name in found:
            found[name]["coverage"] = trial.coverage(arm, name)
        yaws = np.array([abs(self.yaws()[Path(name).stem]) for name in trial.pictures(arm, turned)])
        counts = trial.counts(arm, turned)
        found[turned]["by yaw"] = {
            str(yaw): _scores(counts[yaws == yaw], trial.labels)["parts"] for yaw in YAWS if (yaws == yaw).any()
        }
        return found

    def _agreement(self, trial: Trial, judge: Trial, judged: int) -> list[float]:
        """Foreground mIoU of the generated labels, the strong labeller's taken for the truth; by draw."""
        segmenter = load_segmenter(judge.place_of(0, "all").folder + "/direct/bundle")
        figures = []
        for place in trial.places():
            pairs = PairSet.open(f"{place.folder}/pairs")
            total = np.zeros((1, 1, trial.labels.num_classes, trial.labels.num_classes), np.int64)
            for shard in pairs.shards[: -(-judged // pairs.manifest.rows_per_shard)]:
                table = pairs.read(shard)
                pictures = list(stored_images(table).transpose(0, 2, 3, 1))
                answers = segmenter.predict(pictures)
                for answer, classes in zip(answers, top_two(table)[0][:, 0], strict=True):
                    total[0, 0] += confusion_counts(answer.label_map, classes, trial.labels)
            figures.append(_scores(total, trial.labels)["parts"])
        return figures


def _scores(counts: Counts, labels: LabelSpace) -> dict[str, Any]:
    found = over_draws(counts, labels, 0, 0)
    return {
        "parts": found.figures["miou_foreground"],
        "with background": found.figures["miou"],
        "draws": found.draws,
        "iou": found.iou,
        "never predicted": found.never_predicted,
    }


def markdown(figures: dict[str, Any]) -> str:
    """Three tables, per cent: by set, by yaw, by part."""
    rows = {name: sets for name, sets in figures.items() if "frontal" in sets}
    lines = ["| arm | frontal: parts, with bg (draws) | turned: parts, with bg (draws) | refused |", "|---" * 4 + "|"]
    for name, sets in rows.items():
        turned = sets.get(TURNED) or sets[SOME]
        refused = f"{100 * (1 - sets['frontal']['coverage']):.0f} %, {100 * (1 - turned['coverage']):.0f} %"
        lines.append(f"| {name} | {_both(sets['frontal'])} | {_both(turned)} | {refused} |")
    lines += ["", "| arm, turned by | " + " | ".join(str(yaw) for yaw in YAWS) + " |", "|---" * (1 + len(YAWS)) + "|"]
    for name, sets in rows.items():
        by_yaw = (sets.get(TURNED) or sets[SOME])["by yaw"]
        cells = [f"{100 * by_yaw[str(yaw)]:.0f}" if str(yaw) in by_yaw else "-" for yaw in YAWS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    parts = list(next(iter(rows.values()))["frontal"]["iou"])
    lines += ["", "| arm, set | " + " | ".join(parts) + " | never predicted |", "|---" * (2 + len(parts)) + "|"]
    for name, sets in rows.items():
        for key in ("frontal", TURNED if TURNED in sets else SOME):
            cells = [f"{100 * sets[key]['iou'][part]:.1f}" for part in parts]
            missing = ", ".join(sets[key]["never predicted"]) or "none"
            lines.append(f"| {name}, {key} | " + " | ".join(cells) + f" | {missing} |")
    for name, sets in figures.items():
        if "agreement with strong" in sets:
            values = ", ".join(f"{100 * value:.1f}" for value in sets["agreement with strong"])
            lines += ["", f"{name}: generated labels against the strong labeller's, parts, by draw: {values}."]
    return "\n".join(lines) + "\n"


def _both(scores: dict[str, Any]) -> str:
    draws = ", ".join(f"{100 * value:.1f}" for value in scores["draws"])
    return f"{100 * scores['parts']:.1f}, {100 * scores['with background']:.1f} ({draws})"
