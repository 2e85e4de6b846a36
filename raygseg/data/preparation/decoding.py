"""Any file to an upright RGB picture, saying what had to be mended; or why it is none.

Only formats whose decoders merely decode are tried (Pillow's EPS reader would start another program).
"""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from raygseg.data.picture_files import PICTURE_SUFFIXES, SAFE_FORMATS, Picture, to_rgb
from raygseg.data.preparation.findings import UnusableError
from raygseg.data.preparation.framing import Size, turned_size

SUFFIX_FORMATS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), ("JPEG", "MPO")),
    ".png": ("PNG",), ".webp": ("WEBP",), ".bmp": ("BMP", "DIB"), ".dib": ("BMP", "DIB"), ".gif": ("GIF",),
    ".tif": ("TIFF",), ".tiff": ("TIFF",), ".avif": ("AVIF",), ".ppm": ("PPM",), ".pgm": ("PPM",),
    ".jp2": ("JPEG2000",), ".j2k": ("JPEG2000",), ".heic": ("HEIF",), ".heif": ("HEIF",),
}  # fmt: skip
RAW_SUFFIXES = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf")
PHOTO_SUFFIXES = tuple({*PICTURE_SUFFIXES, *SUFFIX_FORMATS, *RAW_SUFFIXES})
_MAGIC = ((b"\xff\xd8\xff", "JPEG"), (b"\x89PNG", "PNG"), (b"GIF8", "GIF"), (b"BM", "BMP"), (b"II*\0", "TIFF"),
          (b"MM\0*", "TIFF"))  # fmt: skip
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_AVIF = (b"ftypavif", b"ftypavis")
EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Decoded:
    """A usable picture.

    Attributes:
        picture: upright RGB [H, W, 3]; of a large JPEG possibly at 1/2, 1/4 or 1/8 of its size.
        stored: (height, width) in the file. orientation: its EXIF orientation, 1 where there is none.
        mended: (kind, detail) of what was done.
    """

    picture: Picture
    stored: Size
    orientation: int
    mended: tuple[tuple[str, str], ...]

    @property
    def size(self) -> Size:
        """(height, width) of the upright picture at its full size."""
        return turned_size(self.stored, self.orientation)


