import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.data.glyphs import HELD_OUT_FONTS, PRETRAINING_FONTS, Font, render

FONTS = PRETRAINING_FONTS + HELD_OUT_FONTS
CHARACTERS = string.digits + string.ascii_letters
MISSING = "\uffff"


def test_no_family_is_on_both_sides():
    assert not {f.family for f in PRETRAINING_FONTS} & {f.family for f in HELD_OUT_FONTS}


def test_no_file_is_listed_twice():
    assert len({font.file for font in FONTS}) == len(FONTS)


@pytest.mark.parametrize("font", FONTS, ids=lambda font: font.file)
def test_font_has_every_digit_and_letter(font: Font):
    missing = render(font, MISSING, 48)
    without = [c for c in CHARACTERS if np.array_equal(render(font, c, 48), missing)]
    assert without == []


@pytest.mark.parametrize("style", ["bold", "italic"])
def test_declared_style_differs_from_the_upright_regular_face(style: str):
    for font in FONTS:
        if getattr(font, style):
            regular = next(f for f in FONTS if f.family == font.family)
            assert not np.array_equal(render(font, "g", 48), render(regular, "g", 48))


@given(st.sampled_from(FONTS), st.sampled_from(CHARACTERS), st.integers(8, 64))
def test_glyph_lies_in_the_central_three_quarters(font: Font, character: str, size: int):
    glyph = render(font, character, size)
    assert glyph.shape == (size, size)
    rows, columns = (np.flatnonzero(glyph.any(axis)) for axis in (1, 0))
    for edge in (rows, columns):
        assert edge[0] >= size / 8 - 1.5
        assert edge[-1] <= size * 7 / 8 + 0.5
    assert (rows[0] + rows[-1] + 1) / 2 == pytest.approx(size / 2, abs=1.5)
    assert max(rows[-1] - rows[0], columns[-1] - columns[0]) >= size / 2 - 2
