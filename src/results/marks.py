"""The signs beside accuracies that cannot be compared with others as they are."""

DAGGER = "†"
DOUBLE_DAGGER = "‡"
EXPLAINED = {
    DAGGER: f"{DAGGER} settings chosen on the test split: not comparable.",
    DOUBLE_DAGGER: f"{DOUBLE_DAGGER} the method saw the unlabelled test images before it answered.",
}


def marks(selected_on_test: bool, saw_test_images: bool) -> str:
    """Give the signs of an accuracy: none, one or both."""
    return DAGGER * bool(selected_on_test) + DOUBLE_DAGGER * bool(saw_test_images)


def explanations(text: str) -> list[str]:
    """Explain the signs that occur in a text."""
    return [meaning for sign, meaning in EXPLAINED.items() if sign in text]
