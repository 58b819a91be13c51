"""Every pretraining caption of a glyph, and the words that `tiny` knows.

A caption names the class and at most one attribute, so whether it is true of an image is a look
at two indices. Words that occur in no caption keep a token embedding of exactly zero.
"""

from collections.abc import Iterator
from typing import NamedTuple

CLASSES = "0123456789abcdefghijklmnopqrstuvwxyz"
"""The classes, in the order of their labels; both cases of a letter are one class."""

ATTRIBUTES = ("", "bold", "italic", "handwritten", "capital", "small")
"""The attributes a caption may state; the first states nothing and is true of every glyph."""

_DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATES = (
    "{}",
    "{}.",
    "a {}",
    "a {}.",
    "the {}",
    "the {}.",
    "a photo of {}.",
    "a photo of a {}.",
    "a photo of the {}.",
    "a picture of a {}.",
    "an image of the {}.",
    "a drawing of the {}.",
    "a scan of a {}.",
)


class Caption(NamedTuple):
    """A caption and the indices of the class and the attribute that it states."""

    text: str
    label: int
    attribute: int


def captions() -> list[Caption]:
    """List every caption, ordered by label, then by attribute."""
    return [
        Caption(template.format(subject), label, index)
        for label, character in enumerate(CLASSES)
        for index, attribute in enumerate(ATTRIBUTES)
        for subject in _subjects(character, attribute)
        for template in TEMPLATES
    ]


def _subjects(character: str, attribute: str) -> Iterator[str]:
    is_digit = character.isdigit()
    kinds = ("digit", "number", "numeral") if is_digit else ("letter", "character")
    names = (character, _DIGIT_WORDS[int(character)]) if is_digit else (character,)
    for name in names:
        if not attribute:
            yield name
        for kind in kinds:
            described = f"{attribute} {kind}".strip()
            yield f"{described} {name}"
            yield f'{described}: "{name}"'
