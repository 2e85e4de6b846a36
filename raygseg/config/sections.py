"""The sections that configurations are made of: frozen, unknown keys refused.

Everything outside `runtime` decides the result and enters the fingerprint; `runtime` (where, how
many workers, how often to save) does not.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

PositiveInt = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]


class Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, coerce_numbers_to_str=True
    )


class Runtime(Section):
    """Where and how it runs; never part of the fingerprint."""

    output: str = Field("", description="folder or s3:// prefix of this run; empty: runs/NAME")
    workers: PositiveInt = Field(1, description="Ray Train workers (processes)")
    min_workers: int = Field(
        0, ge=0, description="go on with as few when hosts are lost, and grow back to `workers`; 0: always `workers`"
    )
    resize_s: Positive = Field(30, description="seconds between two looks whether more workers would fit")
    placement_s: Positive = Field(
        120, description="seconds to wait for room for the workers; longer for clusters that start nodes by themselves"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the networks live")
    threads: PositiveInt = Field(1, description="CPU threads and Ray CPUs of each worker")
    in_process: bool = Field(False, description="run in this process, without Ray (one worker)")
    recompute_from: int = Field(
        0,
        ge=0,
        description="GAN blocks from this resolution on compute activations again instead of keeping them (0: none); "
        "the regularisers differentiate twice, keep theirs and then decide the peak: lower micro_batch for those",
    )
    max_failures: int = Field(3, ge=-1, description="worker failures to survive; -1: any number")
    tick_kimg: Positive = Field(1.0, description="a status line and metrics every so many kimg")
    checkpoint_kimg: Positive = Field(10.0, description="a checkpoint every so many kimg")
    keep_checkpoints: PositiveInt = Field(3, description="the newest to keep, the best besides")
    tracking_uri: str = Field("", description="MLflow store; empty: MLFLOW_TRACKING_URI, else sqlite:///runs/mlflow.db")
    experiment: str = Field("raygseg", description="MLflow experiment")
    register_as: str = Field("", description="registry name of the trained bundle; empty: NAME")

    @model_validator(mode="after")
    def _fewer(self) -> Runtime:
        if self.min_workers > self.workers:
            raise ValueError(f"min_workers {self.min_workers} is more than workers {self.workers}")
        return self

    @property
    def fewest(self) -> int:
        """Workers without which nothing goes on."""
        return self.min_workers or self.workers


class Run(Section):
    """What every kind of run has. `outside_fingerprint`: keys that do not decide the result."""

    outside_fingerprint: ClassVar[frozenset[str]] = frozenset({"runtime"})

    kind: str
    name: str = Field(
        ..., pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="names the run, its folder and its model"
    )
    seed: int = Field(0, description="all randomness follows from it")
    runtime: Runtime = Runtime()


class Images(Section):
    """Unlabelled pictures to train on."""

    source: str = Field(..., description="folder, Parquet, s3:// prefix or toy://STYLE?count=N&seed=S")
    resolution: PositiveInt = Field(..., description="pictures are resized (area/Lanczos) to this square")
    flip: bool = Field(True, description="also show mirrored pictures")
    limit: int = Field(0, ge=0, description="use only the first so many; 0: all")
    max_bad_fraction: Fraction = Field(
        0.05, description="corrupt pictures are skipped up to this share, then it is an error"
    )


class Schedule(Section):
    """How much and in what portions."""

    total_kimg: Positive = Field(..., description="thousands of pictures seen in all")
    batch_size: PositiveInt = Field(16, description="pictures a step, over all workers")
    micro_batch: int = Field(0, ge=0, description="pictures a forward pass; part of the result; 0: batch_size")

    @model_validator(mode="after")
    def _divides(self) -> Schedule:
        if self.batch_size % self.micro:
            raise ValueError(f"micro_batch {self.micro} does not divide batch_size {self.batch_size}")
        return self

    @property
    def micro(self) -> int:
        return self.micro_batch or self.batch_size


# --- kind: gan -----------------------------------------------------------------------------------


class GeneratorSection(Section):
    """StyleGAN2 generator (spec A1, A3-A5)."""

    z_dim: PositiveInt = 512
    w_dim: PositiveInt = 512
    mapping_layers: PositiveInt = 8
    capacity: Positive = Field(1.0, description="the one dial for widths: 1 is config F, 0.5 half as wide")
    channel_base: int = Field(0, ge=0, description="channels at r are min(base / r, max); 0: 32768 * capacity")
    channel_max: int = Field(0, ge=0, description="0: 512 * min(capacity, 1)")
    image_channels: Literal[3, 1] = Field(3, description="1: grey pictures; colour ones are turned to grey")

    @property
    def widths(self) -> tuple[int, int]:
        base = self.channel_base or int(32768 * self.capacity)
        return base, self.channel_max or max(8, int(512 * min(self.capacity, 1.0)))


class DiscriminatorSection(Section):
    """Residual discriminator (spec A6); widths follow the generator's unless given."""

    channel_base: int = Field(0, ge=0)
    channel_max: int = Field(0, ge=0)
    mbstd_group: PositiveInt = Field(4, description="group size of the minibatch standard deviation")


