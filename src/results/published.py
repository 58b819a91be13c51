"""The published accuracy that a run corresponds to."""

import json

from src.files import ROOT

PUBLISHED = ROOT / "experiments/published_rn50.json"
LISTS = ("b", "a", "c")
"""The lists in that file, by priority: the Tip-Adapter authors' own log has the templates and the
protocol that are used here, and the others fill its gaps."""


def published(dataset: str, method: str, shots: int, backbone: str, weights: str) -> float | None:
    """Look up the top-1 accuracy (per cent) published for OpenAI's RN50; None if there is none."""
    if backbone != "rn50" or weights != "RN50-quickgelu/openai":
        return None
    content = json.loads(PUBLISHED.read_text())
    for name in LISTS:
        accuracy = content["datasets"].get(dataset, {}).get(name, {}).get(method)
        if isinstance(accuracy, list):
            by_shots = dict(zip(content["shots"], accuracy, strict=True))
            accuracy = by_shots.get(shots)
        if accuracy is not None:
            return float(accuracy)
    return None
