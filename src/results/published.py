"""The published accuracies that a run corresponds to, each with its source.

Sources differ in their baselines: two of them must never be compared with one another. Some have
chosen settings on the split that they report, which `describe` says.
"""

import json
from collections import Counter
from collections.abc import Iterable
from functools import cache
from typing import Any

from src.files import ROOT

PUBLISHED = ROOT / "experiments/published.json"
"""The figures, by backbone, dataset, source and method: one of a method that sees no labelled
images, else one by `shots`, null where the source has none. Beside them:

- `backbones`: the architecture and weights that a backbone's figures are of;
- `sources`: the `place` of each, the `files` that its figures were read in (as
  `owner/repository@commit:path`), its `protocol`, and `selected_on_test`: what its authors chose on
  the split that they report, or false.
"""
SOURCES = ("b", "a", "c", "d", "e", "f")
"""The sources in that file, by priority: the Tip-Adapter authors' own log has the templates and the
protocol that are used here."""


OPENAI_RN50 = ("rn50", "RN50-quickgelu/openai")
"""The backbone of all that earlier versions knew: its name, and its architecture and weights."""


def published(
    dataset: str, method: str, shots: int, backbone: str, weights: str
) -> dict[str, float]:
    """Look up the top-1 accuracies (per cent) that were published for a backbone, by source.

    Args:
        dataset: what a run was tested on.
        method: its name.
        shots: labelled images per class that it may have seen.
        backbone: the name of its architecture with certain weights.
        weights: open_clip's name of the architecture, a slash, and the tag of the weights. Figures
            of other weights than the published ones' are none.

    Returns:
        What the sources say that have the figure, in the order of `SOURCES`.
    """
    content = _content()
    if content["backbones"].get(backbone) != weights:
        return {}
    by_source = content["figures"][backbone].get(dataset, {})
    found = {}
    for source in SOURCES:
        accuracy = by_source.get(source, {}).get(method)
        if isinstance(accuracy, list):
            by_shots = dict(zip(content["shots"], accuracy, strict=True))
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
    """Say what a source is, and what its authors chose on the split that they report."""
    about = _content()["sources"][source]
    if not about["selected_on_test"]:
        return str(about["place"])
    return f"{about['place']}; chosen on the test split there: {about['selected_on_test']}"


@cache
def _content() -> Any:
    return json.loads(PUBLISHED.read_text())
