"""Prompts with random descriptors, without a language model (WaffleCLIP, Roth et al., ICCV 2023).

Every class has the same descriptors: "A photo of a {class}, which has {descriptor}." As in the
authors' release, they come in pairs, one of random words and one of random characters. Its words
come from a published list; here they come from the short one below, so the figures are not its own.
"""

import random
import string
from collections.abc import Sequence

from src.data.text_files import readable

PAIRS = 15
"""How many pairs of descriptors there are, as in the release."""
WORDS = """
apple arrow autumn bamboo basket beacon blanket border bottle branch bridge bucket button candle
canyon carpet castle cellar chapter circle cloud coast copper corner cotton cradle crystal
curtain desert diamond drawer eagle ember engine fabric feather fence field finger flame forest
fountain garden ginger glacier granite gravel hammer harbor hazel helmet hollow honey island
ivory jacket jungle kettle ladder lantern leather lemon linen magnet marble meadow mirror
morning mountain needle nickel orchard oxygen paddle paper pebble pepper pillow pocket quarry
rabbit ribbon river rocket saddle salmon shadow silver socket spiral spring stable summer tablet
temple thunder ticket timber tunnel valley velvet violet wagon walnut whistle willow window
winter yellow
"""


def waffle_prompts(class_names: Sequence[str], seed: int) -> list[list[str]]:
    """Draw `2 * PAIRS` descriptors, and write a prompt with each for every class."""
    generator = random.Random(seed)
    descriptors = []
    for _ in range(PAIRS):
        words = generator.choices(WORDS.split(), k=2)
        characters = ["".join(generator.choices(string.ascii_lowercase, k=len(w))) for w in words]
        descriptors += [" ".join(words), " ".join(characters)]
    return [
        [f"A photo of a {readable(name)}, which has {descriptor}." for descriptor in descriptors]
        for name in class_names
    ]
