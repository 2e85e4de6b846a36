"""What each kind of run can be told: one frozen pydantic model a kind.

A source of pictures is one string everywhere: a folder, a Parquet file or folder, `s3://bucket/prefix`,
or `toy://STYLE?count=N&seed=S&start=I`.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from raygseg.config.encoder import EncoderConfig
from raygseg.config.episodes import EpisodesConfig
from raygseg.config.joint_gan import JointGanConfig
from raygseg.config.panet import PanetConfig
from raygseg.config.sections import (
    AdversarialRun,
    BackboneSection,
    BackboneTraining,
    Fraction,
    HeadNetwork,
    HeadTraining,
    NonNegative,
    Positive,
    PositiveInt,
    Run,
    Schedule,
    StudentAugment,
    StudentLoss,
    StudentOptimiser,
    UNetSection,
)

# --- kind: gan -----------------------------------------------------------------------------------


class GanConfig(AdversarialRun):
    kind: Literal["gan"] = "gan"


# --- kind: head ----------------------------------------------------------------------------------


class HeadConfig(Run):
    kind: Literal["head"] = "head"
    generator: str = Field(..., description="generator bundle: folder, s3:// or models:/NAME@alias")
    samples: str = Field(
        ..., description="folder of labelled samples: labels.json and SEED.png masks (see `raygseg sample`)"
    )
    truncation_psi: Positive = Field(1.0, description="truncation under which pairs will be sampled")
    head: HeadNetwork = HeadNetwork()
    training: HeadTraining = HeadTraining()


# --- kind: backbone-head -------------------------------------------------------------------------


class BackboneHeadConfig(Run):
    """The heads of `head` on a pretrained backbone's features of labelled pictures: a segmenter."""

    kind: Literal["backbone-head"] = "backbone-head"
    labelled: str = Field(..., description="pictures with masks (folder with labels.json, Parquet or toy://)")
    labelled_limit: int = Field(0, ge=0, description="k: a seeded nested subset of the labelled pictures; 0: all")
    resolution: PositiveInt = Field(..., description="pictures are resized to this square for the backbone")
    backbone: BackboneSection
    head: HeadNetwork = HeadNetwork()
    augment: StudentAugment = StudentAugment()
    training: BackboneTraining = BackboneTraining()
    max_bad_fraction: Fraction = 0.05


# --- kind: segmenter -----------------------------------------------------------------------------


class SegmenterConfig(Run):
    """A U-Net distilled from pairs, or trained directly on labelled pictures (the baseline)."""

    kind: Literal["segmenter"] = "segmenter"
    pairs: str = Field("", description="pairs that `generate` wrote (folder or s3://)")
    labelled: str = Field("", description="pictures with masks (folder with labels.json, Parquet or toy://)")
    labelled_share: Fraction = Field(0.0, description="share of labelled pictures in a batch when both are given")
    labelled_limit: int = Field(0, ge=0, description="k: a seeded nested subset of the labelled pictures; 0: all")
    uncertainty_cut: Fraction = Field(0.0, description="share of the least certain pairs to leave out")
    resolution: PositiveInt
    schedule: Schedule
    network: UNetSection = UNetSection()
    augment: StudentAugment = StudentAugment()
    loss: StudentLoss = StudentLoss()
    optimiser: StudentOptimiser = StudentOptimiser()
    chunk_shards: PositiveInt = Field(2, description="shards a worker reads at a time; it resumes at chunk boundaries")
    max_bad_fraction: Fraction = 0.05

    @model_validator(mode="after")
    def _has_data(self) -> SegmenterConfig:
        if not (self.pairs or self.labelled):
            raise ValueError("give 'pairs' (from `generate`) or 'labelled' (pictures with masks), or both")
        return self


# --- not trained: generate, evaluate; panet and episodes have modules of their own ---------------


class GenerateConfig(Run):
    outside_fingerprint: ClassVar[frozenset[str]] = frozenset({"runtime", "output", "mode", "actors"})

    kind: Literal["generate"] = "generate"
    sampler: str = Field(..., description="sampler bundle: folder, s3:// or models:/NAME@alias")
    num_pairs: PositiveInt
    output: str = Field(..., description="folder or s3:// prefix of the pair set")
    mode: Literal["resume", "overwrite", "extend"] = Field("resume", description="what to do with what is there")
    rows_per_shard: PositiveInt = 500
    batch_size: PositiveInt = Field(32, description="pictures a forward pass; part of the result")
    first_seed: int = Field(0, ge=0, description="row i has seed first_seed + i")
    actors: int = Field(0, ge=0, description="sampling actors; 0: one a CPU (or GPU)")
    image_format: Literal["png", "jpeg", "webp"] = "png"


