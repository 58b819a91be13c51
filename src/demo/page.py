"""What the page shows, as HTML in which names are text and never tags; imports no gradio."""

import base64
from collections.abc import Sequence
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from src.classifier.folder import About
from src.demo.answer import Answer
from src.results.conformal import prediction_sets

SHOWN = 10
"""Classes that have a bar; and how many of a set are named."""
SIDE = 320
"""The longest side, in pixels, that a picture is shown with."""
ENVIRONMENT = Environment(
    loader=PackageLoader("src.demo", "."), autoescape=True, undefined=StrictUndefined
)


class Bar(NamedTuple):
    """A class and its probability in per cent."""

    name: str
    percent: float


def title(about: About) -> str:
    """Name the classifier: its method, and the dataset if it is known."""
    dataset = about.adapted_on.get("dataset")
    return about.method if dataset is None else f"{about.method} on {dataset}"


def header(about: About) -> str:
    """Write the page's title."""
    return _render("header", title=title(about), clouds=about.view_weights is not None)


def panel(about: About, folder: str) -> str:
    """Write what the classifier is.

    Args:
        about: its description.
        folder: where it lies, as the user typed it.
    """
    return _render("panel", facts=_facts(about, folder))


def answer(about: About, said: Answer) -> str:
    """Write what the classifier says of a picture: its classes, and where it looks."""
    order = np.argsort(-said.probabilities, kind="stable")
    bars = [Bar(about.class_names[i], 100 * float(said.probabilities[i])) for i in order]
    chosen = None
    if about.conformal is not None:
        inside = prediction_sets(said.probabilities[None], about.conformal)[0]
        chosen = [about.class_names[i] for i in order if inside[i]]
    return _render(
        "answer",
        seen={caption: _url(_png(image)) for caption, image in said.seen.items()},
        clouds=about.view_weights is not None,
        bars=bars[:SHOWN],
        others=bars[SHOWN:],
        chosen=None if chosen is None else listing(chosen),
        coverage=None if about.conformal is None else 100 * about.conformal["coverage"],
        attention=None if said.attention is None else _url(said.attention),
    )


def mistake(message: str) -> str:
    """Write one message in place of an answer."""
    return _render("mistake", message=message)


def listing(names: Sequence[str]) -> str:
    """Join names, the first of them if they are many."""
    more = f" and {len(names) - SHOWN:,} others" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more if names else "none"


def _facts(about: About, folder: str) -> dict[str, str]:
    on = about.adapted_on
    shown = "none"
    if on.get("images", on.get("shots")):  # the interface for Python tells how many they are
        each = f"{on['shots']} of each class, seed {on['seed']}"
        shown = f"{on['images']:,}" if "images" in on else each
    kind = "images" if about.view_weights is None else "clouds"
    facts: dict[str, Any] = {
        "method": about.method,
        "backbone": about.backbone,
        "adapted on": on.get("dataset"),
        f"labelled {kind}": shown,
        "classes": f"{len(about.class_names):,}",
    }
    if on.get("accuracy") is not None:
        low, high = on["interval"]
        facts["accuracy"] = (
            f"{on['accuracy']:.2f} % of {on['n_test']:,} test {kind} "
            f"(95 % interval {low:.2f} to {high:.2f})"
        )
        if on.get("selection") == "test":
            facts["accuracy"] += "; settings were chosen on the same ones"
    if about.temperature != 1:
        facts["temperature"] = f"{about.temperature:.3g}"
    if about.conformal is not None:
        score, share = about.conformal["score"], 100 * about.conformal["coverage"]
        facts["sets of classes"] = f"{share:g} % hold the true one ({score})"
    facts |= {"weights": about.licence, "folder": folder}
    return {name: value for name, value in facts.items() if value}


def _render(name: str, **values: Any) -> str:
    return ENVIRONMENT.get_template(f"{name}.html.jinja").render(**values)


def _png(image: Image.Image) -> bytes:
    scale, stream = min(1, SIDE / max(image.size)), BytesIO()
    width, height = (max(1, round(scale * length)) for length in image.size)
    image.resize((width, height), reducing_gap=2.0).save(stream, "PNG")
    return stream.getvalue()


def _url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