class GanLoss(Section):
    """Losses and lazy regularisers (spec A7)."""

    r1_gamma: NonNegative = Field(1.0, description="spec A13: 0.0002 * resolution^2 / batch is a start")
    r1_interval: PositiveInt = 16
    path_weight: NonNegative = 2.0
    path_interval: PositiveInt = 4
    path_decay: Fraction = 0.01
    path_batch_shrink: PositiveInt = 2
    style_mixing_prob: Fraction = 0.9
    w_avg_beta: Fraction = 0.998


class GanAugment(Section):
    """Adaptive discriminator augmentation (spec A12)."""

    mode: Literal["ada", "fixed", "none"] = "ada"
    p: Fraction = Field(0.0, description="start value (ada) or value (fixed)")
    p_max: Fraction = Field(0.8, description="clamp; reaching it means the discriminator has overfitted")
    target: Fraction = 0.6
    ada_kimg: Positive = 500.0
    interval: PositiveInt = 4
    upright: bool = Field(
        False, description="never mirrored, turned by 10 degrees at most: for things whose sides differ, as organs do"
    )


class GanOptimiser(Section):
    """Adam for both networks (spec A8)."""

    lr_generator: Positive = 0.002
    lr_discriminator: Positive = 0.002
    ema_kimg: Positive = 10.0
    ema_ramp: NonNegative = Field(0.05, description="0: no ramp")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32",
        description="of the convolutions in the main phases; regularisers are always fp32. fp16: the four"
        " largest resolutions, clamped",
    )


class Validation(Section):
    """Checkpoints measured while training goes on, in a Ray task of its own; the result does not depend on it."""

    every_kimg: float = Field(0, ge=0, description="measure a checkpoint every so many kimg; 0: none")
    count: PositiveInt = Field(1000, description="generated pictures to compare")
    pictures: str = Field("", description="real ones to compare with; empty: those of `data`")
    limit: int = Field(0, ge=0, description="use only the first so many real pictures; 0: all")
    network: Literal["vgg16", "efficientnet-lite0"] = Field("vgg16", description="whose features")
    weights: str = Field("", description="file of its weights; empty: from RAYGSEG_DATA")
    precision: Literal["fp32", "bf16"] = "bf16"
    threads: PositiveInt = Field(1, description="CPU threads and Ray CPUs of the task")


class AdversarialRun(Run):
    """What the kinds have in common that train a generator against a discriminator of pictures."""

    outside_fingerprint: ClassVar[frozenset[str]] = frozenset({"runtime", "validation"})

    data: Images
    schedule: Schedule
    generator: GeneratorSection = GeneratorSection()
    discriminator: DiscriminatorSection = DiscriminatorSection()
    loss: GanLoss = GanLoss()
    augment: GanAugment = GanAugment()
    optimiser: GanOptimiser = GanOptimiser()
    validation: Validation = Validation()


# --- kind: head ----------------------------------------------------------------------------------


