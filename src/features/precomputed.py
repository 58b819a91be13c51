"""Features brought along, in the public format.

A folder with

- `classes.json`: a list of class names,
- `meta.json`: `logit_scale` (a positive number), and optionally `backbone` (its name in tables)
  and anything else about the origin,
- `text.safetensors`: `text` `[c, d]`,
- `test.safetensors`, and optionally `train.safetensors` and `val.safetensors`, each with `global`
  `[n, d]`, `label` int64 `[n]`, and optionally `spatial` `[n, s, d]`.

Features may have any floating-point type and any length. `train` may hold `[v, n, d]`, v augmented
views of each image.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from src.clip.crops import Augmentation
from src.data import few_shot
from src.errors import UserError


class Item(NamedTuple):
    """One labelled row, as the few-shot sampler sees it."""

    row: int
    label: int


class Rows:
    """Features in memory: all tensors share their first dimension."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors["label"])

    def rows(self, start: int, stop: int) -> dict[str, Tensor]:
        return {name: tensor[start:stop] for name, tensor in self.tensors.items()}


class PrecomputedFeatures:
    """A folder in the public format; each split is read and checked when it is asked for."""

    precision: str | None = None
    views: int | None = None

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if not folder.is_dir():
            raise UserError(
                f"the folder dataset.path={folder} is missing: give the folder that holds "
                "classes.json, meta.json, text.safetensors and test.safetensors."
            )
        self.class_names = _read_classes(folder / "classes.json")
        meta = _read_json(folder / "meta.json")
        scale = meta.get("logit_scale") if isinstance(meta, dict) else None
        if not isinstance(scale, int | float) or isinstance(scale, bool) or not 0 < scale < 1e6:
            raise UserError(
                f"{folder / 'meta.json'} must hold a positive number logit_scale (100 for "
                f"OpenAI's models), not {scale!r}."
            )
        self.logit_scale = float(scale)
        self.backbone = str(meta.get("backbone", "precomputed"))
        self.skipped_images: dict[str, str] = {}

    def text(self) -> tuple[Float[Tensor, "c d"], float]:
        path = self._folder / "text.safetensors"
        text = _load(path, {"text": 2})["text"]
        if len(text) != len(self.class_names):
            raise UserError(
                f"{path} has {len(text)} text features and classes.json {len(self.class_names)} "
                "names: give one of each per class, in the same order."
            )
        return text.float(), self.logit_scale

    def learnable_prompts(self, n_context: int) -> NoReturn:
        """Refuse.

        Raises:
            UserError: always.
        """
        raise UserError(
            f"learning {n_context} context vectors needs the text tower, and precomputed features "
            "come without one: choose another method, or a dataset with images."
        )

    def split(self, name: str, spatial: bool) -> Rows:
        path = self._folder / f"{name}.safetensors"
        if not path.is_file() and name == "val":
            raise UserError(
                f"{path} is missing, so there is nothing to select settings on: add it, or use "
                "selection=fixed."
            )
        tensors = _load(path, {"global": None, "label": 1} | ({"spatial": 3} if spatial else {}))
        if tensors["global"].ndim == 3 and name == "train":
            tensors["global"] = tensors["global"].transpose(0, 1)
        elif tensors["global"].ndim != 2:
            raise UserError(
                f"{path}: global has the shape {list(tensors['global'].shape)}; expected [n, d]"
                + (" or [v, n, d]." if name == "train" else ".")
            )
        self._check(path, tensors)
        return Rows(tensors)

    def few_shot_validation(self, shots: int, seed: int, spatial: bool) -> Rows:
        val = self.split("val", spatial)
        train = self.split("train", spatial=False)
        _, drawn = few_shot.sample(_labelled(train), _labelled(val), shots, seed)
        chosen = torch.tensor([item.row for item in drawn])
        return Rows({name: tensor[chosen] for name, tensor in val.tensors.items()})

    def support(
        self, shots: int, seed: int, spatial: bool, _: Augmentation | None
    ) -> tuple[dict[str, Tensor], Int[Tensor, " n"]]:
        """Draw the support set out of `train`, with as many views as the file holds."""
        train = self.split("train", spatial)
        drawn, _validation = few_shot.sample(_labelled(train), [], shots, seed)
        chosen = torch.tensor([item.row for item in drawn])
        tensors = {name: tensor[chosen] for name, tensor in train.tensors.items()}
        label = tensors.pop("label")
        if tensors["global"].ndim == 3:
            tensors["global"] = tensors["global"].transpose(0, 1)
        else:
            tensors["global"] = tensors["global"].unsqueeze(0)
        if spatial:
            tensors["spatial"] = tensors["spatial"].unsqueeze(0)
        views = {len(tensor) for tensor in tensors.values()}
        if len(views) > 1:
            raise UserError(
                f"{self._folder / 'train.safetensors'}: global has several views of each image "
                "and spatial one: give as many of both."
            )
        return tensors, label

    def _check(self, path: Path, tensors: dict[str, Tensor]) -> None:
        label, width = tensors["label"], self.text()[0].shape[1]
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


def _labelled(rows: Rows) -> list[Item]:
    return [Item(row, label) for row, label in enumerate(rows.tensors["label"].tolist())]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} is missing: the README describes the format.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not JSON: {error}.") from None


def _read_classes(path: Path) -> Sequence[str]:
    names = _read_json(path)
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise UserError(f"{path} must be a list of class names, one string a class.")
    return names


def _load(path: Path, dimensions: dict[str, int | None]) -> dict[str, Tensor]:
    """Read the named tensors of a safetensors file; `None` allows any number of dimensions."""
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: the README describes the format.") from None
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
            raise UserError(f"{path}: {name} holds NaN or infinite values: make it anew.")
    return {name: tensors[name] for name in dimensions}
