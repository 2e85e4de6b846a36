"""Protocols of few-shot segmentation and the run that scores by episodes.

Two figures compare only where their protocols agree, so a protocol has a name, is a section like any other and is
printed with every number (PANet spec 2.3). A named protocol fills in its keys; keys given beside the name win.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from raygseg.config.sections import PositiveInt, Run, Section

ProtocolName = Literal["standard", "panet_release", "hsnet", "pfenet"]
MarkStyle = Literal["mask", "scribble", "box", "point"]

# What differs from `standard` (spec 1.3, 1.7, 1.8, 1.10 and 2.3).
PROTOCOLS: Mapping[str, Mapping[str, Any]] = {
    "standard": {},
    "panet_release": {
        "void": "background",
        "false_positives": "present",
        "labels": "resized",
        "split": "same",
        "coco_order": "contiguous",
        "distinct": "class",
        "resampling": "bilinear",
    },
    "hsnet": {"labels": "resized", "resampling": "bilinear"},
    "pfenet": {"min_pixels": 2048, "resampling": "bilinear"},
}


class EpisodeProtocol(Section):
    """The choices that move the numbers; the defaults are the fair ones."""

    name: ProtocolName = Field("standard", description="fills in the other keys; those given beside it win")
    void: Literal["excluded", "background"] = Field(
        "excluded", description="whether void pixels of support pictures count as background"
    )
    false_positives: Literal["counted", "present"] = Field(
        "counted", description="present: those of a way that the query's truth lacks are left out"
    )
    labels: Literal["original", "resized"] = Field("original", description="the label size that queries are scored at")
    novel_pixels: Literal["background", "removed"] = Field(
        "background", description="test classes in training pictures: background, or the picture is left out"
    )
    split: Literal["separate", "same"] = Field(
        "separate",
        description="separate: training and test use other pictures (the source's lists, else fixed halves)",
    )
    min_pixels: int = Field(0, ge=0, description="a picture counts for a class from so many of its pixels on")
    coco_order: Literal["interleaved", "contiguous"] = Field(
        "interleaved", description="fold f of COCO-20i: classes f + 1, f + 5, ... or a block of twenty"
    )
    distinct: Literal["episode", "class"] = Field(
        "episode", description="a picture is shown once in an episode, or once for each class"
    )
    resampling: Literal["lanczos", "bilinear"] = Field("lanczos", description="how pictures are resized")

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            return {**PROTOCOLS.get(str(values.get("name", "standard")), {}), **values}
        return values

    def described(self) -> str:
        """One line for reports: the name, every key that differs from `standard`, and what was changed by hand."""
        named, fair = EpisodeProtocol(name=self.name), EpisodeProtocol()
        keys = [key for key in type(self).model_fields if key != "name"]
        shown = [f"{k}={getattr(self, k)}" for k in keys if getattr(self, k) != getattr(fair, k)]
        changed = [k for k in keys if getattr(self, k) != getattr(named, k)]
        text = f"{self.name} ({', '.join(shown) or 'the fair defaults'})"
        return f"{text}, changed by hand: {', '.join(changed)}" if changed else text


def named_protocol(name: str, **changes: Any) -> EpisodeProtocol:
    """A protocol by name. Raises ConfigError for one that does not exist."""
    from raygseg.errors import ConfigError

    if name not in PROTOCOLS:
        raise ConfigError(f"there is no protocol '{name}'", f"use one of: {', '.join(PROTOCOLS)}")
    return EpisodeProtocol.model_validate({"name": name, **changes})


# --- kind: episodes ------------------------------------------------------------------------------


class EpisodesConfig(Run):
    """Score a few-shot network on episodes of classes that it has not seen."""

    # Scores are kept by list of episodes: more runs, shots or resamples add to what is there.
    outside_fingerprint: ClassVar[frozenset[str]] = frozenset(
        {"runtime", "output", "memory_mb", "actors", "bootstrap", "runs", "shots"}
    )

    kind: Literal["episodes"] = "episodes"
    model: str = Field("", description="PANet bundle: folder, s3:// or models:/NAME@alias; empty: no training")
    weights: str = Field("", description="of the untrained VGG-16: safetensors; empty: in RAYGSEG_DATA/weights")
    data: str = Field(..., description="folder with index.json, or images/ and masks/; VOC; COCO?annotations=FILE")
    output: str = Field("", description="folder for episodes, counts and scores; empty: runs/NAME")
    fold: int = Field(0, ge=0, description="whose classes are tested")
    ways: PositiveInt = Field(1, description="classes an episode")
    shots: tuple[PositiveInt, ...] = Field((1,), description="support pictures of each class")
    queries: PositiveInt = Field(1, description="query pictures an episode")
    episodes: PositiveInt = Field(1000, description="a run")
    runs: PositiveInt = Field(5, description="seeded lists of episodes, the same for every model")
    min_pictures: int = Field(0, ge=0, description="classes with fewer pictures are left out")
    marks: MarkStyle = Field("mask", description="how support pictures are labelled")
    self_prototypes: bool | None = Field(
        None, description="SSP's second pass, by the query's own sure pixels; null: as the model was trained"
    )
    resolution: PositiveInt = Field(201, description="pictures are squashed to this square for the network")
    protocol: EpisodeProtocol = EpisodeProtocol()
    batch_size: PositiveInt = Field(16, description="episodes at a time; part of the result")
    precision: Literal["fp32", "fp16"] = Field("fp32", description="of cached features")
    encoder_precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="of the convolutions that make them; bf16 is about twice as fast where the CPU has it"
    )
    memory_mb: PositiveInt = Field(1024, description="most that each worker's cached features take")
    actors: int = Field(0, ge=0, description="Ray actors; 0: one a CPU (or GPU)")
    bootstrap: int = Field(1000, ge=0, description="resamples for the intervals")
    max_bad_fraction: float = Field(0.02, ge=0, le=1, description="episodes that unreadable pictures may cost")