class HeadNetwork(Section):
    """What reads the hypercolumn (RepurposeGAN spec 1.3, 1.4)."""

    architecture: Literal["linear", "mlp", "cnn-s", "cnn-m", "cnn-l"] = "cnn-s"
    members: PositiveInt = Field(1, description="ensemble size; soft vote, Jensen-Shannon score")
    projection_dim: PositiveInt = 128
    layers: tuple[str, ...] = Field((), description="feature layers by name; empty: all")
    stack_resolution: int = Field(0, ge=0, description="0: the generator's, at most 512")


class HeadTraining(Section):
    steps: PositiveInt = 400
    batch_size: PositiveInt = Field(2, description="labelled samples a step")
    lr: Positive = 1e-3
    weight_decay: NonNegative = 1e-3
    class_balance: Fraction = Field(0.5, description="class weights are frequency^-x, clipped to [0.5, 5]")
    resample_noise: bool = Field(True, description="fresh per-layer noise for the same latent at every step")
    style_variants: PositiveInt = Field(1, description="renderings of a sample, all but one under other fine styles")
    style_from: Fraction = Field(0.45, description="share of the styles, coarse to fine, that no variant changes")


# --- kind: backbone-head -------------------------------------------------------------------------


class BackboneSection(Section):
    """A pretrained network that is read and not trained."""

    name: Literal["vgg16", "efficientnet-lite0", "transformers"]
    weights: str = Field(
        "", description="safetensors file (transformers: folder of the model); empty: in RAYGSEG_DATA/weights"
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16 is about twice as fast where the CPU has it")


class StudentAugment(Section):
    """RepurposeGAN's affine augmentation (spec 1.7), with a valid-pixel mask, and colour jitter."""

    flip: bool = True
    rotation: NonNegative = Field(10.0, description="degrees, uniform in +-")
    scale: tuple[float, float] = (0.5, 2.0)
    translation: Fraction = Field(0.5, description="share of the size, uniform in +-")
    colour: NonNegative = Field(0.0, description="strength of brightness/contrast/saturation jitter")


class BackboneTraining(Section):
    steps: PositiveInt = 300
    batch_size: PositiveInt = Field(8, description="labelled pictures a step")
    lr: Positive = 2e-3
    weight_decay: NonNegative = 1e-3
    class_balance: Fraction = Field(0.5, description="class weights are frequency^-x, clipped to [0.5, 5]")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="of the head's convolutions")


# --- kind: segmenter -----------------------------------------------------------------------------


class EncoderSection(Section):
    """A pretrained backbone in place of the U-Net's way down."""

    name: Literal["none", "vgg16", "efficientnet-lite0"] = "none"
    weights: str = Field("", description="safetensors file; empty: in RAYGSEG_DATA/weights")
    lr_fraction: Fraction = Field(0.0, description="its learning rate as a share of optimiser.lr; 0: frozen")


class UNetSection(Section):
    width: PositiveInt = Field(32, description="channels of the first level")
    depth: PositiveInt = Field(4, description="number of halvings")
    backbone: EncoderSection = EncoderSection()

    @model_validator(mode="after")
    def _reaches(self) -> UNetSection:
        deepest = {"vgg16": 4, "efficientnet-lite0": 5}.get(self.backbone.name, self.depth)
        if self.depth > deepest:
            raise ValueError(f"depth {self.depth} is more than the {deepest} halvings of {self.backbone.name}")
        return self


class StudentLoss(Section):
    target: Literal["soft", "sharpened", "hard"] = "soft"
    sharpening: Positive = Field(2.0, description="power for target: sharpened")
    class_balance: Fraction = Field(0.5, description="class weights are frequency^-x, clipped")


class StudentOptimiser(Section):
    lr: Positive = 1e-3
    weight_decay: NonNegative = 1e-4
    final_lr_fraction: Fraction = Field(0.05, description="cosine decay to this share of lr")
    ema_kimg: NonNegative = Field(1.0, description="half-life of the weights' running mean; 0: none")
    precision: Literal["fp32", "bf16"] = "fp32"
