"""Which classes are novel in which fold: PASCAL-5i, COCO-20i in both published orders, a source's own folds.

PASCAL-5i: fold i tests classes 5 i + 1 .. 5 i + 5 of VOC. COCO-20i: of the 80 categories in the order of their
numbers, fold f tests a block of twenty (PANet) or every fourth class from f on (FWB and most later work); figures
on the two orders do not compare (PANet spec 1.7).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from raygseg.data.episodes.index import ClassIndex
from raygseg.data.preparation.voc import CLASSES as VOC_CLASSES
from raygseg.errors import ConfigError, DataError

FOLDS = 4
CocoOrder = Literal["interleaved", "contiguous"]
PASCAL_5I = tuple(VOC_CLASSES[5 * fold + 1 : 5 * fold + 6] for fold in range(FOLDS))
COCO_COUNT = 80
COCO_20I = {
    "contiguous": tuple(tuple(range(20 * fold, 20 * fold + 20)) for fold in range(FOLDS)),
    "interleaved": tuple(tuple(range(fold, COCO_COUNT, FOLDS)) for fold in range(FOLDS)),
}


def novel_folds(index: ClassIndex, coco_order: CocoOrder = "interleaved") -> tuple[tuple[str, ...], ...]:
    """The test classes of every fold.

    The source's own folds, else those of VOC or COCO where the classes are theirs, else four blocks of the classes
    in their order. Classes without a picture are in no fold.
    """
    shown = [name for name, count in index.counts().items() if count]
    if index.folds:
        folds = index.folds
    elif set(index.classes) <= set(VOC_CLASSES):
        folds = PASCAL_5I
    elif len(index.classes) == COCO_COUNT:
        folds = tuple(tuple(index.classes[i] for i in fold) for fold in COCO_20I[coco_order])
    else:
        if len(shown) < FOLDS:
            raise DataError(
                f"{len(shown)} classes with pictures cannot be parted into {FOLDS} folds", "give more classes"
            )
        edges = [len(shown) * fold // FOLDS for fold in range(FOLDS + 1)]
        folds = tuple(tuple(shown[first:last]) for first, last in pairwise(edges))
    return tuple(tuple(name for name in fold if name in shown) for fold in folds)


def fold_classes(
    index: ClassIndex, fold: int, part: Literal["train", "test"], coco_order: CocoOrder = "interleaved"
) -> tuple[str, ...]:
    """Names of the test classes of a fold, or of all others: those that it trains on.

    Raises ConfigError for a fold that does not exist; DataError where the fold has no class with pictures.
    """
    folds = novel_folds(index, coco_order)
    if not 0 <= fold < len(folds):
        raise ConfigError(f"fold: {fold} does not exist", f"give 0 to {len(folds) - 1}")
    counts = index.counts()
    chosen = folds[fold]
    if part == "train":
        chosen = tuple(name for name in index.classes if counts[name] and name not in folds[fold])
    if not chosen:
        raise DataError(f"fold {fold} has no {part} class with pictures", "choose another fold or source")
    return chosen