def decode(content: bytes, name: str, side: int = 0) -> Decoded:
    """Decode the file called `name`.

    Args:
        side: pixels that the shorter side of the result must keep (a JPEG is then decoded at a smaller
            scale where it may be); 0: all.

    Raises:
        UnusableError: with the kind of defect.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if not content:
        raise UnusableError("empty file")
    if suffix in RAW_SUFFIXES:
        raise UnusableError("unsupported format", f"camera raw ({suffix})")
    try:
        with Image.open(io.BytesIO(content), formats=_formats(_is_heic(content))) as image:
            stored = (image.height, image.width)
            mended = _before(image, content, suffix)
            if side and image.format in ("JPEG", "MPO") and image.mode == "RGB":
                image.draft("RGB", (side, side))
            image.load()
            orientation = _orientation(image)
            upright = ImageOps.exif_transpose(image) if orientation > 1 else image
            if _sees_through(upright):
                mended.append(("transparent", ""))
            picture = np.asarray(to_rgb(upright), dtype=np.uint8)
    except Image.DecompressionBombError as error:
        raise UnusableError("too large", str(error).partition(",")[0]) from error
    except UnidentifiedImageError as error:
        raise _unidentified(content, suffix) from error
    except Exception as error:  # a decoder fed with garbage raises what it likes
        raise _undecodable(content, error) from error
    if orientation > 1:
        mended.insert(0, ("turned upright", f"EXIF orientation {orientation}"))
    return Decoded(picture, stored, orientation, tuple(mended))


def _before(image: Image.Image, content: bytes, suffix: str) -> list[tuple[str, str]]:
    """What the opened but not yet decoded file says of itself."""
    mended: list[tuple[str, str]] = []
    if image.mode in ("L", "LA", "La", "1", "F") or image.mode.startswith("I"):
        mended.append(("grey", f"mode {image.mode}"))
    # Pillow gives 16-bit colour PNGs as 8 bits unasked: their header tells.
    if image.mode.startswith("I;16") or (image.format == "PNG" and content[24:25] == b"\x10"):
        mended.append(("16 bit", ""))
    if image.mode == "CMYK":
        mended.append(("CMYK", ""))
    frames = int(getattr(image, "n_frames", 1))
    if frames > 1 and image.format != "MPO":  # phones keep a depth map or a second view behind a JPEG
        mended.append(("several frames", f"{frames} frames"))
    found = str(image.format)
    if found not in SUFFIX_FORMATS.get(suffix, ()):
        mended.append(("wrong extension", f"{'MPO (JPEG)' if found == 'MPO' else found} in {suffix or 'no'} extension"))
    return mended


def _orientation(image: Image.Image) -> int:
    value = image.getexif().get(EXIF_ORIENTATION, 1)
    return int(value) if isinstance(value, int) and 1 <= value <= 8 else 1


def _sees_through(image: Image.Image) -> bool:
    """Whether any pixel is transparent."""
    if image.mode not in ("RGBA", "LA", "PA", "La", "RGBa") and "transparency" not in image.info:
        return False
    lowest = image.convert("RGBA").getchannel("A").getextrema()[0]
    return lowest != 255


def _unidentified(content: bytes, suffix: str) -> UnusableError:
    if _is_heic(content) and "HEIF" not in Image.OPEN:
        return UnusableError("unsupported format", "HEIC; the package pillow-heif reads it")
    if _format_by_magic(content) == "TIFF" and not _lacks_end(content):
        return UnusableError("unsupported format", "a TIFF of a kind that Pillow does not read")
    if content[8:12] == b"WEBP" or content[4:12] in _AVIF or _is_heic(content) or _format_by_magic(content):
        return _undecodable(content, None)
    if suffix not in SUFFIX_FORMATS:
        return UnusableError("other file", f"extension {suffix or 'none'}")
    return UnusableError("not a picture", f"begins with {content[:8]!r}")


def _undecodable(content: bytes, error: Exception | None) -> UnusableError:
    """Damaged: truncated where the file lacks its end, else corrupt."""
    text = str(error or "its header cannot be read")
    if _lacks_end(content) or "truncated" in text.lower() or isinstance(error, EOFError):
        return UnusableError("truncated", text)
    return UnusableError("corrupt", text)


def _lacks_end(content: bytes) -> bool:
    """Whether the format's closing mark or the bytes that its header announces are missing."""
    kind = _format_by_magic(content)
    if kind == "JPEG":
        return b"\xff\xd9" not in content[-64:]
    if kind == "PNG":
        return b"IEND" not in content[-64:]
    if kind == "GIF":
        return content.rstrip(b"\0")[-1:] != b";"
    if kind == "BMP":
        return len(content) < int.from_bytes(content[2:6], "little")
    if content[:4] == b"RIFF":
        return len(content) < int.from_bytes(content[4:8], "little") + 8
    return False


def _format_by_magic(content: bytes) -> str:
    return next((name for magic, name in _MAGIC if content.startswith(magic)), "")


def _is_heic(content: bytes) -> bool:
    return content[4:8] == b"ftyp" and content[8:12] in _HEIC_BRANDS


@functools.cache
def _formats(heic: bool) -> tuple[str, ...]:
    """The safe formats that this Pillow reads; HEIC through pillow-heif where that is installed."""
    if heic:
        try:
            from pillow_heif import register_heif_opener
        except ImportError:
            pass
        else:
            register_heif_opener()
    Image.init()
    return tuple(name for name in (*SAFE_FORMATS, "HEIF") if name in Image.OPEN)
