"""Files that show the same: exactly (by their decoded pixels) and nearly (by a gradient hash)."""

from __future__ import annotations

import hashlib

import numpy as np
from PIL import Image

from raygseg.data.picture_files import Picture
from raygseg.data.preparation.framing import Size

NEAR_BITS = 2  # of 64 that may differ between files that look alike
_BANDS = NEAR_BITS + 1  # two hashes that differ in n bits agree in one of n + 1 bands


def content_digest(picture: Picture, size: Size) -> str:
    """32 hex digits of the decoded pixels and the full size."""
    digest = hashlib.blake2b(f"{size[0]}x{size[1]}|".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(picture).data)
    return digest.hexdigest()


def gradient_hash(picture: Picture) -> int:
    """64 bits: whether each of 8 x 8 places is brighter than the one to its right."""
    grey = np.asarray(Image.fromarray(picture).convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    return int.from_bytes(np.packbits(grey[:, :-1] > grey[:, 1:]).tobytes(), "big")


class SeenPictures:
    """What has been kept so far: some 600 bytes a picture."""

    def __init__(self) -> None:
        self._exact: dict[bytes, str] = {}
        self._bands: list[dict[int, list[tuple[int, str]]]] = [{} for _ in range(_BANDS)]

    def same(self, digest: str) -> str | None:
        """The name of the earlier file with these pixels."""
        return self._exact.get(bytes.fromhex(digest))

    def similar(self, gradients: int) -> str | None:
        """The name of an earlier file that looks like this; plain pictures look like nothing."""
        if not 8 <= gradients.bit_count() <= 56:
            return None
        for band, key in enumerate(_split(gradients)):
            for other, name in self._bands[band].get(key, ()):
                if (other ^ gradients).bit_count() <= NEAR_BITS:
                    return name
        return None

    def add(self, name: str, digest: str, gradients: int) -> None:
        self._exact.setdefault(bytes.fromhex(digest), name)
        for band, key in enumerate(_split(gradients)):
            self._bands[band].setdefault(key, []).append((gradients, name))


def _split(gradients: int) -> list[int]:
    """The hash cut into bands of 22, 21 and 21 bits."""
    return [gradients >> 42, (gradients >> 21) & 0x1FFFFF, gradients & 0x1FFFFF]
