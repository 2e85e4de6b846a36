"""Segmenters that were trained on stretched pictures (`data.contrast`), for pictures as they are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raygseg.data.contrast import stretched
from raygseg.interfaces import Picture, Segmentation, Segmenter

if TYPE_CHECKING:
    from torch import Tensor

_ASKED = re.compile(r"[?&]contrast=stretch(&|$)")


class StretchingSegmenter:
    """Stretches what it is shown; `inner` does the rest."""

    def __init__(self, inner: Segmenter) -> None:
        self.inner, self.labels, self.resolution = inner, inner.labels, inner.resolution

    def predict(self, pictures: Sequence[Picture]) -> list[Segmentation]:
        return self.inner.predict([stretched(picture) for picture in pictures])

    def probabilities(self, images: Tensor) -> Tensor:
        return self.inner.probabilities(images)


def asks_for_stretch(config: Mapping[str, Any]) -> bool:
    """Whether a source anywhere in a configuration does."""
    return any(
        asks_for_stretch(value) if isinstance(value, Mapping) else isinstance(value, str) and bool(_ASKED.search(value))
        for value in config.values()
    )
