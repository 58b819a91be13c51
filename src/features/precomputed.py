"""The user's own features, in the public format.

A folder with

- `classes.json`: a list of class names,
- `meta.json`: `logit_scale` (a positive number), and optionally `logit_bias` (of models trained
  with a sigmoid, as SigLIP; about -16), `backbone` (its name in tables) and anything else about the
  origin,
- `text.safetensors`: `text` `[c, d]`, and optionally `raw_text` `[c, d]` (below),
- `test.safetensors`, and optionally `train.safetensors` and `val.safetensors`, each with `global`
  `[n, d]`, `label` int64 `[n]`, and optionally `spatial` `[n, s, d]`. `test` and `val` may also
  hold `crops` `[n, k, d]`, k crops of each image, the first of which is the whole image.

Features may have any floating-point type and any length. `train` may hold `[v, n, d]`, v crops of
each image.

Some methods start from class text features of the length that CLIP gave them (about 10 for OpenAI's
ViT-B/32), which `raw_text` holds: the mean of the prompts' features before any normalisation. Where
it is absent, `text` is taken, if it has not been normalised.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, NoReturn

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from src.clip.crops import AnyAugmentation
from src.data import few_shot
from src.data.few_shot import MAX_VALIDATION_SHOTS, Imbalance
from src.data.text_files import read_json
from src.errors import UserError
from src.features.source import Origin

FORMAT = "docs/precomputed.md describes the format."
NORMALISED = 1e-3
"""Text features whose lengths differ from 1 by less than this have been normalised."""


class Item(NamedTuple):
    """One labelled row, as the few-shot sampler sees it."""

    row: int
    label: int


class Rows:
    """Features in memory: all tensors share their first dimension."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def rows(self, start: int, stop: int) -> dict[str, Tensor]:
        return {name: tensor[start:stop] for name, tensor in self.tensors.items()}


class PrecomputedFeatures:
    """A folder in the public format; each split is read and checked when it is asked for."""

    n_views: int | None = None

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if not folder.is_dir():
            raise UserError(
                f"the folder dataset.path={folder} is missing: give the folder that holds "
                "classes.json, meta.json, text.safetensors and test.safetensors."
            )
        self.class_names = _read_classes(folder / "classes.json")
        meta = read_json(folder / "meta.json", FORMAT)
        scale = meta.get("logit_scale") if isinstance(meta, dict) else None
        if not isinstance(scale, int | float) or isinstance(scale, bool) or not 0 < scale < 1e6:
            raise UserError(
                f"{folder / 'meta.json'} must hold a positive number logit_scale (100 for "
                f"OpenAI's models), not {scale!r}."
            )
        bias = meta.get("logit_bias", 0.0)
        if not isinstance(bias, int | float) or isinstance(bias, bool) or not abs(bias) < 1e6:
            raise UserError(
                f"{folder / 'meta.json'}: logit_bias must be a number, as SigLIP has one, not "
                f"{bias!r}: leave it out for models without one."
            )
        self.logit_scale, self.logit_bias = float(scale), float(bias)
        self.origin = Origin(str(meta.get("backbone", "precomputed")), None, None, None, None)
        self.skipped_images: dict[str, str] = {}

    @cached_property
    def text(self) -> Float[Tensor, "c d"]:
        return self._text("text")

    @cached_property
    def raw_text(self) -> Float[Tensor, "c d"]:
        """The text features with the length that CLIP gave them.

        Raises:
            UserError: there are only features of length 1.
        """
        if "raw_text" in _names(self._text_file):
            return self._text("raw_text")
        if ((self.text.norm(dim=-1) - 1).abs() < NORMALISED).all():
            raise UserError(
                f"{self._text_file}: text has been normalised, and this method needs the length "
                "that CLIP gave: add raw_text, the mean of the prompts' features, not normalised."
            )
        return self.text

    @property
    def prompt_text(self) -> Float[Tensor, "c d"]:
        """The mean of each class's prompts in place of each: no more is known."""
        return self._text("raw_text") if "raw_text" in _names(self._text_file) else self.text

    @property
    def prompt_label(self) -> Int[Tensor, " c"]:
        return torch.arange(len(self.class_names))

    @property
    def projection(self) -> NoReturn:
        """Refuse.

        Raises:
            UserError: always.
        """
        raise UserError(
            "this method adapts CLIP's last linear layer, and precomputed features come without "
            "it: choose another method, or a dataset with images."
        )

    projection_bias = projection

    @property
    def text_tower(self) -> NoReturn:
        """Refuse.

        Raises:
            UserError: always.
        """
        raise UserError(
            "this method sends gradients through CLIP's text tower, and precomputed features come "
            "without one: choose another method, or a dataset with images."
        )

    @property
    def _text_file(self) -> Path:
        return self._folder / "text.safetensors"

    def _text(self, name: str) -> Float[Tensor, "c d"]:
        path = self._text_file
        text = _load(path, {name: 2})[name]
        if len(text) != len(self.class_names):
            raise UserError(
                f"{path} has {len(text)} text features and classes.json {len(self.class_names)} "
                "names: give one of each per class, in the same order."
            )
        return text.float()

    def split(self, name: str, inputs: Sequence[str]) -> Rows:
        path = self._folder / f"{name}.safetensors"
        if not path.is_file() and name == "val":
            raise UserError(
                f"{path} is missing, so there is nothing to select settings on: add it, or use "
                "selection=fixed."
            )
        tensors = _load(path, {"global": None, "label": 1} | _dimensions(inputs))
        if tensors["global"].ndim == 3 and name == "train":
            tensors["global"] = tensors["global"].transpose(0, 1)
        elif tensors["global"].ndim != 2:
            raise UserError(
                f"{path}: global has the shape {list(tensors['global'].shape)}; expected [n, d]"
                + (" or [v, n, d]." if name == "train" else ".")
            )
        self._check(path, tensors)
        return Rows(tensors)

    def few_shot_validation(
        self, shots: int, seed: int, inputs: Sequence[str], most: int = MAX_VALIDATION_SHOTS
    ) -> Rows:
        val = self.split("val", inputs)
        train = self.split("train", ())
        _, drawn = few_shot.sample(_labelled(train), _labelled(val), shots, seed, most)
        chosen = torch.tensor([item.row for item in drawn])
        return Rows({name: tensor[chosen] for name, tensor in val.tensors.items()})

    def support(
        self,
        shots: int,
        seed: int,
        inputs: Sequence[str],
        _: AnyAugmentation | None,
        imbalance: Imbalance | None = None,
    ) -> tuple[dict[str, Tensor], Int[Tensor, " n"]]:
        """Draw the support set out of `train`, with as many crops as the file holds."""
        train = self.split("train", inputs)
        drawn = few_shot.support(_labelled(train), shots, seed, imbalance)
        chosen = torch.tensor([item.row for item in drawn])
        tensors = {name: tensor[chosen] for name, tensor in train.tensors.items()}
        label = tensors.pop("label")
        if tensors["global"].ndim == 3:
            tensors["global"] = tensors["global"].transpose(0, 1)
        else:
            tensors["global"] = tensors["global"].unsqueeze(0)
        if "spatial" in tensors:
            tensors["spatial"] = tensors["spatial"].unsqueeze(0)
        if len({len(tensor) for tensor in tensors.values()}) > 1:
            raise UserError(
                f"{self._folder / 'train.safetensors'}: global has several crops of each image "
                "and spatial has one: give as many of both."
            )
        return tensors, label

    def _check(self, path: Path, tensors: dict[str, Tensor]) -> None:
        label, width = tensors["label"], self.text.shape[1]
        if "crops" in tensors and tensors["crops"].shape[1] < 2:
            raise UserError(f"{path}: crops has one crop of each image: give 2 or more.")
        for name, tensor in tensors.items():
            if len(tensor) != len(label) or len(label) == 0:
                raise UserError(
                    f"{path}: {name} has {len(tensor)} rows and label {len(label)}: give each "
                    "image one row in both, and at least one image."
                )
            if name != "label" and tensor.shape[-1] != width:
                raise UserError(
                    f"{path}: {name} has {tensor.shape[-1]} dimensions and text.safetensors "
                    f"{width}: both must come from the same joint space."
                )
        if label.dtype != torch.int64:
            raise UserError(f"{path}: label is {label.dtype}; convert it to int64.")
        if label.min() < 0 or label.max() >= len(self.class_names):
            raise UserError(
                f"{path}: label runs from {label.min()} to {label.max()}, but classes.json has "
                f"{len(self.class_names)} names: labels are positions in that list, from 0."
            )


