from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from raygseg.data.picture_files import (
    decode_mask,
    decode_picture,
    encode_png,
    picture_size,
    resize_class_map,
)
from raygseg.errors import DataError


def _saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _gradient(height: int = 12, width: int = 20) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 12, y * 20, 255 - x * 6], axis=-1).astype(np.uint8)


def test_png_is_exact_and_jpeg_is_close() -> None:
    picture = _gradient()
    assert np.array_equal(decode_picture(encode_png(picture)), picture)
    smooth = np.full((16, 16, 3), (200, 90, 30), np.uint8)
    decoded = decode_picture(_saved(Image.fromarray(smooth), "JPEG", quality=95))
    assert np.abs(decoded.astype(int) - smooth).max() <= 4


def test_exif_rotation_is_applied_and_counted_in_the_size() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show
    content = _saved(Image.fromarray(_gradient()), "PNG", exif=exif)
    assert np.array_equal(decode_picture(content), np.rot90(_gradient(), -1))
    assert picture_size(content) == (20, 12)


def test_transparency_lies_over_white() -> None:
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:2, :, 0], rgba[:2, :, 3] = 255, 255
    decoded = decode_picture(_saved(Image.fromarray(rgba)))
    assert (decoded[:2] == (255, 0, 0)).all()
    assert (decoded[2:] == 255).all()
    palette = Image.fromarray(np.zeros((4, 4), np.uint8))
    palette.putpalette([10, 20, 30])
    assert (decode_picture(_saved(palette, transparency=0)) == 255).all()
    assert (decode_picture(_saved(palette)) == (10, 20, 30)).all()


def test_sixteen_bits_and_grey_become_rgb() -> None:
    wide = Image.fromarray(np.array([[0, 65535], [257 * 100, 257 * 200]], np.uint16))
    assert decode_picture(_saved(wide))[..., 1].tolist() == [[0, 255], [100, 200]]
    grey = Image.fromarray(np.array([[7, 200]], np.uint8))
    assert decode_picture(_saved(grey)).tolist() == [[[7, 7, 7], [200, 200, 200]]]
    floats = Image.fromarray(np.array([[0.0, 1.0]], np.float32))
    assert decode_picture(_saved(floats, "TIFF"))[..., 0].tolist() == [[0, 255]]
    assert decode_picture(_saved(Image.new("CMYK", (3, 2), (0, 255, 255, 0)), "JPEG")).shape == (2, 3, 3)


def test_shrinking_averages_and_squashes() -> None:
    board = np.kron(np.indices((16, 32)).sum(0) % 2, np.ones((4, 4)))[..., None].repeat(3, -1) * 255
    small = decode_picture(encode_png(board.astype(np.uint8)), 8)
    assert small.shape == (8, 8, 3)
    assert np.abs(small.astype(int) - 127).max() < 25  # point sampling would give 0 or 255


@pytest.mark.parametrize("keep", [10, 60, 0.5, 0.95])
def test_a_cut_file_is_a_data_error(keep: float) -> None:
    rng = np.random.default_rng(0)
    content = _saved(Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)), "JPEG", quality=90)
    cut = content[: int(keep if keep > 1 else keep * len(content))]
    with pytest.raises(DataError, match="cannot be decoded"):
        decode_picture(cut)


def test_masks_are_indices_of_any_index_mode() -> None:
    indices = np.array([[0, 1, 2], [7, 255, 3]], np.uint8)
    assert np.array_equal(decode_mask(encode_png(indices)), indices)
    assert np.array_equal(decode_mask(encode_png(indices, bytes(range(256)) * 3)), indices)
    assert decode_mask(_saved(Image.fromarray(indices.astype(bool)))).tolist() == [[0, 1, 1], [1, 1, 1]]
    assert np.array_equal(decode_mask(_saved(Image.fromarray(indices.astype(np.uint16)))), indices)


def test_masks_that_are_not_indices_are_refused() -> None:
    with pytest.raises(DataError, match="holds colours"):
        decode_mask(encode_png(_gradient()))
    with pytest.raises(DataError, match="class index 300 is out of range"):
        decode_mask(_saved(Image.fromarray(np.array([[300]], np.uint16))))
    with pytest.raises(DataError, match="mask cannot be decoded"):
        decode_mask(b"no picture")


def test_masks_are_resized_without_new_indices() -> None:
    mask = np.repeat(np.array([[0, 9]], np.uint8), 10, axis=0).repeat(5, axis=1)
    assert set(np.unique(resize_class_map(mask, 7))) == {0, 9}
    assert resize_class_map(mask, None) is mask


def test_a_file_whose_reader_would_run_a_program_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """PostScript under a picture's name."""
    from PIL import EpsImagePlugin

    ran: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments, **named: ran.append(arguments))
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    for decode in (decode_picture, decode_mask):
        with pytest.raises(DataError, match="cannot be decoded"):
            decode(postscript)
    assert not ran
