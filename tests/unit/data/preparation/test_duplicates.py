from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from raygseg.data.preparation.duplicates import NEAR_BITS, SeenPictures, content_digest, gradient_hash
from raygseg.data.toy import render_toy


@given(st.integers(0, 2**64 - 1), st.lists(st.integers(0, 63), max_size=5, unique=True))
def test_hashes_that_differ_in_few_bits_are_alike_wherever_the_bits_are(gradients: int, flipped: list[int]) -> None:
    seen = SeenPictures()
    seen.add("first", "00" * 16, gradients)
    other = gradients
    for bit in flipped:
        other ^= 1 << bit
    if 8 <= other.bit_count() <= 56:
        assert seen.similar(other) == ("first" if len(flipped) <= NEAR_BITS else None)


def test_a_picture_saved_again_is_alike_but_not_the_same() -> None:
    first = render_toy(0, 1, 64)[0]
    again = np.asarray(Image.fromarray(first).resize((48, 48), Image.Resampling.LANCZOS).resize((64, 64)))
    assert content_digest(first, (64, 64)) != content_digest(again, (64, 64))
    assert content_digest(first, (64, 64)) == content_digest(first.copy(), (64, 64))
    assert (gradient_hash(first) ^ gradient_hash(again)).bit_count() <= NEAR_BITS
    assert (gradient_hash(first) ^ gradient_hash(render_toy(0, 2, 64)[0])).bit_count() > NEAR_BITS
