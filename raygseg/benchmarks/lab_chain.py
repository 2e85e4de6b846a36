"""The whole chain on the rehearsal cluster by `ray job submit` alone: pre-training to a registered segmenter.

Every stage is a job of `jobs/`; pictures, pairs, checkpoints and bundles go through S3, runs and models through the
MLflow server with its password. Then another host, which is no part of the Ray cluster, pulls the champion and
segments pictures with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from raygseg.benchmarks.support.rehearsal import PROGRAM, Rehearsal, rehearsal
from raygseg.bundle import verify_bundle
from raygseg.data.toy import render_toy
from raygseg.errors import TrainingError

PICTURES = 6
MODEL = "lab-segmenter"


def run(
    folder: str = "/var/tmp/raygseg-chain",
    hosts: int = 2,
    taste_kimg: float = 0.128,
    head_steps: int = 40,
    num_pairs: int = 400,
    student_kimg: float = 1.0,
    progress: Callable[..., None] | None = None,
) -> dict[str, Any]:
    """Run it; seconds of every stage. `ratio`: the slowest stage's share of the whole.

    Args:
        folder: of the lab; one that is up there is used and left. hosts: its worker hosts.
        taste_kimg, head_steps, num_pairs, student_kimg: lengths of the stages.
    """
    place, seconds = f"s3://lab/chain-{int(time.time())}", dict[str, float]()
    lengths = {"taste": taste_kimg, "head": head_steps, "pairs": num_pairs, "student": student_kimg}
    with rehearsal(folder, hosts) as lab:
        jobs = stages(place, lengths)
        for number, (name, words) in enumerate(jobs.items()):
            began = time.perf_counter()
            submit(lab, name, words)
            seconds[name] = round(time.perf_counter() - began, 1)
            if progress is not None:
                progress(name, number + 1, len(jobs), {"s": seconds[name]})
        began = time.perf_counter()
        masks = use(lab)
        seconds["pull and segment elsewhere"] = round(time.perf_counter() - began, 1)
        pairs = lab.asked("pairs", f"{place}/pairs", str(num_pairs))
    return {
        "ratio": round(max(seconds.values()) / sum(seconds.values()), 3),
        "seconds": seconds,
        "pairs": pairs,
        "masks": masks,
        "settings": {"hosts": hosts, **lengths},
    }


def stages(place: str, lengths: dict[str, float]) -> dict[str, list[str]]:
    """Words of `python` in each job."""

    def train(config: str, name: str, *words: str) -> list[str]:
        return ["jobs/train.py", f"configs/toy/{config}.yaml", f"runtime.output={place}/{name}", *words]

    return {
        "pre-train, two workers": train(
            "gan", "gan", "runtime.workers=2", f"schedule.total_kimg={lengths['taste']}",
            "runtime.checkpoint_kimg=0.064",
        ),
        "learn parts from ten samples": train("head", "head", f"training.steps={lengths['head']:.0f}"),
        "generate pairs": [
            "jobs/generate.py", "configs/toy/generate.yaml", f"sampler={place}/head/bundle", f"output={place}/pairs",
            f"num_pairs={lengths['pairs']:.0f}", "rows_per_shard=100",
        ],
        "train the student, two workers": train(
            "segmenter", "student", "runtime.workers=2", f"pairs={place}/pairs", f"runtime.register_as={MODEL}",
            f"schedule.total_kimg={lengths['student']}",
        ),
        "evaluate and promote": [
            "jobs/evaluate.py", "configs/toy/evaluate.yaml", f"model={place}/student/bundle", f"promote={MODEL}",
            f"output={place}/evaluation",
        ],
    }  # fmt: skip


def submit(lab: Rehearsal, name: str, words: list[str]) -> None:
    """`ray job submit` at the desk, followed to its end. Raises TrainingError with the last lines where it fails."""
    root = PROGRAM.parents[1]
    job = lab.at_desk("ray", "job", "submit", "--working-dir", str(root), "--", "python", *words)
    if job.end() != 0:
        raise TrainingError(f"stage '{name}' failed: {job.last(6)}", f"logs: {lab.folder}/hosts/*/log")


def use(lab: Rehearsal) -> int:
    """Pull the champion and segment pictures at the desk; how many masks of the pictures' sizes came out."""
    pulled, photos, out = (lab.folder / name for name in ("pulled", "photos", "segmented"))
    lab("exec", "--", "raygseg", "pull", f"models:/{MODEL}@champion", "--output", str(pulled))
    verify_bundle(pulled)
    write_photos(photos)
    lab("exec", "--", "raygseg", "segment", str(pulled), str(photos), "--output", str(out))
    found = [
        Image.open(out / "masks" / f"{photo.stem}.png").size == Image.open(photo).size for photo in photos.iterdir()
    ]
    return sum(found)


def write_photos(folder: Path) -> None:
    """Toy pictures of different sizes."""
    folder.mkdir(exist_ok=True)
    for number in range(PICTURES):
        picture, _ = render_toy(123, number, 96 + 16 * (number % 4))
        Image.fromarray(picture).save(folder / f"{number}.png")
