"""A draw of k labelled pictures as a small folder of its own, with the folds of a cross-validation.

DRAW/images/NAME.png, masks/NAME.png, labels.json
DRAW/splits.json    "all"; "fold-0" to learn from, "fold-0-out" held out; and so on

The folder is a source like any other: `DRAW?split=fold-0`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from raygseg.data.object_store import exists, join, write_bytes
from raygseg.data.picture_files import encode_png
from raygseg.data.picture_sets import LabelledSet
from raygseg.data.splits import nested_subset
from raygseg.errors import ConfigError

SPLITS = "splits.json"


def write_draw(data: LabelledSet, k: int, folds: int, seed: int, place: str) -> dict[str, list[str]]:
    """Write the k-shot subset of draw `seed`; returns its splits. What is already there is left as it is.

    Args:
        data: labelled pictures at their own sizes.
        k: how many; 0: all.
        folds: parts of the cross-validation; 0: only "all".

    Raises:
        ConfigError: fewer pictures than folds.
    """
    count = k or len(data)
    if folds > count:
        raise ConfigError(
            f"folds: {count} labelled pictures cannot be parted into {folds}",
            f"set folds={count} to leave one out at a time, or folds=0 with validation pictures",
        )
    chosen = nested_subset(data.names, count, seed)
    width = len(str(count - 1))
    stems = [f"{place_of:0{width}d}" for place_of in range(count)]
    splits = {"all": stems, **fold_splits(stems, folds)}
    write_chosen(data, chosen, stems, place, splits)
    return splits


def write_chosen(
    data: LabelledSet, chosen: Sequence[int], stems: Sequence[str], place: str, splits: Mapping[str, Sequence[str]]
) -> None:
    """Write some pictures of a set under new stems, with these splits; nothing where it is done already."""
    if exists(join(place, SPLITS)):
        return
    palette = bytes(value for colour in data.labels.palette for value in colour)
    for stem, index in zip(stems, chosen, strict=True):
        picture, class_map = data.read(index)
        write_bytes(join(place, "images", f"{stem}.png"), encode_png(picture))
        write_bytes(join(place, "masks", f"{stem}.png"), encode_png(class_map, palette.ljust(768, b"\xff")))
    origin = {stem: data.names[index] for stem, index in zip(stems, chosen, strict=True)}
    write_bytes(join(place, "names.json"), json.dumps(origin, indent=1).encode())
    write_bytes(join(place, "labels.json"), json.dumps(data.labels.to_dict(), indent=1).encode())
    write_bytes(join(place, SPLITS), json.dumps(splits, indent=1).encode())  # last: it says that all is there


def fold_splits(names: Sequence[str], folds: int) -> dict[str, list[str]]:
    """For each fold the names to learn from and those held out; every name is held out once."""
    splits: dict[str, list[str]] = {}
    for fold in range(folds):
        splits[f"fold-{fold}"] = [name for i, name in enumerate(names) if i % folds != fold]
        splits[f"fold-{fold}-out"] = [name for i, name in enumerate(names) if i % folds == fold]
    return splits
