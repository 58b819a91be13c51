"""Some classes of a dataset, as a dataset of their own: base and new classes."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from src.clip.crops import AnyAugmentation
from src.clip.text_tower import TextTower
from src.data.few_shot import MAX_VALIDATION_SHOTS, Imbalance
from src.errors import UserError
from src.features.datamodule import ChosenRows, Features, in_memory
from src.features.source import FeatureSource, Origin


class ClassSubset:
    """The items of some classes of `source`, relabelled from 0; `FeatureSource` itself.

    Few-shot sampling happens first, over all classes and with the same generator, and what belongs
    to other classes is left out afterwards, as in CoOp's release (`subsample_classes`). So the
    support set is a part of that of the whole dataset, and its features are those in the store.
    """

    def __init__(self, source: FeatureSource, classes: Sequence[int]) -> None:
        """Take the classes whose labels in `source` are `classes`, which become 0, 1 and so on."""
        self._source, self._classes = source, torch.tensor(list(classes))
        self._number = torch.full((len(source.class_names),), -1)
        self._number[self._classes] = torch.arange(len(self._classes))

    @property
    def class_names(self) -> list[str]:
        return [self._source.class_names[label] for label in self._classes.tolist()]

    @property
    def text(self) -> Float[Tensor, "c d"]:
        return self._source.text[self._classes]

    @property
    def raw_text(self) -> Float[Tensor, "c d"]:
        return self._source.raw_text[self._classes]

    @property
    def prompt_text(self) -> Float[Tensor, "p d"]:
        return self._source.prompt_text[self._kept(self._source.prompt_label)]

    @property
    def prompt_label(self) -> Int[Tensor, " p"]:
        label = self._source.prompt_label
        return self._number[label[self._kept(label)]]

    @property
    def projection(self) -> Float[Tensor, "w d"]:
        return self._source.projection

    @property
    def projection_bias(self) -> Float[Tensor, " d"]:
        return self._source.projection_bias

    @property
    def logit_scale(self) -> float:
        return self._source.logit_scale

    @property
    def logit_bias(self) -> float:
        return self._source.logit_bias

    @cached_property
    def text_tower(self) -> TextTower:
        return self._source.text_tower

    @property
    def n_views(self) -> int | None:
        return self._source.n_views

    @property
    def origin(self) -> Origin:
        return self._source.origin

    @property
    def skipped_images(self) -> Mapping[str, str]:
        return self._source.skipped_images

    def split(self, name: str, inputs: Sequence[str]) -> Features:
        return self._of_classes(self._source.split(name, inputs), name)

    def few_shot_validation(
        self, shots: int, seed: int, inputs: Sequence[str], most: int = MAX_VALIDATION_SHOTS
    ) -> Features:
        drawn = self._source.few_shot_validation(shots, seed, inputs, most)
        return self._of_classes(drawn, "validation")

    def support(
        self,
        shots: int,
        seed: int,
        inputs: Sequence[str],
        augmentation: AnyAugmentation | None,
        imbalance: Imbalance | None = None,
    ) -> tuple[dict[str, Tensor], Int[Tensor, " n"]]:
        features, label = self._source.support(shots, seed, inputs, augmentation, imbalance)
        rows = self._kept(label)
        if len(rows) == 0:
            raise UserError(f"there is no training image of {self._range}: add some.")
        return {name: tensor[:, rows] for name, tensor in features.items()}, self._number[
            label[rows]
        ]

    def _kept(self, label: Int[Tensor, " n"]) -> Int[Tensor, " k"]:
        return (self._number[label] >= 0).nonzero().flatten()

    @property
    def _range(self) -> str:
        names = self.class_names
        return f"the {len(names)} classes from {names[0]!r} to {names[-1]!r}"

    def _of_classes(self, features: Features, what: str) -> Features:
        rows = self._kept(in_memory(features, ["label"])["label"])
        if len(rows) == 0:
            raise UserError(f"there is no {what} image of {self._range}: add some.")
        return _Relabelled(ChosenRows(features, rows), self._number)


class _Relabelled:
    """`features` with other labels; `Features` itself."""

    def __init__(self, features: Features, number: Int[Tensor, " c"]) -> None:
        self._features, self._number = features, number

    def __len__(self) -> int:
        return len(self._features)

    def rows(self, start: int, stop: int) -> dict[str, Tensor]:
        rows = self._features.rows(start, stop)
        return rows | {"label": self._number[rows["label"]]}
