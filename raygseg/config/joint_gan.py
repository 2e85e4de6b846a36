"""The kind `joint-gan`: a generator of pictures with label maps (SemanticGAN stage 1, spec B3-B5, B11, B12).

Every departure from the released training is a key. `profile: parity` sets all of them to what was released,
`improved` (the default) is the defaults below; a key that is given wins over the profile.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from raygseg.config.sections import (
    AdversarialRun,
    Fraction,
    GanAugment,
    GanLoss,
    GanOptimiser,
    GeneratorSection,
    NonNegative,
    Positive,
    PositiveInt,
    Section,
)


class LabelDiscriminatorSection(Section):
    """The discriminator of pairs (spec B4)."""

    width: PositiveInt = Field(64, description="channels of the first layer; the last has eight times as many")
    scales: PositiveInt = Field(3, description="each sees the pair at half the size of the one before")


class JointLoss(GanLoss):
    """`GanLoss` for the pictures, and what the pairs add (spec B5)."""

    label_weight: NonNegative = Field(1.0, description="of the generator's adversarial term for pairs")
    label_gradient: Literal["trunk", "heads"] = Field(
        "trunk", description="what the pairs' loss trains: all of the generator, or its label layers only (B11-4)"
    )
    fake_labels: Literal["scaled", "raw"] = Field(
        "scaled", description="generated maps as shown to the discriminator: 2 p - 1, or unbounded (B11-5)"
    )
    label_temperature: NonNegative = Field(
        0.0, description="of the generator's label logits; 0: 1 for scaled, for raw 0.1 (two classes 0.3)"
    )
    label_smoothing: Fraction = Field(0.0, description="real maps are shown as +-(1 - this) (B11-5)")
    label_r1: Literal["per-sample", "batch-mean"] = Field(
        "per-sample", description="gradient of each pair's own score, or of the batch's mean (B11-3)"
    )
    label_r1_gamma: NonNegative = Field(
        0.05, description="of the pairs' R1; with batch-mean in effect 1 / batch^2 of it"
    )
    feature_matching: Literal["none", "statistics", "paired"] = Field(
        "none", description="of the pair discriminator's features: their mean and deviation, or pixel by pixel (B11-7)"
    )
    feature_weight: NonNegative = Field(2.0, description="of feature matching")
    shared_fakes: bool = Field(True, description="both discriminators judge the same generated batch (B11-16)")


class JointOptimiser(GanOptimiser):
    lr_label_discriminator: Positive = Field(0.0005, description="its layers are not equalised (B11-6)")


class JointGanConfig(AdversarialRun):
    """Pictures and label maps from one generator, learnt from many pictures and few labels."""

    kind: Literal["joint-gan"] = "joint-gan"
    profile: Literal["improved", "parity"] = Field(
        "improved", description="parity: every key that is not given is as in the released code"
    )
    start: str = Field(
        "", description="run of kind gan or joint-gan whose networks to begin with: runs/NAME or a checkpoint"
    )
    labelled: str = Field(..., description="pictures with masks (folder with labels.json, Parquet or toy://)")
    labelled_limit: int = Field(0, ge=0, description="k: a seeded nested subset of the labelled pictures; 0: all")
    labelled_flip: bool = Field(False, description="also show mirrored pairs, left and right classes swapped")
    labelled_as_pictures: bool = Field(True, description="the picture discriminator sees the labelled ones too")
    generator: GeneratorSection = GeneratorSection()
    label_discriminator: LabelDiscriminatorSection = LabelDiscriminatorSection()
    loss: JointLoss = JointLoss()
    label_augment: GanAugment = Field(GanAugment(), description="of pairs; one geometry for picture and map (B11-8)")
    optimiser: JointOptimiser = JointOptimiser()

    @model_validator(mode="before")
    @classmethod
    def _as_released(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or values.get("profile") != "parity":
            return values
        return _laid_under(dict(values), _parity(values.get("schedule")))

    @property
    def temperature(self) -> float:
        """Of the label logits; 0: that of raw outputs."""
        return self.loss.label_temperature or (1.0 if self.loss.fake_labels == "scaled" else 0.0)


def _parity(schedule: Any) -> dict[str, Any]:
    """The released settings (spec B4, B5); EMA's 0.5^(32 / 10000) a step whatever the batch (A9)."""
    batch = schedule.get("batch_size", 16) if isinstance(schedule, Mapping) else 16
    return {
        "labelled_as_pictures": False,
        "loss": {
            "r1_gamma": 10.0,
            "label_r1": "batch-mean",
            "label_r1_gamma": 10.0,
            "fake_labels": "raw",
            "feature_matching": "paired",
            "shared_fakes": False,
        },
        "augment": {"mode": "none"},
        "label_augment": {"mode": "none"},
        "optimiser": {
            "lr_label_discriminator": 0.002,
            "ema_kimg": 10.0 * batch / 32 if isinstance(batch, int) and batch > 0 else 10.0,
            "ema_ramp": 0.0,
        },
    }


def _laid_under(given: dict[str, Any], below: Mapping[str, Any]) -> dict[str, Any]:
    """`given` with what it lacks from `below`."""
    for key, value in below.items():
        if key not in given:
            given[key] = value
        elif isinstance(value, Mapping) and isinstance(given[key], Mapping):
            given[key] = _laid_under(dict(given[key]), value)
    return given
