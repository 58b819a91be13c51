"""The contract of heads: what a head is given, what it offers, and when it is called.

A head is one paper's mathematics: a module from features of images to logits. A run

1. checks the head's class against this contract (`check`), before anything is extracted;
2. builds it: `Head(**given, **settings)`, with torch's global seed set just before;
3. shows it the support set, if the method's YAML asks for one: `prepare`;
4. trains its parameters that require a gradient, if the YAML has a training: `forward`, `loss`;
5. searches the settings in `searched`, if the YAML has a search: `Searchable.lines`, `choose`;
6. evaluates it on one split after another: `reset`, then `forward` batch by batch.

What a head asks for travels by name. To add a feature of images, write its name into
`IMAGE_FEATURES` and compute it in `src.clip.model.FrozenClip.encode`; to add something that heads
are built with, write its name into `GIVEN` and give `src.features.source.FeatureSource` an
attribute of that name. Nothing that exists changes.
"""

import inspect
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Protocol, get_args, get_origin, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from src.errors import UserError
from src.heads.support import Support

IMAGE_FEATURES = {
    "global": "`[n, d]`, CLIP's image feature, not normalised",
    "spatial": "`[n, s, d]`, a feature of each position in the same space, not normalised",
    "unprojected": "`[n, w]`, what CLIP's last linear layer takes to the global feature",
    "crops": "`[n, k, d]`, the global features of k crops of a test image, the first of which is "
    "the image as CLIP itself sees it; `method.test_crops` says how the others are drawn",
}
"""What `Head.inputs` may name. Point clouds have one more dimension: `[n, v, d]`, v depth maps."""

GIVEN = {
    "text": "`[c, d]`, class text features whose direction is the mean of the prompts' directions",
    "raw_text": "`[c, d]`, the mean of the prompts' features as CLIP gives them, not normalised",
    "prompt_text": "`[p, d]`, the feature of each prompt of each class as CLIP gives it",
    "prompt_label": "int64 `[p]`, the class of each prompt",
    "projection": "`[w, d]`, the weight of CLIP's last linear layer, into the joint space",
    "projection_bias": "`[d]`, its bias; 0 where it has none",
    "logit_scale": "the factor on cosine similarities, 100 for OpenAI's models",
    "class_names": "the names, in the order of the labels",
    "text_tower": "`src.clip.text_tower.TextTower`, frozen, which gradients pass through",
    "n_views": "the number of depth maps of a point cloud",
}
"""What `Head.given` may name: keyword arguments of the constructor."""


class ContractError(TypeError):
    """A head does not keep the contract: its author made the mistake, not the user."""


