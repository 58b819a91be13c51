"""Characters rendered from the fonts that matplotlib's wheel ships.

The embedded backbone `tiny` is pretrained on `PRETRAINING_FONTS`; the dataset `letters` is drawn
from `HELD_OUT_FONTS`, which come from another foundry, so that no face of a family is on both
sides. Fonts of symbols and of display sizes are left out, and so is cmmi10, whose digits are
old-style.
"""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

_POINTS = 96
"""Size at which glyphs are rendered, before they are cropped and scaled down."""


class Font(NamedTuple):
    """One face: its file in matplotlib's font folder, its family, and its style."""

    file: str
    family: str
    bold: bool = False
    italic: bool = False


PRETRAINING_FONTS = (
    Font("DejaVuSans.ttf", "DejaVu Sans"),
    Font("DejaVuSans-Bold.ttf", "DejaVu Sans", bold=True),
    Font("DejaVuSans-Oblique.ttf", "DejaVu Sans", italic=True),
    Font("DejaVuSans-BoldOblique.ttf", "DejaVu Sans", bold=True, italic=True),
    Font("DejaVuSansMono.ttf", "DejaVu Sans Mono"),
    Font("DejaVuSansMono-Bold.ttf", "DejaVu Sans Mono", bold=True),
    Font("DejaVuSansMono-Oblique.ttf", "DejaVu Sans Mono", italic=True),
    Font("DejaVuSansMono-BoldOblique.ttf", "DejaVu Sans Mono", bold=True, italic=True),
    Font("DejaVuSerif.ttf", "DejaVu Serif"),
    Font("DejaVuSerif-Bold.ttf", "DejaVu Serif", bold=True),
    Font("DejaVuSerif-Italic.ttf", "DejaVu Serif", italic=True),
    Font("DejaVuSerif-BoldItalic.ttf", "DejaVu Serif", bold=True, italic=True),
    Font("cmr10.ttf", "Computer Modern"),
    Font("cmb10.ttf", "Computer Modern", bold=True),
    Font("cmti10.ttf", "Computer Modern", italic=True),
    Font("cmss10.ttf", "Computer Modern"),
    Font("cmtt10.ttf", "Computer Modern"),
)

HELD_OUT_FONTS = (
    Font("STIXGeneral.ttf", "STIX"),
    Font("STIXGeneralBol.ttf", "STIX", bold=True),
    Font("STIXGeneralItalic.ttf", "STIX", italic=True),
    Font("STIXGeneralBolIta.ttf", "STIX", bold=True, italic=True),
)


@lru_cache
def _load(file: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf" / file, _POINTS)


def render(font: Font, character: str, size: int) -> UInt8[np.ndarray, "{size} {size}"]:
    """Draw one character white (255) on black (0), antialiased, centred in a square.

    The glyph's box, from the top to the bottom of its outline and as wide as its advance where
    that exceeds the outline, is scaled so that its longer side takes three quarters of `size`
    pixels: position and size in the line of text are lost on purpose.
    """
    left, top, right, bottom = (round(edge) for edge in _load(font.file).getbbox(character))
    glyph = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(glyph).text((-left, -top), character, fill=255, font=_load(font.file))
    longer = max(glyph.size)
    width, height = (max(1, round(0.75 * size * side / longer)) for side in glyph.size)
    square = Image.new("L", (size, size))
    square.paste(
        glyph.resize((width, height), Image.Resampling.BOX),
        ((size - width) // 2, (size - height) // 2),
    )
    return np.asarray(square)
