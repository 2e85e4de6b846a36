"""Let a segmenter label a generator's samples, where a stated oracle stands in for a person."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def label_samples(
    generator: str | Path, labeller: str | Path, output: str | Path, count: int = 10, seed: int = 0
) -> int:
    """Export `count` diverse samples of a generator and let a segmenter label them, in place of a person.

    Returns the number of masks written. The folder is what `train head` reads.
    """
    from raygseg.pipelines.sample import sample_for_labelling

    sample_for_labelling(str(generator), count, str(output), seed=seed)
    return label_exported(output, labeller)


def label_exported(output: str | Path, labeller: str | Path) -> int:
    """Write labels.json and masks/SEED.png for the pictures of `sample_for_labelling`; how many."""
    from raygseg.pipelines.kinds import load_segmenter

    folder = Path(output)
    segmenter = load_segmenter(labeller)
    segmenter.labels.save(folder / "labels.json")
    files = sorted((folder / "images").glob("*.png"))
    pictures = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    (folder / "masks").mkdir(exist_ok=True)
    for file, answer in zip(files, segmenter.predict(pictures), strict=True):
        mask = Image.fromarray(answer.label_map, mode="P")
        mask.putpalette([channel for colour in segmenter.labels.palette for channel in colour])
        mask.save(folder / "masks" / file.name)
    return len(files)
