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
        kimg: length of the pre-training, the joint tuning, the encoder and the U-Net.
        networks: overrides of the joint generator. encoder: of the encoder.
    """

    resolution: int
    pictures: str
    labelled: str
    tests: Mapping[str, str]
    draws: Mapping[int, int]
    kimg: Mapping[str, float]
    networks: tuple[str, ...] = ()
    encoder: tuple[str, ...] = ()


# 64 px, twice the toy's widths.
_WIDER = ("generator.channel_base=4096", "generator.channel_max=128", "label_discriminator.width=32")
_FINER = ("encoder.width=16", "encoder.channels=128", "encoder.stem_stride=2")
STUDIES = {
    "toy": Study(
        32, "toy://default?count=20000&seed=0", "toy://default?count=50&seed=7&size=32",
        {"in domain": "toy://default?count=200&seed=99&size=32", "out of domain": "toy://ood?count=200&seed=99&size=32"},
        {10: 1, 50: 1}, {"pretrain": 100, "joint": 50, "encoder": 20, "direct": 32},
    ),
    "nuclei": Study(
        64, f"{DATA}nuclei?split=in_domain/train", f"{DATA}nuclei?split=in_domain/train",
        {"in domain": f"{DATA}nuclei?split=in_domain/test", "out of domain": f"{DATA}nuclei?split=out_of_domain"},
        {10: 3, 50: 1}, {"pretrain": 150, "joint": 30, "encoder": 20, "direct": 16},
        (*_WIDER, "augment.mode=ada", "augment.ada_kimg=50", "loss.r1_gamma=0.1"), _FINER,
    ),
    "chest-xray": Study(
        64, f"{DATA}chest_xray?split=train", f"{DATA}chest_xray?split=train",
        {"in domain": f"{DATA}chest_xray?split=test"},
        {10: 1}, {"pretrain": 100, "joint": 30, "encoder": 20, "direct": 16},
        (*_WIDER, "augment.mode=ada", "augment.ada_kimg=50", "loss.r1_gamma=0.1", "data.flip=false",
         "labelled_flip=false"), (*_FINER, "data.flip=false"),
    ),
}  # fmt: skip
