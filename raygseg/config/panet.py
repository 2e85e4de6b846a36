"""The run that trains PANet on episodes of the base classes (PANet spec 1.6)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from raygseg.config.episodes import EpisodeProtocol
from raygseg.config.sections import Fraction, NonNegative, Positive, PositiveInt, Run, Schedule, Section

PARTS = {"vgg16": 5, "resnet50": 4}  # of each encoder, from the picture on


class EncoderOfPanet(Section):
    """Support and query go through one encoder; nothing after it is learnt."""

    encoder: Literal["vgg16", "resnet50"] = "vgg16"
    weights: str = Field("", description="safetensors file; empty: in RAYGSEG_DATA/weights (VGG-16 only)")
    scale: NonNegative = Field(0.0, description="on the cosine; 0: as published, 20 for VGG-16 and 10 for ResNet-50")
    frozen_parts: int = Field(0, ge=0, description="blocks from the picture on that are not trained; published: 0")
    self_prototypes: bool = Field(False, description="SSP: at prediction the query's sure cells correct the prototypes")

    @model_validator(mode="after")
    def _leaves_some(self) -> EncoderOfPanet:
        if self.frozen_parts >= PARTS[self.encoder]:
            raise ValueError(f"frozen_parts: {self.frozen_parts} leaves none of {PARTS[self.encoder]} parts to train")
        return self


class PanetOptimiser(Section):
    """SGD, the learning rate lowered in steps."""

    lr: Positive = 1e-3
    momentum: Fraction = 0.9
    weight_decay: NonNegative = 5e-4
    lr_step_kimg: Positive = Field(10.0, description="after so many thousands of episodes the rate is lowered again")
    lr_factor: Fraction = Field(0.1, description="by which")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="of the encoder's convolutions")


class PanetConfig(Run):
    """One phase over an endless sequence of episodes; `nimg` counts episodes."""

    outside_fingerprint: ClassVar[frozenset[str]] = frozenset({"runtime", "memory_mb"})

    kind: Literal["panet"] = "panet"
    data: str = Field(..., description="folder with index.json, or images/ and masks/; VOC; COCO?annotations=FILE")
    fold: int = Field(0, ge=0, description="whose classes are left out, to be tested later")
    ways: PositiveInt = Field(1, description="classes an episode")
    shots: PositiveInt = Field(1, description="support pictures of each class")
    queries: PositiveInt = Field(1, description="query pictures an episode")
    min_pictures: int = Field(0, ge=0, description="classes with fewer pictures are left out")
    resolution: PositiveInt = Field(417, description="pictures are squashed to this square")
    flip: bool = Field(True, description="mirror each picture half of the time")
    protocol: EpisodeProtocol = EpisodeProtocol()
    schedule: Schedule = Field(..., description="counted in episodes: total_kimg 30 is 30,000 of them")
    network: EncoderOfPanet = EncoderOfPanet()
    alignment: NonNegative = Field(1.0, description="weight of the prototype alignment loss (PAR); 0: without it")
    optimiser: PanetOptimiser = PanetOptimiser()
    max_bad_fraction: Fraction = 0.05
    memory_mb: int = Field(2048, ge=0, description="most that each worker keeps of what frozen parts make of pictures")
