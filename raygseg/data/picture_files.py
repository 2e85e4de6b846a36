"""Encoded pictures and masks to arrays: every mode Pillow knows to RGB, masks to class indices."""

from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from raygseg.errors import DataError

Picture = NDArray[np.uint8]  # [H, W, 3]
ClassMap = NDArray[np.uint8]  # [H, W]

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
# Only decoders that merely decode: Pillow's EPS reader, for one, starts another program on what a file says.
SAFE_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM")
LOSSY_QUALITY = 95
_WHITE = (255, 255, 255, 255)
_DECODER_ERRORS = (OSError, UnidentifiedImageError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def decode_picture(content: bytes, resolution: int | None = None) -> Picture:
    """[H, W, 3] RGB of any picture file: EXIF rotation applied, alpha over white, 16 bits to 8.

    With `resolution` the picture is squashed to that square (its aspect is not kept), by Lanczos,
    which averages when it shrinks.

    Raises:
        DataError: "cannot be decoded: ..." (also for a file that ends too early).
    """
    try:
        with _opened(content) as image:
            if resolution is not None:
                image.draft("RGB", (2 * resolution, 2 * resolution))  # JPEG: decode at a smaller scale
            image.load()
            upright: Image.Image = ImageOps.exif_transpose(image)
            rgb = to_rgb(upright)
    except _DECODER_ERRORS as error:
        raise DataError(f"cannot be decoded: {error}", "remove the file or save it again") from error
    return resize_picture(np.asarray(rgb, dtype=np.uint8), resolution)


def resize_picture(picture: Picture, resolution: int | None) -> Picture:
    """Squash [H, W, 3] to [resolution, resolution, 3]; None leaves it."""
    if resolution is None or picture.shape[:2] == (resolution, resolution):
        return picture
    image = Image.fromarray(picture).resize((resolution, resolution), Image.Resampling.LANCZOS)
    return np.asarray(image, dtype=np.uint8)


def decode_mask(content: bytes) -> ClassMap:
    """[H, W] class indices of a palette, grey or one-bit file, at its own size.

    Raises:
        DataError: undecodable, a colour file, or an index above 255.
    """
    try:
        with _opened(content) as image:
            image.load()
            if image.mode not in ("P", "L", "1", "I", "I;16", "I;16B"):
                raise DataError(
                    f"mask holds colours, not class indices: mode {image.mode}",
                    "save it as a palette or grey PNG whose pixel values are class indices",
                )
            indices = np.asarray(image)
    except DataError:
        raise
    except _DECODER_ERRORS as error:
        raise DataError(f"mask cannot be decoded: {error}", "remove the file or save it again") from error
    if indices.dtype != np.uint8 and indices.size and int(indices.max()) > 255:
        raise DataError(f"class index {int(indices.max())} is out of range", "class indices go up to 255")
    return indices.astype(np.uint8)


def resize_class_map(class_map: ClassMap, resolution: int | None) -> ClassMap:
    """Squash [H, W] to [resolution, resolution] by nearest neighbour; None leaves it."""
    if resolution is None or class_map.shape == (resolution, resolution):
        return class_map
    image = Image.fromarray(class_map).resize((resolution, resolution), Image.Resampling.NEAREST)
    return np.asarray(image, dtype=np.uint8)


def _opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content), formats=[name for name in SAFE_FORMATS if name in _known()])


@functools.cache
def _known() -> frozenset[str]:
    """The formats that this Pillow reads."""
    Image.init()
    return frozenset(Image.OPEN)


def picture_size(content: bytes) -> tuple[int, int]:
    """(height, width) as decoded, EXIF rotation included, from the header alone."""
    with _opened(content) as image:
        width, height = image.size
        turned = image.getexif().get(0x0112, 1) >= 5
    return (width, height) if turned else (height, width)


def encode_picture(picture: NDArray[np.uint8], image_format: str) -> bytes:
    """[H, W, 3] RGB as png (exact), jpeg (full colour resolution) or webp."""
    if image_format == "png":
        return encode_png(picture)
    buffer = io.BytesIO()
    options = {"subsampling": 0} if image_format == "jpeg" else {}
    Image.fromarray(picture).save(buffer, image_format.upper(), quality=LOSSY_QUALITY, **options)
    return buffer.getvalue()


def encode_png(array: NDArray[np.uint8], palette: bytes | None = None, level: int = 1) -> bytes:
    """PNG bytes of [H, W, 3] RGB or [H, W] indices (with `palette`, 768 bytes, a palette PNG)."""
    image = Image.fromarray(array)
    if palette is not None:
        image.putpalette(palette)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=level)
    return buffer.getvalue()


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of any mode. 16 bits are divided by 257; numbers up to 255 stay, floats up to 1 are times 255."""
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_eight_bits(np.asarray(image))).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, _WHITE), rgba).convert("RGB")
    return image.convert("RGB")


def _to_eight_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    top = float(values.max()) if values.size else 0.0
    if values.dtype == np.uint16 or top > 255:
        scaled = values.astype(np.float64) / 257.0
    else:  # floating point pictures are often 0..1
        scaled = values.astype(np.float64) * (255.0 if values.dtype.kind == "f" and top <= 1.0 else 1.0)
    return np.asarray(np.clip(np.rint(scaled), 0, 255), dtype=np.uint8)
