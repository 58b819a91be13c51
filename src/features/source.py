"""Where a run's features come from: an image dataset's, extracted at most once."""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from importlib.metadata import version
from typing import Any, Protocol

from jaxtyping import Float
from lightning import Trainer
from torch import Tensor

from src.data import few_shot
from src.data.images import ImageDataset, Item
from src.features.clip import FrozenClip, make_prompts
from src.features.datamodule import Features
from src.features.store import FeatureEntry, FeatureStore
from src.features.weights import weights_id

log = logging.getLogger(__name__)

BATCHES_PER_SHARD = 4


class FeatureSource(Protocol):
    """What a run asks of its dataset, whether the features are ours or brought along."""

    @property
    def class_names(self) -> Sequence[str]: ...

    def text(self) -> tuple[Float[Tensor, "c d"], float]:
        """Give the class text features and the logit scale."""

    def split(self, name: str, spatial: bool) -> Features:
        """Give all of `train`, `val` or `test`; with `spatial` features if asked for."""

    def few_shot_validation(self, shots: int, seed: int, spatial: bool) -> Features:
        """Draw the min(`shots`, 4) validation images per class of CoOp's protocol."""


class ImageFeatures:
    """Features of an image dataset, out of the store; CLIP is loaded only if one is missing."""

    def __init__(
        self,
        name: str,
        dataset: ImageDataset,
        templates: Sequence[str],
        backbone: str,
        architecture: str,
        pretrained: str | None,
        precision: str,
        batch_size: int,
        store: FeatureStore,
        trainer: Callable[..., Trainer],
    ) -> None:
        """Name what the features depend on; nothing is read or computed yet.

        Args:
            name: the dataset's name, a folder of the store.
            dataset: the images and classes.
            templates: prompt templates with one `{}` each.
            backbone: the backbone's name, shown by the store.
            architecture: open_clip's name, or `local-dir:` and a folder.
            pretrained: open_clip's tag, a checkpoint file, or None.
            precision: Lightning's name of the precision CLIP computes in.
            batch_size: images per forward pass.
            store: where features are kept.
            trainer: makes the Trainer that extracts, given `precision` and further `callbacks`.
        """
        self.class_names = dataset.class_names
        self._name, self._dataset, self._templates = name, dataset, templates
        self._backbone, self._architecture, self._pretrained = backbone, architecture, pretrained
        self._precision, self._batch_size = precision, batch_size
        self._store, self._trainer = store, trainer

    def text(self) -> tuple[Float[Tensor, "c d"], float]:
        prompts = make_prompts(self.class_names, self._templates)
        fingerprint = hashlib.sha256(json.dumps(prompts).encode()).hexdigest()
        key = self._key("text", fingerprint, ["text"])
        entry = self._store.open(key)
        if entry is None:
            made_by = self._made_by() | {"logit_scale": repr(self._clip.logit_scale)}
            classes = len(prompts)
            with self._store.writing(key, classes, classes, made_by) as writer:
                if writer.pending:
                    writer.write(0, {"text": self._clip.encode_text(prompts)})
                    writer.finish()
            entry = self._existing(key)
        return entry.tensor("text"), float(entry.manifest["made_by"]["logit_scale"])

    def split(self, name: str, spatial: bool) -> Features:
        return self._features(name, self._dataset.splits[name], spatial)

    def few_shot_validation(self, shots: int, seed: int, spatial: bool) -> Features:
        splits = self._dataset.splits
        _, validation = few_shot.sample(splits["train"], splits["val"], shots, seed)
        return self._features("val_few_shot", validation, spatial)

    def _features(self, split: str, items: Sequence[Item], spatial: bool) -> FeatureEntry:
        fingerprint = self._dataset.fingerprint(items)
        with_spatial = self._key(split, fingerprint, ["global", "spatial"])
        global_only = self._key(split, fingerprint, ["global"])
        # An entry with spatial features serves whoever needs only the global ones.
        for key in [with_spatial] if spatial else [with_spatial, global_only]:
            entry = self._store.open(key)
            if entry is not None:
                return entry
        key = with_spatial if spatial else global_only
        self._extract(key, items, spatial)
        return self._existing(key)

    def _extract(self, key: dict[str, Any], items: Sequence[Item], spatial: bool) -> None:
        from src.features.extract import extract

        rows_per_shard = BATCHES_PER_SHARD * self._batch_size
        with self._store.writing(key, len(items), rows_per_shard, self._made_by()) as writer:
            if not writer.pending:
                return
            where = f"{self._name}/{key['split']}"
            log.info("extracting %s: %d images with %s", where, len(items), self._backbone)
            trainer = partial(self._trainer, precision=self._precision)
            extract(self._dataset, items, self._clip, spatial, writer, self._batch_size, trainer)

    def _existing(self, key: dict[str, Any]) -> FeatureEntry:
        entry = self._store.open(key)
        if entry is None:
            raise RuntimeError(f"the features of {key} vanished while they were written")
        return entry

    def _key(self, split: str, fingerprint: str, features: list[str]) -> dict[str, Any]:
        return {
            "dataset": self._name,
            "fingerprint": fingerprint,
            "split": split,
            "backbone": self._backbone,
            "weights": self._weights,
            # open_clip's inference transform, which the weights determine
            "preprocessing": "inference",
            "precision": self._precision,
            "features": features,
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