class EvaluateConfig(Run):
    outside_fingerprint: ClassVar[frozenset[str]] = frozenset({"runtime", "output", "overlays", "promote"})

    kind: Literal["evaluate"] = "evaluate"
    model: str = Field(..., description="segmenter bundle: folder, s3:// or models:/NAME@alias")
    data: str = Field(..., description="pictures with masks: folder, Parquet or toy://")
    output: str = Field("", description="folder for metrics.json and overlays; empty: runs/NAME")
    boundary_tolerance: NonNegative = Field(0.01, description="share of the diagonal")
    bootstrap: int = Field(1000, ge=0, description="resamples for the intervals")
    overlays: int = Field(8, ge=0, description="best and worst pictures to draw")
    promote: str = Field("", description="registry name whose champion alias may move on this result")
    batch_size: PositiveInt = 32


# --- kind: compare -------------------------------------------------------------------------------

Arm = Literal["direct", "backbone", "projection", "student", "mixed"]
GAN_ARMS: frozenset[str] = frozenset({"projection", "student", "mixed"})


class CompareConfig(Run):
    """Which route serves these k labels: every arm trained as long, on the same pictures, scored on others."""

    # What adds to a comparison without changing what is there; the generator is on record with each of its arms.
    outside_fingerprint: ClassVar[frozenset[str]] = frozenset(
        {"runtime", "arms", "draws", "tests", "bootstrap", "generator", "projections"}
    )

    kind: Literal["compare"] = "compare"
    labelled: str = Field(..., description="your pictures with masks (folder with labels.json, Parquet or toy://)")
    shots: int = Field(0, ge=0, description="k: labelled pictures a draw; 0: all")
    draws: PositiveInt = Field(1, description="seeded draws of the k pictures: seed, seed + 1, ...")
    folds: int = Field(5, ge=0, description="cross-validation within the k pictures; 0: none, `validation` decides")
    validation: str = Field("", description="other labelled pictures that may decide; empty: the folds decide")
    tests: dict[str, str] = Field({}, description="name: labelled source. Scored and shown, never used to choose")
    arms: tuple[Arm, ...] = Field((), description="which routes; empty: all that can be run")
    generator: str = Field(
        "", description="bundle of the arms that need one (or face weights, .safetensors); empty: leave those out"
    )
    resolution: PositiveInt
    schedule: Schedule
    network: UNetSection = UNetSection()
    augment: StudentAugment = StudentAugment()
    loss: StudentLoss = StudentLoss()
    optimiser: StudentOptimiser = StudentOptimiser()
    backbone: BackboneSection = Field(BackboneSection(name="vgg16"), description="of the arm of that name")
    head: HeadNetwork = Field(HeadNetwork(), description="what reads the backbone's or the generator's features")
    generator_head: HeadNetwork | None = Field(None, description="for the generator's features; empty: as `head`")
    style_variants: PositiveInt = Field(
        1, description="fine styles that a labelled picture is shown to that head under"
    )
    projection_steps: PositiveInt = Field(60, description="of the search for a picture's code")
    projections: str = Field("", description="folder of kept projections to share; empty: within the results")
    gate_samples: int = Field(32, ge=0, description="generated pictures that the gate is calibrated on; 0: no gate")
    truncation_psi: Positive = Field(0.8, description="under which pairs are drawn")
    num_pairs: PositiveInt = Field(1000, description="of the arms student and mixed")
    real_share: Fraction = Field(0.25, description="of the labelled pictures in a batch of the arm mixed")
    bootstrap: int = Field(1000, ge=0, description="resamples for the intervals")

    @property
    def steps(self) -> int:
        """Of every training."""
        return max(1, round(self.schedule.total_kimg * 1000 / self.schedule.batch_size))

    @model_validator(mode="after")
    def _can_choose(self) -> CompareConfig:
        if not (self.folds or self.validation):
            raise ValueError("give 'folds' of at least 2, or 'validation' pictures: something must decide")
        if self.folds == 1:
            raise ValueError("folds: 1 leaves nothing to train on; give 0 or at least 2")
        return self


AnyRun = (
    GanConfig
    | JointGanConfig
    | EncoderConfig
    | HeadConfig
    | BackboneHeadConfig
    | SegmenterConfig
    | PanetConfig
    | GenerateConfig
    | EvaluateConfig
    | EpisodesConfig
    | CompareConfig
)
KINDS: dict[str, type[Run]] = {
    "gan": GanConfig,
    "joint-gan": JointGanConfig,
    "encoder": EncoderConfig,
    "head": HeadConfig,
    "backbone-head": BackboneHeadConfig,
    "segmenter": SegmenterConfig,
    "panet": PanetConfig,
    "generate": GenerateConfig,
    "evaluate": EvaluateConfig,
    "episodes": EpisodesConfig,
    "compare": CompareConfig,
}
