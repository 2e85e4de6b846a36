"""The kinds of pictures on which SemanticGAN is tried, with sizes and lengths that a laptop can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DATA = "DATA/"  # in a source: the folder of the data sets


@dataclass(frozen=True)
class Study:
    """A kind of pictures.

    Attributes:
        resolution: px. pictures: unlabelled. labelled: the pool that labels are drawn from.
        tests: by name. draws: how many for each number of labels.
        files: configurations of the pre-training (none: the joint training begins anew) and of the joint training.
        kimg: length of the pre-training, the joint training, the encoder and the U-Net.
        encoder, direct: overrides of the encoder and of the U-Net.
    """

    resolution: int
    pictures: str
    labelled: str
    tests: Mapping[str, str]
    draws: Mapping[int, int]
    files: Mapping[str, str]
    kimg: Mapping[str, float]
    encoder: tuple[str, ...] = ()
    direct: tuple[str, ...] = ()


FINER = ("encoder.width=16", "encoder.channels=128", "encoder.stem_stride=2", "optimiser.precision=bf16")
# Batches of 4: at the same number of pictures, thrice the progress of batches of 16 in runs as short as these.
_SHORT = (*FINER, "schedule.batch_size=4", "schedule.micro_batch=4")
_TOY = "toy://{style}?count=200&seed=99&size=32"
# Microscopes and X-ray machines use a part of the range, each its own.
_NUCLEI, _CHEST = (f"{DATA}{name}?split={{}}&contrast=stretch" for name in ("nuclei", "chest_xray"))
STUDIES = {
    "toy": Study(
        32, "toy://default?count=20000&seed=0", "toy://default?count=50&seed=7&size=32",
        {"in domain": _TOY.format(style="default"), "out of domain": _TOY.format(style="ood")}, {10: 1, 50: 1},
        {"pretrain": "toy/gan.yaml", "joint": "joint-gan/toy.yaml"},
        {"pretrain": 150, "joint": 24, "encoder": 12, "direct": 32},
    ),
    "nuclei": Study(
        64, _NUCLEI.format("in_domain/train"), _NUCLEI.format("in_domain/train"),
        {"in domain": _NUCLEI.format("in_domain/test"), "out of domain": _NUCLEI.format("out_of_domain")},
        {10: 3, 50: 1}, {"pretrain": "joint-gan/nuclei-pictures.yaml", "joint": "joint-gan/nuclei.yaml"},
        {"pretrain": 30, "joint": 6, "encoder": 3, "direct": 12}, _SHORT,
    ),
    "chest-xray": Study(
        64, _CHEST.format("train"), _CHEST.format("train"), {"in domain": _CHEST.format("test")},
        {10: 1}, {"joint": "joint-gan/chest-xray.yaml"},
        {"joint": 16, "encoder": 3, "direct": 12}, (*_SHORT, "data.flip=false"), ("augment.flip=false",),
    ),
}  # fmt: skip
