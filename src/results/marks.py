"""The signs beside accuracies that were found in another way than most."""

from typing import Any

SIGNS = {
    "selected_on_test": "†", "saw_test_images": "‡", "partial_test": "§", "validation_free": "¶",
}  # fmt: skip
"""By the record's attribute that is true where a sign is due."""

MEANINGS = {
    "†": "† settings chosen on the test split: not comparable.",
    "‡": "‡ the method saw the unlabelled test images, and most such methods assume classes of one "
    "size.",
    "§": "§ tested on a part of the test split only: not comparable.",
    "¶": "¶ validation-free: one setting for all datasets and shots, no validation image.",
}

SIGNS_WRITTEN = "".join(MEANINGS)


def marks(*of: Any) -> str:
    """Give the signs that are due to any of the records, cells or rows `of`, which have `SIGNS`."""
    due = (sign for name, sign in SIGNS.items() if any(bool(getattr(one, name)) for one in of))
    return "".join(due)


def explanations(text: str) -> list[str]:
    """Explain the signs that occur in a text."""
    return [meaning for sign, meaning in MEANINGS.items() if sign in text]