def read(path: str) -> PrecomputedFeatures:
    """Open a folder in the public format.

    Raises:
        UserError: the folder, its class names or its logit scale are missing or malformed.
    """
    return PrecomputedFeatures(Path(str(path)))


def _dimensions(inputs: Sequence[str]) -> dict[str, int | None]:
    """Say how many dimensions the features called `inputs` have beside `global`.

    Raises:
        UserError: the format has no such feature.
    """
    known: dict[str, int | None] = {"spatial": 3, "crops": 3}
    beside = [name for name in inputs if name != "global"]
    if unknown := [name for name in beside if name not in known]:
        raise UserError(
            f"this method needs {unknown[0]} features, which the format of precomputed features "
            "does not have: choose another method, or a dataset with images."
        )
    return {name: known[name] for name in beside}


def _labelled(rows: Rows) -> list[Item]:
    return [Item(row, label) for row, label in enumerate(rows.tensors["label"].tolist())]


def _read_classes(path: Path) -> Sequence[str]:
    names = read_json(path, FORMAT)
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise UserError(f"{path} must be a list of class names, one string a class.")
    return names


def _names(path: Path) -> list[str]:
    """List the tensors of a safetensors file; none if it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError):
        return []


def _load(path: Path, dimensions: dict[str, int | None]) -> dict[str, Tensor]:
    """Read the named tensors of a safetensors file; `None` allows any number of dimensions."""
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing. {FORMAT}") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a safetensors file: {error}.") from None
    for name, expected in dimensions.items():
        if name not in tensors:
            raise UserError(
                f"{path} holds no tensor called {name!r} (it holds {', '.join(sorted(tensors))})."
            )
        tensor = tensors[name]
        if expected is not None and tensor.ndim != expected:
            raise UserError(
                f"{path}: {name} has the shape {list(tensor.shape)}, not {expected} dimensions."
            )
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"{path}: {name} holds NaN or infinite values: compute it again.")
    return {name: tensors[name] for name in dimensions}
