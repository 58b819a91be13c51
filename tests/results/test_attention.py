from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from src.results import numbers
from src.results.attention import ClassMap, draw, png
from src.results.plots import CREATOR

RED, BLUE = 0, 2
LEFT, RIGHT = 372, 584
"""Middle of the maps before and after blending, in pixels."""


def even(positions):
    return np.full(positions, 1 / positions, dtype=np.float32)


def class_map(before, after, name="a", is_true=False):
    return ClassMap(name, 0.5, is_true, before, after)


def drawn(path, image, *maps):
    draw(image, maps, path)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.info["Software"] == CREATOR
        return np.asarray(picture.convert("RGB")).astype(int)


def test_positions_are_drawn_row_by_row_and_share_one_scale(tmp_path):
    """The second of 2 × 2 positions is at the top right; a white image shows only the colours."""
    more, less = even(4), even(4)
    more[1] += 0.2
    less[1] -= 0.1
    white = Image.new("RGB", (40, 30), "white")
    pixels = drawn(tmp_path / "0.png", white, class_map(more, less))
    warmth = pixels[:, :, RED] - pixels[:, :, BLUE]
    quarter, upper, lower = 50, 80, 180
    for column in (LEFT, RIGHT):
        assert abs(warmth[lower, column + quarter]) <= 6  # An even map is white.
        assert abs(warmth[upper, column - quarter]) <= 6
    assert warmth[upper, LEFT + quarter] > 20
    assert warmth[upper, RIGHT + quarter] < -20


@pytest.mark.parametrize(("classes", "positions"), [(1, 1), (2, 49), (4, 196)])
@pytest.mark.parametrize("size", [(8, 8), (300, 50)])
def test_any_number_of_classes_and_positions_is_drawn_over_any_image(
    tmp_path, classes, positions, size
):
    maps = [class_map(even(positions), even(positions), "name " * 20, number == 0)
            for number in range(classes)]  # fmt: skip
    pixels = drawn(tmp_path / "0.png", Image.new("RGB", size), *maps)
    assert pixels.shape == (int(150 * (0.75 + 1.42 * classes)), 690, 3)


def test_a_picture_holds_its_numbers(tmp_path):
    """Class names are text, whatever they are; each row of positions has a row."""
    more = even(4)
    more[1] += 0.25
    names = ["=SUM(a,\n1)", "é <b>"]
    maps = [class_map(more, even(4), name, number == 0) for number, name in enumerate(names)]
    behind = numbers.attention(png(Image.new("RGB", (8, 8)), maps))
    assert [tuple(row.values()) for row in behind.rows[:3]] == [
        ("'=SUM(a,\n1) (true)", "50.0", "before", "1", "1.000", "2.000"),
        ("'=SUM(a,\n1) (true)", "50.0", "before", "2", "1.000", "1.000"),
        ("'=SUM(a,\n1) (true)", "50.0", "after", "1", "1.000", "1.000"),
    ]
    assert len(behind.rows) == 2 * 2 * 2
    assert behind.rows[-1]["class"] == "é <b>"


def test_a_picture_of_something_else_has_no_numbers():
    file = BytesIO()
    Image.new("RGB", (8, 8)).save(file, format="png")
    for content in (b"", b"picture", file.getvalue(), file.getvalue()[:40]):
        assert numbers.attention(content) is None
