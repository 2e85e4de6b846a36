"""What a preparation was told: the part that decides its rows, and how that is told apart from another."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, get_args

from raygseg.data.preparation.framing import Fit
from raygseg.errors import ConfigError

IMAGE_FORMATS = ("png", "jpeg", "webp")
MASK_FORMATS = ("auto", "png", "coco", "labelme")
SHARD_BYTES = 1 << 27  # a shard holds as many pictures as take this much undecoded space, at most
MOST_FILES, FEWEST_FILES = 1024, 16


@dataclass(frozen=True)
class PreparationSettings:
    """Everything that decides the rows, besides the files themselves.

    Attributes:
        resolution: side of the square in pixels.
        fit: crop (the middle square), pad (all of it, black bars) or squash (all of it, stretched).
        image_format: png (exact), jpeg or webp (quality 95).
        min_side: pictures whose shorter side is below are skipped; 0: half the resolution.
        max_aspect: pictures longer than this many times their width (or wider) are skipped.
        keep_duplicates: keep files whose pixels came before.
        limit: only the first so many files in name order; 0: all.
        layout: how the source is laid out; see `layouts.LAYOUTS`.
        task: which classes, where the layout has several sets of them.
        split: a list of names: a file, or the name of one that the layout knows.
        mask_format: what the masks are, of MASK_FORMATS.
        files_per_shard: files that one shard is made of; 0: as many as suit the resolution.
    """

    resolution: int
    fit: str = "crop"
    image_format: str = "png"
    min_side: int = 0
    max_aspect: float = 3.0
    keep_duplicates: bool = False
    limit: int = 0
    layout: str = "pictures"
    task: str = ""
    split: str = ""
    mask_format: str = "auto"
    files_per_shard: int = 0

    def __post_init__(self) -> None:
        _among("fit", self.fit, get_args(Fit))
        _among("image_format", self.image_format, IMAGE_FORMATS)
        _among("mask_format", self.mask_format, MASK_FORMATS)
        if not 4 <= self.resolution <= 8192:
            raise ConfigError(f"resolution={self.resolution} is out of range", "use 4 to 8192 pixels, e.g. 256")
        if self.max_aspect < 1:
            raise ConfigError(f"max_aspect={self.max_aspect:g} would refuse every picture", "use 1 or more, e.g. 3")
        if min(self.min_side, self.limit, self.files_per_shard) < 0:
            raise ConfigError("min_side, limit and files_per_shard cannot be negative", "use 0 for the default")
        if not self.min_side:
            object.__setattr__(self, "min_side", max(4, self.resolution // 2))
        if not self.files_per_shard:
            fitting = SHARD_BYTES // (3 * self.resolution**2)
            object.__setattr__(self, "files_per_shard", max(FEWEST_FILES, min(MOST_FILES, fitting)))

    def identity(self) -> dict[str, Any]:
        """JSON facts by which two preparations are compared."""
        return asdict(self)


def _among(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{key}={value} is not known", f"use one of {', '.join(allowed)}")
