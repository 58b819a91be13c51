"""The published accuracies that a run corresponds to, each with its source.

Sources differ in their baselines: two of them must never be compared with one another.
"""

import json
from collections import Counter
from collections.abc import Iterable
from functools import cache
from typing import Any

from src.files import ROOT

PUBLISHED = ROOT / "experiments/published_rn50.json"
SOURCES = ("b", "a", "c")
"""The sources in that file, by priority: the Tip-Adapter authors' own log has the templates and the
protocol that are used here."""


OPENAI_RN50 = ("rn50", "RN50-quickgelu/openai")
"""The backbone of all of them: its name, and its architecture and weights."""


def published(
    dataset: str, method: str, shots: int, backbone: str, weights: str
) -> dict[str, float]:
    """Look up the top-1 accuracies (per cent) published for OpenAI's RN50, by source.

    Returns:
        What the sources say that have the figure, in the order of `SOURCES`.
    """
    if (backbone, weights) != OPENAI_RN50:
        return {}
    found = {}
    for source in SOURCES:
        accuracy = _content()["datasets"].get(dataset, {}).get(source, {}).get(method)
        if isinstance(accuracy, list):
            by_shots = dict(zip(_content()["shots"], accuracy, strict=True))
            accuracy = by_shots.get(shots)
        if accuracy is not None:
            found[source] = float(accuracy)
    return found


def common_source(sources_of: Iterable[Iterable[str]]) -> str | None:
    """Choose the one source that a table compares with: that which has the most of its figures.

    Args:
        sources_of: for each cell of the table, the sources that have its figure.

    Returns:
        The source; of equals, the first in `SOURCES`. None if no figure was published.
    """
    count = Counter(source for sources in sources_of for source in sources)
    return max(SOURCES, key=lambda source: count[source]) if count else None


def describe(source: str) -> str:
    """Say what a source is."""
    return str(_content()["sources"][source])


@cache
def _content() -> Any:
    return json.loads(PUBLISHED.read_text())
