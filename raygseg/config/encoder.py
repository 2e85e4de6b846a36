"""What `kind: encoder` can be told: SemanticGAN's second stage, and how its segmenter embeds (spec B6 - B8)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from raygseg.config.sections import (
    Fraction,
    Images,
    NonNegative,
    Positive,
    PositiveInt,
    Run,
    Schedule,
    Section,
)


class EncoderNetwork(Section):
    """Feature-pyramid encoder to W+ (spec B6); the defaults are the published sizes with group norms."""

    width: PositiveInt = Field(64, description="channels of the first stage; 64 is ResNet-50's")
    blocks: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (3, 4, 6, 3)
    channels: PositiveInt = Field(512, description="of the pyramid and the heads")
    stem_stride: Literal[1, 2, 4] = Field(4, description="4 is published; 1 or 2 for pictures of 32 or 64 px")
    heads: Literal["separate", "shared"] = Field("separate", description="a head a code, or one stem a level (B11-10)")
    norm: Literal["group", "batch"] = Field("group", description="batch is published (B11-1)")
    codes: Literal["residual", "absolute"] = Field(
        "residual", description="heads give w - w_mean in units of its spread, or w itself as published (B12)"
    )


class EncoderLoss(Section):
    """Weights of the summed loss (spec B7, B12); 0 leaves a term out."""

    squared_error: NonNegative = 1.0
    perceptual: NonNegative = Field(
        1.0, description="of the distance by `features`; VGG-16's is some 11 times LPIPS, whose published weight is 10"
    )
    cross_entropy: NonNegative = 1.0
    dice: NonNegative = 1.0
    temperature: NonNegative = Field(0.0, description="tau of the cross-entropy; 0: the generator's own")
    dice_temperature: NonNegative = Field(
        0.0, description="tau of each channel's sigmoid; 0: as the generator's labels are read, 0.3 for raw ones (B7)"
    )
    dice_over: Literal["batch", "picture"] = Field("batch", description="what sums run over; batch is published")
    latent: NonNegative = Field(
        5.0, description="mean squared error of the codes of generated pictures, in units of the spread of w"
    )
    generated_labels: NonNegative = Field(
        0.0, description="cross-entropy and Dice of generated pictures against the generator's own label maps"
    )
    generated_share: NonNegative = Field(0.25, description="generated pictures a step, over the unlabelled ones")
    noise: Literal["const", "random"] = Field(
        "const", description="of the rendered reconstructions; random is published (B11-12)"
    )


class EncoderOptimiser(Section):
    """One Adam for the summed loss (B11-9)."""

    lr: Positive = 1e-3
    weight_decay: NonNegative = 0.0
    hold: Fraction = Field(0.3, description="share of the run at full rate, before the cosine")
    final_lr_fraction: Fraction = 0.01
    clip_norm: NonNegative = Field(5.0, description="largest norm of the averaged gradient; 0: any")
    ema_kimg: NonNegative = Field(1.0, description="half-life of the weights' running mean; 0: none")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="of the encoder's convolutions in training")


class FeatureSection(Section):
    """Whose features the perceptual distance compares, in training and in embedding."""

    name: Literal["auto", "vgg16", "efficientnet-lite0", "discriminator"] = Field(
        "auto", description="auto: VGG-16 where its file is at hand, else the generator's discriminator"
    )
    weights: str = Field("", description="file or bundle of its weights; empty: RAYGSEG_DATA or beside the generator")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="in training; embedding compares in fp32")


class EmbeddingSection(Section):
    """Test-time optimisation by the trained segmenter (spec B8); does not change the training."""

    steps: int = Field(100, ge=0, description="of Adam a picture; 0: the encoder alone")
    start: Literal["encoder", "mean"] = "encoder"
    lr: Positive = Field(0.1, description="of codes, in units of the spread of w, and of noise")
    warm_up: Fraction = 0.05
    cool_down: Fraction = 0.25
    whiten: bool = Field(True, description="False: lr and drift in w itself, as published")
    perceptual: NonNegative = Field(0.1, description="of the distance by `features`; about 1 of LPIPS, as published")
    squared_error: NonNegative = 0.1
    consistency: NonNegative = Field(1e-3, description="weight of |w - E(G(w))|^2")
    consistency_every: PositiveInt = Field(4, description="steps between two looks of the encoder; 1 is published")
    anchor: NonNegative = Field(0.0, description="weight of |w - start|^2")
    noise: bool = Field(True, description="whether noise maps are unknowns too")
    noise_penalty: NonNegative = 100.0
    drift_cap: NonNegative = Field(0.0, description="largest root mean square of w - start; 0: none")
    noise_draws: int = Field(0, ge=0, description="label maps are the mean over so many noise draws; 0: found noise")
    patience: int = Field(0, ge=0, description="steps without progress after which a picture rests; 0: never")


class EncoderConfig(Run):
    """Pictures to codes of a joint generator; what is left behind is a segmenter by embedding."""

    outside_fingerprint: ClassVar[frozenset[str]] = frozenset({"runtime", "embedding"})

    kind: Literal["encoder"] = "encoder"
    generator: str = Field(..., description="joint generator that `train joint-gan` wrote: folder, s3:// or models:/")
    data: Images
    labelled: str = Field(..., description="pictures with masks (folder with labels.json, Parquet or toy://)")
    labelled_limit: int = Field(0, ge=0, description="k: a seeded nested subset of the labelled pictures; 0: all")
    schedule: Schedule
    encoder: EncoderNetwork = EncoderNetwork()
    loss: EncoderLoss = EncoderLoss()
    optimiser: EncoderOptimiser = EncoderOptimiser()
    features: FeatureSection = FeatureSection()
    embedding: EmbeddingSection = EmbeddingSection()

    @model_validator(mode="after")
    def _one_worker_for_batch_norm(self) -> EncoderConfig:
        if self.encoder.norm == "batch" and self.runtime.workers > 1:
            raise ValueError("encoder.norm: batch keeps statistics that workers do not share; use group, or one worker")
        return self
