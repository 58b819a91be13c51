"""The published accuracies that a run corresponds to, by its protocol, each with its source.

Sources differ in their baselines: two of them must never be compared with one another. Some have
chosen settings on the split that they report, which `describe` says.
"""

import json
from collections import Counter
from collections.abc import Iterable
from functools import cache
from typing import Any

from src.files import RECIPES

PUBLISHED = RECIPES / "published.json"
"""The figures, all in per cent, by the protocols of `conf/protocol`:

- `figures`: of all_classes and shift, by backbone, dataset, source and method: one of a method that
  sees no labelled images, else one by `shots`, null where the source has none.
- `base_to_new`: by backbone, dataset or `average`, source and method: the accuracies of base and
  new classes, then H as it was printed, if it was; that of a method that sees labelled images under
  their number per class. The average's are the means over eleven datasets and the H of those, which
  is not the mean of the datasets' H.
- `cross_dataset`: the same with one accuracy, by what it was tested on after ImageNet: another
  dataset, ImageNet itself, or `average`, the mean over the ten others.

Beside them:

- `backbones`: the architecture and weights that a backbone's figures are of;
- `sources`: the `place` of each, the `files` that its figures were read in (as
  `owner/repository@commit:path`, or the address of a page), its `protocol`, and `selected_on_test`:
  what its authors are known to have chosen on the split that they report, or false.
"""
SOURCES = ("b", "a", "c", "d", "e", "f", "g", "h", "i", "j", "k")
"""The sources in that file, by priority: the Tip-Adapter authors' own log has the templates and the
protocol that are used here. From g on they have figures of base_to_new and cross_dataset alone; g
is first, as it has the tables of the authors of both protocols."""
PARTS = {"all_classes": "figures", "shift": "figures", "cross_dataset": "cross_dataset"}
"""Where the file has the figures of the protocols that count one accuracy per dataset."""

OPENAI_RN50 = ("rn50", "RN50-quickgelu/openai")
"""The backbone of all that earlier versions knew: its name, and its architecture and weights."""


def published(
    dataset: str,
    method: str,
    shots: int,
    backbone: str,
    weights: str,
    *,
    protocol: str = "all_classes",
) -> dict[str, float]:
    """Look up the top-1 accuracies (per cent) that were published for a backbone, by source.

    Args:
        dataset: what a run was tested on. Of base_to_new and cross_dataset also `average`.
        method: its name.
        shots: labelled images per class that it may have seen.
        backbone: the name of its architecture with certain weights.
        weights: open_clip's name of the architecture, a slash, and the tag of the weights. Figures
            of other weights than the published ones' are none.
        protocol: what it was adapted to and tested on, as a record names it. No figures are known
            of others than all_classes, shift, base_to_new and cross_dataset.

    Returns:
        What the sources say that have the figure, in the order of `SOURCES`. Of base_to_new the
        accuracy on base classes, which such a run has as its own `accuracy`;
        `published_base_to_new` has those on new classes beside.
    """
    if protocol == "base_to_new":
        both = published_base_to_new(dataset, method, shots, backbone, weights)
        return {source: base for source, (base, _) in both.items()}
    part = PARTS.get(protocol)
    found = {} if part is None else _by_source(part, dataset, method, shots, backbone, weights)
    return {source: float(accuracy) for source, accuracy in found.items()}


def published_base_to_new(
    dataset: str, method: str, shots: int, backbone: str, weights: str
) -> dict[str, tuple[float, float]]:
    """Look up the accuracies (per cent) on base and on new classes, by source.

    Args:
        dataset: whose classes were divided, or `average`.
        method: its name.
        shots: labelled images per base class that it may have seen.
        backbone: as in `published`.
        weights: as in `published`.

    Returns:
        What the sources say that have the pair, in the order of `SOURCES`. H is 2bn / (b + n) of
        it, to the rounding of what was printed; so is that of the averages.
    """
    found = _by_source("base_to_new", dataset, method, shots, backbone, weights)
    return {source: (float(base), float(new)) for source, (base, new, *_) in found.items()}


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


def _by_source(
    part: str, dataset: str, method: str, shots: int, backbone: str, weights: str
) -> dict[str, Any]:
    """Look a figure up in a part of the file; the arguments are those of `published`."""
    content = _content()
    if content["backbones"].get(backbone) != weights:
        return {}
    by_source = content[part].get(backbone, {}).get(dataset, {})
    found = {}
    for source in SOURCES:
        figure = by_source.get(source, {}).get(method)
        if part == "figures" and isinstance(figure, list):
            figure = dict(zip(map(str, content["shots"]), figure, strict=True))
        if isinstance(figure, dict):
            figure = figure.get(str(shots))
        if figure is not None:
            found[source] = figure
    return found
