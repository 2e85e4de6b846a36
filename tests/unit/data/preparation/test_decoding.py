from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raygseg.data.preparation.decoding import Decoded, decode
from raygseg.data.preparation.findings import UnusableError
from raygseg.data.toy import render_toy
from raygseg.seeding import numpy_rng

PICTURE = Image.fromarray(render_toy(0, 0, 64)[0]).crop((0, 0, 64, 40))


def encoded(image_format: str, picture: Image.Image = PICTURE, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, image_format, **options)
    return buffer.getvalue()


def kinds(decoded: Decoded) -> list[str]:
    return [kind for kind, _ in decoded.mended]


def refusal(content: bytes, name: str) -> str:
    with pytest.raises(UnusableError) as caught:
        decode(content, name)
    return caught.value.kind


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_pictures_come_out_pixel_for_pixel(image_format: str) -> None:
    decoded = decode(encoded(image_format), f"a.{image_format.lower()}")
    assert (decoded.picture == np.asarray(PICTURE)).all()
    assert decoded.stored == decoded.size == (40, 64) and not decoded.mended


@pytest.mark.parametrize("orientation", range(2, 9))
def test_exif_orientation_is_undone(orientation: int) -> None:
    """The inverse of each orientation is stored, so that every picture comes out the same."""
    inverse = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode(encoded("PNG", PICTURE.transpose(inverse[orientation]), exif=exif), "a.png")
    assert (decoded.picture == np.asarray(PICTURE)).all()
    assert decoded.size == (40, 64) and decoded.orientation == orientation
    assert kinds(decoded) == ["turned upright"]


def test_what_is_mended_is_said() -> None:
    seen = PICTURE.copy()
    seen.putalpha(0)
    clear = decode(encoded("PNG", seen), "a.png")
    assert kinds(clear) == ["transparent"] and (clear.picture == 255).all()
    seen.putalpha(255)
    assert kinds(decode(encoded("PNG", seen), "a.png")) == []  # an alpha channel that hides nothing
    assert kinds(decode(encoded("PNG", PICTURE.convert("L")), "a.png")) == ["grey"]
    deep = Image.fromarray(np.asarray(PICTURE.convert("L")).astype(np.uint16) * 257)
    sixteen = decode(encoded("PNG", deep), "a.png")
    assert kinds(sixteen) == ["grey", "16 bit"]
    assert (sixteen.picture[..., 0] == np.asarray(PICTURE.convert("L"))).all()
    assert kinds(decode(encoded("JPEG", PICTURE.convert("CMYK")), "a.jpg")) == ["CMYK"]
    frames = encoded("GIF", PICTURE, save_all=True, append_images=[PICTURE.rotate(90)])
    assert kinds(decode(frames, "a.gif")) == ["several frames"]
    assert decode(encoded("PNG"), "a.jpg").mended == (("wrong extension", "PNG in .jpg extension"),)
    assert kinds(decode(encoded("PNG"), "IMG_0001")) == ["wrong extension"]


def test_sixteen_bit_colour_is_told_by_its_header() -> None:
    content = bytearray(encoded("PNG"))
    content[24] = 16  # twice the bytes are announced: the header alone is told, decoding ends early
    assert refusal(bytes(content), "a.png") in ("truncated", "corrupt")


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_cut_files_are_truncated_wherever_they_end(image_format: str, share: float) -> None:
    content = encoded(image_format)
    expected = ("truncated",) if image_format != "TIFF" else ("truncated", "corrupt", "unsupported format")
    cut = content[: max(6, int(share * len(content)))]
    if image_format == "WEBP" and len(cut) < 12:
        expected = ("truncated", "not a picture")
    assert refusal(cut, f"a.{image_format.lower()}") in expected


def test_damage_inside_is_corrupt() -> None:
    content = bytearray(encoded("PNG"))
    content[len(content) // 2 : len(content) // 2 + 64] = b"\xff" * 64
    assert refusal(bytes(content), "a.png") == "corrupt"


def test_what_is_no_picture_is_told_by_name_and_content() -> None:
    assert refusal(b"", "a.jpg") == "empty file"
    assert refusal(b"hello, world, this is text", "a.jpg") == "not a picture"
    assert refusal(b"hello, world, this is text", "a.bak") == "other file"
    assert refusal(encoded("TIFF"), "a.nef") == "unsupported format"
    # Pillow would start Ghostscript for this one.
    assert refusal(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "a.jpg") == "not a picture"


def test_pictures_with_too_many_pixels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert refusal(encoded("PNG"), "a.png") == "too large"


def test_large_jpegs_are_decoded_at_a_smaller_scale() -> None:
    large = encoded("JPEG", PICTURE.resize((1280, 800)), quality=95)
    decoded = decode(large, "a.jpg", 64)
    assert decoded.size == (800, 1280) and decoded.picture.shape == (100, 160, 3)
    assert decode(large, "a.jpg").picture.shape == (800, 1280, 3)


def test_heic_is_named_where_it_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(b"\0\0\0\x18ftypheic" + b"\0" * 40, "a.heic") in ("unsupported format", "corrupt")
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    decoded = decode(encoded("HEIF", PICTURE, quality=95), "a.heic")
    assert decoded.size == (40, 64)
    assert np.abs(decoded.picture.astype(int) - np.asarray(PICTURE).astype(int)).mean() < 12


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM"])
def test_whatever_a_file_holds_is_a_picture_or_a_finding(image_format: str) -> None:
    try:
        content = encoded(image_format)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow cannot write {image_format}")
    rng = numpy_rng(0, "damage")
    usable = 0
    for number in range(60):
        damaged = bytearray(content)
        for place in rng.integers(0, (len(damaged), min(len(damaged), 200))[number % 2], 6):
            damaged[int(place)] = int(rng.integers(256))
        try:
            decode(bytes(damaged[: int(rng.integers(1, len(damaged)))] if number % 5 == 0 else damaged), "a.jpg")
            usable += 1
        except UnusableError as error:
            assert error.kind != "other file"
    assert usable < 60
