"""Where a run's features come from: an image dataset's, extracted at most once."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from importlib.metadata import version
from typing import Any, NamedTuple, Protocol

from jaxtyping import Float, Int
from lightning import Trainer
from torch import Tensor

from src.clip.crops import Augmentation, View
from src.clip.model import FrozenClip
from src.clip.precision import FLOAT32, resolve
from src.clip.text_tower import TextTower
from src.clip.weights import weights_id
from src.data import few_shot
from src.data.images import DamagedImageError, ImageDataset, Item
from src.errors import UserError
from src.features import skipped
from src.features.datamodule import Features
from src.store.entry import FeatureEntry
from src.store.store import FeatureStore

log = logging.getLogger(__name__)

BATCHES_PER_SHARD = 4
GLOBAL = ("global",)
SPATIAL = ("global", "spatial")


class FeatureSource(Protocol):
    """What a run asks of its dataset, whether the features are ours or brought along."""

    @property
    def class_names(self) -> Sequence[str]: ...

    @property
    def skipped_images(self) -> Mapping[str, str]:
        """Say which images were left out of what was given so far, by path, and why."""

    @property
    def precision(self) -> str | None:
        """Lightning's name of the precision of the features; None if they were brought along."""

    @property
    def views(self) -> int | None:
        """How many depth maps an item has, in features `[n, v, ...]`; None of photographs."""

    def text(self) -> tuple[Float[Tensor, "c d"], float]:
        """Give the class text features and the logit scale."""

    def learnable_prompts(self, n_context: int) -> "LearnablePrompts":
        """Give what it takes to learn `n_context` context vectors of the class prompts."""

    def split(self, name: str, spatial: bool) -> Features:
        """Give all of `train`, `val` or `test`; with `spatial` features if asked for."""

    def few_shot_validation(self, shots: int, seed: int, spatial: bool) -> Features:
        """Draw the min(`shots`, 4) validation images per class of CoOp's protocol."""

    def support(
        self, shots: int, seed: int, spatial: bool, augmentation: Augmentation | None
    ) -> tuple[dict[str, Tensor], Int[Tensor, " n"]]:
        """Draw the support set of CoOp's protocol: features `[v, n, ...]` by name, and labels."""


class LearnablePrompts(NamedTuple):
    """Class prompts whose context is learned, and the frozen tower that reads them.

    Attributes:
        tower: common prefix, each class's rest and `ends` to text features.
        embeddings: token embeddings `[c, l, w]`, placeholders where the context goes.
        ends: where each class ends, int64 `[c]`.
        logit_scale: the factor on cosine similarities.
    """

    tower: TextTower
    embeddings: Float[Tensor, "c l w"]
    ends: Int[Tensor, " c"]
    logit_scale: float


