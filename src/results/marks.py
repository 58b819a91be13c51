"""The signs beside accuracies that cannot be compared with others as they are."""

from typing import Any

SIGNS = {"selected_on_test": "†", "saw_test_images": "‡", "partial_test": "§"}
"""By the record's field that is true where a sign is due."""

MEANINGS = {
    "†": "† settings chosen on the test split: not comparable.",
    "‡": "‡ the method saw the unlabelled test images before it answered.",
    "§": "§ tested on a part of the test split only: not comparable.",
}


def marks(*of: Any) -> str:
    """Give the signs that are due to any of the records, cells or rows `of`, which have `SIGNS`."""
    due = (sign for name, sign in SIGNS.items() if any(bool(getattr(one, name)) for one in of))
    return "".join(due)


def explanations(text: str) -> list[str]:
    """Explain the signs that occur in a text."""
    return [meaning for sign, meaning in MEANINGS.items() if sign in text]