class Head(nn.Module):
    """A module from features to logits; subclasses state what follows and define `forward`.

    Attributes:
        inputs: names of `IMAGE_FEATURES`: the arguments of `forward`, in that order.
        given: names of `GIVEN`: arguments of the constructor that the run provides. Its other
            arguments are the head's settings, one for each key of the YAML's `method.head`.
        searched: settings that may change after construction, by a search. Each is a number and an
            attribute of its own name. Any other setting may be kept in whatever form suits.
        similarity_factors: settings that multiply cosine similarities of images and texts, and were
            published for CLIP's. Each is a number and an attribute of its own name. For backbones
            with another range, a run scales them before `prepare`.
        affinity_factors: likewise, settings that multiply 1 - affinity, where the affinity is the
            cosine similarity of two images.
        sees: what `forward` looks at to answer for an image. `image`: that image alone. `stream`:
            those that came before it as well; calls have the images in the order of their arrival,
            in whole batches of the setting `batch_size` except for the last, and what the head
            keeps of them is forgotten by `reset`. `set`: all images of the call, in any order.
        needs_every_class: whether the support set must have an image of every class.
        depth_maps: how point clouds are read. `each`: every depth map is an image of its own and
            the logits are summed (`src.heads.multi_view`); a head that sees a `set` sees one of
            each direction. `joint`: `forward` takes all of a cloud together, `[n, v, ...]`, and
            gives the logits of each, `[n, v, c]`. `refused`: not.
        carries_over: whether what it learns is about features or prompts, and so holds for other
            classes as well, as a context or an adapter does; it is all in parameters then. What
            other heads learn is bound to their classes, as a cache is.
        scaled: what settings were multiplied by for the backbone, by name.
        frozen: names of submodules that hold CLIP's own weights: they are never trained, stay in
            evaluation mode, and are left out of checkpoints.
    """

    inputs: tuple[str, ...] = ("global",)
    given: ClassVar[tuple[str, ...]] = ("text", "logit_scale")
    searched: tuple[str, ...] = ()
    similarity_factors: tuple[str, ...] = ()
    affinity_factors: tuple[str, ...] = ()
    sees: Literal["image", "stream", "set"] = "image"
    needs_every_class: ClassVar[bool] = False
    depth_maps: ClassVar[Literal["each", "joint", "refused"]] = "each"
    carries_over: bool = False
    frozen: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        super().__init__()
        self.scaled: dict[str, float] = {}
        self.register_state_dict_post_hook(_leave_frozen_out)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_do_not_miss_frozen)  # type: ignore[no-untyped-call]

    def prepare(self, support: Support) -> None:
        """Look at the support set, once, before training and evaluation.

        What is learned here without a gradient becomes a buffer or a parameter, so that a
        checkpoint holds it.

        Args:
            support: crops of the labelled images, float16 or float32. Every class is among them if
                the head `needs_every_class`.
        """

    def scale_settings(self, factors: Mapping[str, float]) -> None:
        """Multiply settings by `factors`, before `prepare`; `scaled` keeps by how much."""
        for name, factor in factors.items():
            setattr(self, name, getattr(self, name) * factor)
            self.scaled[name] = factor

    def reset(self) -> None:
        """Forget what an evaluation left behind, such as a cache that grows.

        A run calls it before each pass over a split, so that no evaluation depends on another.
        """

    def loss(self, logits: Float[Tensor, "n c"], label: Int[Tensor, " n"]) -> Float[Tensor, ""]:
        """Compute what training minimises, from the logits of one batch; the cross-entropy here."""
        return cross_entropy(logits, label)

    def for_classes(
        self, given: Mapping[str, Any], settings: Mapping[str, Any], support: Support | None
    ) -> "Head":
        """Make a classifier of other classes, which nothing was adapted to.

        A head that `carries_over` is built for them, and takes what it learned along. What is bound
        to classes says nothing of others: they get zero-shot CLIP's classifier. A head with a rule
        of its own overrides this.

        Args:
            given: for the other classes, what `GIVEN` describes, by name: at least `text`,
                `logit_scale` and what this head was built from.
            settings: the head's present settings.
            support: what it was shown, of its own classes; None if it needs none.
        """
        if not self.carries_over:
            from src.heads.zero_shot import ZeroShot

            return ZeroShot(given["text"], given["logit_scale"])
        other: Head = type(self)(**{name: given[name] for name in self.given}, **settings)
        of_the_classes = {name for name, _ in self.named_buffers(recurse=False)}
        learned = {k: v for k, v in self.state_dict().items() if k not in of_the_classes}
        other.load_state_dict(learned, strict=False)
        return other.eval()

    def choose(self, settings: Mapping[str, Any]) -> None:
        """Change settings, each of which is in `searched`.

        Raises:
            ContractError: another one is among them.
        """
        for name, value in settings.items():
            if name not in self.searched:
                raise ContractError(f"{_name(type(self))} has no {name!r} in `searched`")
            setattr(self, name, value)

    def chosen(self) -> dict[str, Any]:
        """Return the present values of the settings in `searched`, as JSON holds them."""
        return {name: getattr(self, name) for name in self.searched}

    def fold(self) -> None:
        """Keep what `forward` needs for an image and drop what else there is, for an export.

        A head that computes something else in it, such as text features, overrides this.
        Afterwards it is good for evaluation alone.
        """

    def train(self, mode: bool = True) -> "Head":
        """Switch between training and evaluation mode; what is `frozen` stays in evaluation."""
        super().train(mode)
        for name in self.frozen:
            getattr(self, name).eval()
        return self


@runtime_checkable
class Searchable(Protocol):
    """A head whose logits are a line in its inner setting, for each value of its outer settings."""

    def lines(
        self, outer_values: Sequence[Any], *features: Tensor
    ) -> Iterator[tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]]]:
        """For each outer value, give `(base, direction)`: logits = base + inner · direction.

        Where the YAML lists several outer settings, a value is a tuple of one number for each, in
        that order. A head that has no outer setting is asked for a single line, with one value that
        it ignores.
        """


@runtime_checkable
class ChoosesWhileAnswering(Protocol):
    """A head that chooses a setting by validation images, and needs the images to answer for."""

    def validate_on(self, features: Mapping[str, Tensor], label: Int[Tensor, " n"]) -> None:
        """Keep all validation images, before any is answered for.

        Args:
            features: by the names of `inputs`, as they are stored.
            label: of each.
        """


@runtime_checkable
class Attends(Protocol):
    """A head that attends over the positions of an image, and can show it."""

    def attention(
        self, spatial_features: Float[Tensor, "n s d"]
    ) -> tuple[Float[Tensor, "n s c"], Float[Tensor, "n s c"]]:
        """Compute each class's attention over the positions, before and after blending."""