class ImageFeatures:
    """Features of an image dataset, out of the store; CLIP is loaded only if one is missing."""

    views: int | None = None
    _kind = "images"

    def __init__(
        self,
        name: str,
        dataset: ImageDataset,
        prompts: Sequence[Sequence[str]],
        backbone: str,
        architecture: str,
        pretrained: str | None,
        precision: str,
        batch_size: int,
        store: FeatureStore,
        trainer: Callable[..., Trainer],
        skip_damaged: bool = False,
    ) -> None:
        """Name what the features depend on; nothing is read or computed yet.

        Args:
            name: the dataset's name, a folder of the store.
            dataset: the images and classes.
            prompts: for every class, one prompt or more.
            backbone: the backbone's name, shown by the store.
            architecture: open_clip's name, or `local-dir:` and a folder.
            pretrained: open_clip's tag, a checkpoint file, or None.
            precision: Lightning's name of the precision CLIP computes in, or `auto`.
            batch_size: images per forward pass.
            store: where features are kept.
            trainer: makes the Trainer that extracts, given `precision` and further `callbacks`.
            skip_damaged: leave images out that cannot be decoded; else they are a `UserError`.
        """
        self.class_names = dataset.class_names
        self._name, self._dataset, self._prompts = name, dataset, prompts
        self._backbone, self._architecture, self._pretrained = backbone, architecture, pretrained
        self._asked_precision, self._batch_size = precision, batch_size
        self._store, self._trainer = store, trainer
        self._skip_damaged = skip_damaged
        self.skipped_images: dict[str, str] = {}

    @cached_property
    def precision(self) -> str:
        """Lightning's name of the precision that image features are computed in."""
        return resolve(self._asked_precision, self._trainer)

    def text(self) -> tuple[Float[Tensor, "c d"], float]:
        fingerprint = hashlib.sha256(json.dumps(self._prompts).encode()).hexdigest()
        key = self._key("text", fingerprint, ["text"])
        entry = self._store.open(key)
        if entry is None:
            made_by = self._made_by() | {"logit_scale": repr(self._clip.logit_scale)}
            classes = len(self._prompts)
            with self._store.writing(key, classes, classes, made_by) as writer:
                if writer.pending:
                    writer.write(0, {"text": self._clip.encode_text(self._prompts)})
                    writer.finish()
            entry = self._existing(key)
        return entry.tensor("text"), float(entry.manifest["made_by"]["logit_scale"])

    def learnable_prompts(self, n_context: int) -> LearnablePrompts:
        tower = TextTower(self._clip)
        embeddings, ends = tower.embed(self.class_names, n_context)
        return LearnablePrompts(tower, embeddings, ends, self._clip.logit_scale)

    def split(self, name: str, spatial: bool) -> Features:
        return self._features(name, self._items(name), spatial)

    def few_shot_validation(self, shots: int, seed: int, spatial: bool) -> Features:
        train, val = self._items("train"), self._items("val")
        _, validation = few_shot.sample(train, val, shots, seed)
        return self._features("val_few_shot", validation, spatial)

    def support(
        self, shots: int, seed: int, spatial: bool, augmentation: Augmentation | None
    ) -> tuple[dict[str, Tensor], Int[Tensor, " n"]]:
        items, _ = few_shot.sample(self._items("train"), (), shots, seed)
        views = 1 if augmentation is None else augmentation.views
        rows = self._features("support", items, spatial, augmentation)
        tensors = rows.rows(0, len(rows))
        shape = (views, len(rows) // views)
        label = tensors.pop("label")[: shape[1]]
        return {name: t.reshape(*shape, *t.shape[1:]) for name, t in tensors.items()}, label

    def _items(self, split: str) -> Sequence[Item]:
        items = self._dataset.splits[split]
        if not items:
            raise UserError(
                f"{self._name} has no {split} {self._kind}, which this method or selection needs: "
                "add some, or choose method=zero_shot, or calip with selection=fixed."
                if split != "test"
                else f"{self._name} has no test {self._kind}: there is nothing to measure on."
            )
        return items

    def _features(
        self,
        split: str,
        items: Sequence[Item],
        spatial: bool,
        augmentation: Augmentation | None = None,
    ) -> Features:
        fingerprint = self._dataset.fingerprint(items)
        # An entry with spatial features serves whoever needs only the global ones.
        for features in [SPATIAL] if spatial else [SPATIAL, GLOBAL]:
            key = self._key(split, fingerprint, features, augmentation)
            entry = self._store.open(key)
            if entry is not None:
                break
        else:
            self._extract(key, items, spatial, augmentation)
            entry = self._existing(key)
        return self._without_damaged(entry, items)

    def _without_damaged(self, entry: FeatureEntry, items: Sequence[Item]) -> Features:
        """Leave out all views of the images that were skipped when `entry` was made.

        Raises:
            UserError: such images are not to be skipped, none would be left, or one is intact now.
        """
        label = entry.tensor("label")
        damaged = (label.reshape(-1, len(items)) == skipped.LABEL).any(dim=0)
        if not damaged.any():
            return entry
        known = len(self.skipped_images)
        for row in damaged.nonzero().flatten().tolist():
            self._skip(items[row], entry)
        if damaged.all():
            raise UserError(
                f"none of the {len(items)} images in {entry.path} could be decoded: "
                "`python -m src.prepare dataset=... --check` says what is wrong with each."
            )
        if len(self.skipped_images) > known:
            where = f"{self._name}/{entry.manifest['key']['split']}"
            count = int(damaged.sum())
            log.warning("%s: %d of %d images cannot be decoded: left out", where, count, len(items))
        return skipped.RemainingRows(entry, ~damaged.repeat(len(label) // len(items)))

    def _skip(self, item: Item, entry: FeatureEntry) -> None:
        try:
            self._dataset.load(item)
        except DamagedImageError as error:
            if not self._skip_damaged:
                raise
            self.skipped_images[str(error.path)] = error.reason
        else:
            raise UserError(
                f"{item.key} can be decoded, but could not when its features were stored: remove "
                f"the folder {entry.path} to have them made anew."
            )

    def _extract(
        self,
        key: dict[str, Any],
        items: Sequence[Item],
        spatial: bool,
        augmentation: Augmentation | None,
    ) -> None:
        from src.features.extract import extract

        numbers = [None] if augmentation is None else range(augmentation.views)
        views = [View(item, number) for number in numbers for item in items]
        rows_per_shard = BATCHES_PER_SHARD * self._batch_size
        with self._store.writing(key, len(views), rows_per_shard, self._made_by()) as writer:
            if not writer.pending:
                return
            where = f"{self._name}/{key['split']}"
            log.info("extracting %s: %d %s with %s", where, len(views), self._kind, self._backbone)
            trainer = partial(self._trainer, precision=self.precision)
            extract(
                self._dataset,
                views,
                augmentation,
                self._clip,
                spatial,
                writer,
                self._batch_size,
                trainer,
                self._skip_damaged,
            )
        if self.precision != FLOAT32:
            del self._clip  # Lightning converted it in place, and text is encoded in float32

    def _existing(self, key: dict[str, Any]) -> FeatureEntry:
        entry = self._store.open(key)
        if entry is None:
            raise RuntimeError(f"the features of {key} vanished while they were written")
        return entry

    def _key(
        self,
        split: str,
        fingerprint: str,
        features: Sequence[str],
        augmentation: Augmentation | None = None,
    ) -> dict[str, Any]:
        return {
            "dataset": self._name,
            "fingerprint": fingerprint,
            "split": split,
            "backbone": self._backbone,
            "weights": self._weights,
            # open_clip's inference transform is determined by the weights
            "preprocessing": "inference" if augmentation is None else asdict(augmentation),
            "precision": self.precision,
            "features": list(features),
        }

    @cached_property
    def _weights(self) -> str:
        return weights_id(self._architecture, self._pretrained)

    @cached_property
    def _clip(self) -> FrozenClip:
        return FrozenClip.load(self._architecture, self._pretrained)

    @staticmethod
    def _made_by() -> dict[str, str]:
        return {"open_clip": version("open_clip_torch")}
