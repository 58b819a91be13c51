"""A classifier as one graph, from images or points to probabilities."""

import io
import logging
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export
from torch.func import functional_call
from torch.fx import GraphModule

from src.classifier.classifier import Classifier
from src.clip.folding import fold
from src.clip.model import FrozenClip
from src.errors import UserError
from src.export.comparison import random_inputs
from src.heads.base import Head
from src.heads.multi_view import MultiView


class Graph(nn.Module):
    """Computes probabilities as the classifier does, its temperature included.

    Features pass through float16, as in the classifier, whose answers would otherwise be others by
    more than float32 rounds. The head computes in float32, whatever the precision, as in a run.
    """

    def __init__(self, classifier: Classifier, precision: torch.dtype, computes: bool) -> None:
        """Take the classifier apart, which cannot be used afterwards.

        Args:
            classifier: its text tower is dropped, and its image tower is changed in place.
            precision: that of the image tower.
            computes: whether the tower computes in this precision; otherwise its matrices are
                stored in it and converted whenever they are used.
        """
        super().__init__()
        _drop_text(classifier.clip.model)
        classifier.head.fold()
        self.tower = _Tower(classifier.clip, classifier.about.inputs)
        if computes:
            fold(classifier.clip.model.visual)
            self.tower.to(precision)
        else:
            for parameter in self.tower.parameters():
                if parameter.dim() > 1:
                    parameter.data = parameter.data.to(precision)
        self.head: Head = classifier.head
        self.requires_grad_(False)
        self.temperature = classifier.about.temperature
        # Points are never rounded: that would move them by whole pixels.
        pictures = classifier.about.view_weights is None
        self.dtype = precision if computes and pictures else torch.float32
        self.computes = computes

    def forward(self, inputs: Float[Tensor, "n ..."]) -> Float[Tensor, "n c"]:
        inputs = inputs.to(self.dtype)
        if self.computes:
            features = self.tower(inputs)
        else:
            weights = {name: weight.float() for name, weight in self.tower.named_parameters()}
            features = functional_call(self.tower, weights, (inputs,))
        logits: Tensor = self.head(*(each.half().float() for each in features))
        return (logits / self.temperature).softmax(dim=-1)


class _Tower(nn.Module):
    """CLIP's image tower: gives the features called `names`, in that order."""

    def __init__(self, clip: FrozenClip, names: Sequence[str]) -> None:
        super().__init__()
        self.clip, self.names = clip, names

    def forward(self, inputs: Float[Tensor, "n ..."]) -> list[Float[Tensor, "n ..."]]:
        features = self.clip.encode(inputs, self.names)
        return [features[name] for name in self.names]


def trace(classifier: Classifier, precision: str, *, computes: bool) -> ExportedProgram:
    """Make the graph of a classifier, for any number of inputs; see `Graph`.

    Raises:
        UserError: the method keeps a memory of what it has seen, or does something that a graph
            cannot express.
    """
    method, head = classifier.about.method, classifier.head
    if _reset_of(head) is not Head.reset:
        raise UserError(
            f"method={method} cannot be exported: its answers depend on the images that it has "
            "seen before, and a file remembers none."
        )
    example = random_inputs(classifier, 2)
    dynamic = dict.fromkeys((0,) if classifier.about.view_weights is None else (0, 1), Dim.DYNAMIC)
    graph = Graph(classifier, getattr(torch, precision), computes).eval()
    try:
        with torch.no_grad(), quiet():
            program = export(graph, (example,), dynamic_shapes=(dynamic,))
    except Exception as error:  # Torch raises many kinds of exceptions, and few have a name.
        raise not_exported(method, error) from error
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, GraphModule) else ():
            node.meta.pop("stack_trace", None)  # the names of folders on this machine
    return program


def not_exported(method: str, error: Exception) -> UserError:
    """Say why a method cannot be exported."""
    reason = textwrap.shorten(f"{type(error).__name__}: {error}", width=400, placeholder=" ...")
    return UserError(f"method={method} cannot be exported: {reason}")


@contextmanager
def quiet() -> Iterator[None]:
    """Hide what torch logs, warns about and prints while it exports."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    nowhere = io.StringIO()
    try:
        with warnings.catch_warnings(), redirect_stdout(nowhere), redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _reset_of(head: Head) -> object:
    """Find what forgets an evaluation in a head, or in the one that a `MultiView` holds."""
    inner = head.head if isinstance(head, MultiView) else head
    return type(inner).reset


def _drop_text(model: nn.Module) -> None:
    """Leave only the image tower of a model of open_clip."""
    for name in [name for name, _ in model.named_children() if name != "visual"]:
        delattr(model, name)
    for name in [*model._parameters, *model._buffers]:
        delattr(model, name)