def in_passes(rows: Tensor, size: int) -> Sequence[Tensor]:
    """Split rows for passes of bounded memory; a graph that is exported has one for all rows."""
    return (rows,) if torch.compiler.is_exporting() else torch.split(rows, size)


def answers_alone(head: Head | type[Head]) -> bool:
    """Say whether an image by itself, as CLIP sees it, is all that a head or its class needs."""
    return head.sees == "image" and "crops" not in head.inputs


def check(head_class: Any, settings: Mapping[str, Any]) -> None:
    """Check a head's class, and the settings that it will be built with, before it is built.

    Args:
        head_class: what `method.head._target_` names.
        settings: the other keys of `method.head`.

    Raises:
        ContractError: the class does not keep the contract.
        UserError: a setting is unknown, missing, or of the wrong type.
    """
    if not (isinstance(head_class, type) and issubclass(head_class, Head)):
        raise ContractError(f"{_name(head_class)} is not a subclass of src.heads.base.Head")
    parameters = inspect.signature(head_class).parameters
    for attribute, names, known in (
        ("inputs", head_class.inputs, IMAGE_FEATURES),
        ("given", head_class.given, GIVEN),
        ("given", head_class.given, parameters),
        ("searched", head_class.searched, set(parameters) - set(head_class.given)),
        ("similarity_factors", head_class.similarity_factors, parameters),
        ("affinity_factors", head_class.affinity_factors, parameters),
    ):
        if unknown := [name for name in names if name not in known]:
            raise ContractError(
                f"{_name(head_class)}: `{attribute}` names {unknown[0]!r}, and there is only "
                f"{', '.join(known) or 'nothing'}"
            )
    own = {name: one for name, one in parameters.items() if name not in head_class.given}
    for name, value in settings.items():
        if name not in own:
            raise UserError(
                f"method.head.{name}={value}: {head_class.__name__} has no such setting. "
                f"It has {', '.join(own) or 'none'}."
            )
        if not _fits(value, own[name].annotation):
            raise UserError(
                f"method.head.{name}={value} is of the wrong type: give {_words(own[name])}."
            )
    for name, parameter in own.items():
        if name not in settings and parameter.default is parameter.empty:
            raise UserError(f"method.head.{name} has no value: give `method.head.{name}=...`.")


def check_built(head: Head) -> None:
    """Check what shows only once a head is built.

    Raises:
        ContractError: a setting that may be changed is not an attribute that holds a number, or a
            submodule that is called `frozen` is missing or has a parameter that would be trained.
    """
    changed = type(head).searched, type(head).similarity_factors, type(head).affinity_factors
    for name in itertools.chain(*changed):
        if not isinstance(getattr(head, name, None), int | float):
            raise ContractError(
                f"{_name(type(head))} must keep the number {name!r} as `self.{name}`"
            )
    for name in head.frozen:
        module = getattr(head, name, None)
        if not isinstance(module, nn.Module) or any(p.requires_grad for p in module.parameters()):
            raise ContractError(f"{_name(type(head))}: `{name}` is not a frozen submodule")


def _name(head_class: Any) -> str:
    return f"{head_class.__module__}.{getattr(head_class, '__qualname__', head_class)}"


def _leave_frozen_out(head: Any, state: dict[str, Any], prefix: str, _: Any) -> None:
    frozen = tuple(f"{prefix}{name}." for name in head.frozen)
    for key in [key for key in state if key.startswith(frozen)]:
        del state[key]


def _do_not_miss_frozen(head: Any, incompatible: Any) -> None:
    frozen = tuple(
        f"{name}.{key}" for name in head.frozen for key in getattr(head, name).state_dict()
    )
    missing = incompatible.missing_keys
    missing[:] = [key for key in missing if not key.endswith(frozen)]


def _fits(value: Any, annotation: Any) -> bool:
    """Say whether a value from YAML has the annotated type.

    An int is accepted for a float; NaN and infinity are accepted for none.
    """
    if get_origin(annotation) is UnionType:
        return any(_fits(value, one) for one in get_args(annotation))
    if annotation is None or annotation is NoneType:
        return value is None
    if annotation is bool:
        return isinstance(value, bool)
    if annotation in (int, float):
        kinds = (int,) if annotation is int else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
    return annotation is not str or isinstance(value, str)


def _words(parameter: inspect.Parameter) -> str:
    names = {int: "an integer", float: "a number", bool: "true or false", str: "text", None: "null"}
    annotation = parameter.annotation
    kinds = get_args(annotation) if get_origin(annotation) is UnionType else (annotation,)
    return " or ".join(names.get(None if one is NoneType else one, str(one)) for one in kinds)
