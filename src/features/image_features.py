"""Features of an image dataset, out of the store, into which each is extracted at most once."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from importlib.metadata import version
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from lightning import Trainer
from torch import Tensor

from src.clip.crops import AnyAugmentation, Augmentation
from src.clip.model import FrozenClip
from src.clip.precision import FLOAT32, resolve
from src.clip.preprocessing import Preprocessing, marked
from src.clip.text_tower import TextTower
from src.clip.weights import preprocessing_of, weights_id
from src.data import few_shot
from src.data.few_shot import MAX_VALIDATION_SHOTS, Imbalance
from src.data.images import DamagedImageError, ImageDataset, Item
from src.errors import UserError
from src.features.datamodule import ChosenRows, Features
from src.features.image_batches import SKIPPED
from src.features.image_crops import CROPS, SETTINGS, CropRows, ImageCrops
from src.features.plan import Plan, crop_by_crop
from src.features.source import Origin
from src.store.entry import FeatureEntry
from src.store.store import FeatureStore

log = logging.getLogger(__name__)

INFERENCE = "inference"
"""Names open_clip's own transform, which is determined by the weights."""
ALWAYS = "global"
"""The feature that every entry of images holds."""
BESIDE = ("spatial", "unprojected")
"""The features that an entry may hold beside it."""
TEXT, PROMPT_TEXT = ["text", "raw_text"], ["prompt_text"]
"""The features of the two kinds of entries of text: a row for each class, or for each prompt."""


class ImageFeatures:
    """Features of an image dataset, out of the store; CLIP is loaded only if one is missing.

    Attributes, which are not to be changed: `images`, the dataset; `class_prompts`, for every class
    its prompts; `skipped_images`; and what `__init__` takes by the same names.
    """

    n_views: int | None = None
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
        test_crops: ImageCrops | None = None,
        preprocessing: Preprocessing = None,
        devices: Sequence[Any] = (1,),
    ) -> None:
        """Name what the features depend on; nothing is read or computed yet.

        Args:
            name: the dataset's name, a folder of the store.
            dataset: the images and classes.
            prompts: for every class, one prompt or more; none where no text is needed.
            backbone: the backbone's name in tables and in the store.
            architecture: open_clip's name, `local-dir:` and a folder, or a model of the Hub.
            pretrained: open_clip's tag, a checkpoint file, or None.
            precision: Lightning's name of the precision CLIP computes in, or `auto`.
            batch_size: images per forward pass.
            store: where features are kept.
            trainer: makes the Trainer that extracts, given `precision`, `devices`, and further
                `callbacks`.
            skip_damaged: leave images out that cannot be decoded; else they are a `UserError`.
            test_crops: how `crops` are drawn; None where no feature of that name is needed.
            preprocessing: how images are prepared, where not as the weights say.
            devices: for each process of an extraction, what Lightning calls its device.
        """
        self.class_names = dataset.class_names
        self._name, self.images, self.class_prompts = name, dataset, prompts
        self._backbone, self.architecture, self.pretrained = backbone, architecture, pretrained
        self._prepared = preprocessing
        self._asked_precision, self._batch_size = precision, batch_size
        self.store, self._make_trainer, self.devices = store, trainer, devices
        self.skip_damaged, self._test_crops = skip_damaged, test_crops
        self.skipped_images: dict[str, str] = {}

    @property
    def origin(self) -> Origin:
        return Origin(
            self._backbone,
            self.architecture,
            marked(self._weights, self._prepared),
            self._prompts_sha,
            self.precision,
            self._preparation,
        )

    @property
    def _preparation(self) -> str | None:
        if self.n_views is not None:
            return None  # depth maps are not prepared as images are
        return preprocessing_of(self.architecture, self.pretrained, self._prepared)

    @cached_property
    def precision(self) -> str:
        """Lightning's name of the precision in which image features are computed."""
        return resolve(self._asked_precision, self._make_trainer)

    @property
    def trainer(self) -> Callable[..., Trainer]:
        """What makes a Trainer that computes in this precision; it can be pickled."""
        return partial(self._make_trainer, precision=self.precision)

    @property
    def text(self) -> Float[Tensor, "c d"]:
        return self._text_entry.tensor("text")

    @property
    def raw_text(self) -> Float[Tensor, "c d"]:
        return self._text_entry.tensor("raw_text")

    @property
    def logit_scale(self) -> float:
        return float(self._text_entry.manifest["made_by"]["logit_scale"])

    @property
    def logit_bias(self) -> float:
        return float(self._text_entry.manifest["made_by"].get("logit_bias", 0.0))

    @property
    def text_tower(self) -> TextTower:
        return TextTower(self.clip)

    @cached_property
    def prompt_text(self) -> Float[Tensor, "p d"]:
        return self._text(PROMPT_TEXT).tensor("prompt_text")

    @property
    def prompt_label(self) -> Int[Tensor, " p"]:
        sizes = torch.tensor([len(of_class) for of_class in self.class_prompts])
        return torch.arange(len(sizes)).repeat_interleave(sizes)

    @property
    def projection(self) -> Float[Tensor, "w d"]:
        return self.clip.projection.weight.clone()

    @property
    def projection_bias(self) -> Float[Tensor, " d"]:
        return self.clip.projection.bias.clone()

    @cached_property
    def _text_entry(self) -> FeatureEntry:
        return self._text(TEXT)

    def _text(self, features: Sequence[str]) -> FeatureEntry:
        key = self._key("text", self._prompts_sha, features)
        entry = self.store.open(key)
        if entry is None:
            self.encode(key)
            entry = self._existing(key)
        return entry

    def split(self, name: str, inputs: Sequence[str]) -> Features:
        return self._features(name, self._items(name), inputs)

    def few_shot_validation(
        self, shots: int, seed: int, inputs: Sequence[str], most: int = MAX_VALIDATION_SHOTS
    ) -> Features:
        train, val = self._items("train"), self._items("val")
        _, validation = few_shot.sample(train, val, shots, seed, most)
        return self._features("val_few_shot", validation, inputs)

    def support(
        self,
        shots: int,
        seed: int,
        inputs: Sequence[str],
        augmentation: AnyAugmentation | None,
        imbalance: Imbalance | None = None,
    ) -> tuple[dict[str, Tensor], Int[Tensor, " n"]]:
        items = few_shot.support(self._items("train"), shots, seed, imbalance)
        crops = 1 if augmentation is None else augmentation.crops
        rows = self._features("support", items, inputs, augmentation)
        tensors = rows.rows(0, len(rows))
        shape = (crops, len(rows) // crops)
        label = tensors.pop("label")[: shape[1]]
        return {name: t.reshape(*shape, *t.shape[1:]) for name, t in tensors.items()}, label

    def _items(self, split: str) -> Sequence[Item]:
        items = self.images.splits[split]
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
        inputs: Sequence[str],
        augmentation: AnyAugmentation | None = None,
    ) -> Features:
        if CROPS in inputs:
            return self._crops(split, items, inputs)
        fingerprint = self.images.fingerprint(items)
        # An entry that holds more features than needed serves as well; the largest comes first.
        keys = [
            self._key(split, fingerprint, features, augmentation) for features in _holding(inputs)
        ]
        *larger, smallest = keys
        entry = next(filter(None, map(self.store.open, keys)), None)
        # Where another process extracts more, its entry is worth waiting for.
        entry = entry or next(filter(None, map(self.store.open_written, larger)), None)
        if entry is None:
            self.extract(smallest, crop_by_crop(items, augmentation, self._batch_size))
            entry = self._existing(smallest)
        damaged = (entry.tensor("label").reshape(-1, len(items)) == SKIPPED).any(dim=0)
        return self._without_damaged(entry, entry, damaged, items)

    def _crops(self, split: str, items: Sequence[Item], inputs: Sequence[str]) -> Features:
        """Give the crops of each image that are called `crops`, out of an entry of their own.

        Raises:
            UserError: how to draw them is not said, or the disk lacks the space.
        """
        drawn = self._test_crops
        if drawn is None:
            raise UserError(
                f"the method looks at several crops of each image, and {SETTINGS} is missing: give "
                f"'+{SETTINGS}={{crops: 64, min_scale: 0.08, horizontal_flip: true}}'."
            )
        if beside := set(inputs) - {CROPS, ALWAYS}:
            raise TypeError(f"{CROPS} are stored with {ALWAYS} features alone, not {beside}")
        key = self._key(f"{split}_crops", self.images.fingerprint(items), [ALWAYS])
        others = self._preprocessing(drawn.augmentation)
        key["preprocessing"] = drawn.described(key["preprocessing"], others)
        entry = self.store.open(key)
        if entry is None:
            self.extract(key, self.plan_crops(drawn, items))
            entry = self._existing(key)
        damaged = (entry.tensor("label").reshape(len(items), -1) == SKIPPED).any(dim=1)
        return self._without_damaged(entry, CropRows(entry, drawn.crops), damaged, items)

    def plan_crops(self, drawn: ImageCrops, items: Sequence[Item]) -> Plan:
        """Plan the extraction of several crops of each of `items`."""
        return drawn.plan(items, self._batch_size, self.text.shape[1])

    def _without_damaged(
        self,
        entry: FeatureEntry,
        features: Features,
        damaged: Bool[Tensor, " n"],
        items: Sequence[Item],
    ) -> Features:
        """Leave out all rows of the images that were skipped when `entry` was made.

        Args:
            entry: what `features` are read from.
            features: one row for each of `items`, or several times all of them.
            damaged: which of the items were skipped.
            items: the images.

        Raises:
            UserError: such images must not be skipped, none would be left, or one is intact now.
        """
        if not damaged.any():
            return features
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
        kept = ~damaged.repeat(len(features) // len(items))
        return ChosenRows(features, kept.nonzero().flatten())

    def _skip(self, item: Item, entry: FeatureEntry) -> None:
        try:
            self.images.load(item)
        except DamagedImageError as error:
            if not self.skip_damaged:
                raise
            self.skipped_images[str(error.where)] = error.reason
        else:
            raise UserError(
                f"{item.key} can be decoded, but could not when its features were stored: remove "
                f"the folder {entry.path}, and they are extracted again."
            )

    def text_rows(self, key: Mapping[str, Any]) -> int:
        """Count the rows of an entry of text: the classes, or all prompts."""
        return len(self.class_prompts) if key["features"] == TEXT else len(self.prompt_label)

    def encode(self, key: Mapping[str, Any]) -> None:
        """Put the entry of that key, which is one of text, into the store."""
        made_by = self._made_by()
        if key["features"] == TEXT:
            if self.store.open({**key, "features": ["text"]}):
                log.info(
                    "the text features of %s were stored by an earlier version, without their "
                    "length: they are outdated and encoded again",
                    self._name,
                )
            made_by["logit_scale"] = repr(self.clip.logit_scale)
            made_by["logit_bias"] = repr(self.clip.logit_bias)
        rows = self.text_rows(key)
        with self.store.writing(key, rows, rows, made_by) as writer:
            if not writer.pending:
                return
            if key["features"] == TEXT:
                writer.write(0, self.clip.encode_text(self.class_prompts)._asdict())
            else:
                writer.write(0, {"prompt_text": self.clip.encode_prompts(self.class_prompts)})
            writer.finish()

    def extract(self, key: Mapping[str, Any], plan: Plan) -> None:
        """Put the entry of that key into the store, with a row for each crop of the plan."""
        from src.features.extract import extract

        rows = len(plan.crops), plan.rows_per_shard
        made_by = self._made_by()
        if self._preparation is not None:
            made_by["preprocessing"] = self._preparation
        with self.store.writing(key, *rows, made_by) as writer:
            if not writer.pending:
                return
            where, what = f"{self._name}/{key['split']}", plan.describe(writer, self._kind)
            log.info("extracting %s: %s with %s", where, what, self._backbone)
            # Lightning converts a model to a lower precision in place, and text needs float32.
            shares = self.precision == FLOAT32 and len(self.devices) == 1
            load = (lambda: self.clip) if shares else self.loader(self.pretrained)
            # A run's own random numbers must not depend on what had to be extracted.
            with torch.random.fork_rng():
                extract(
                    self.images,
                    plan,
                    key["features"],
                    writer,
                    load,
                    self.trainer,
                    self.devices,
                    self.skip_damaged,
                )

    def _existing(self, key: dict[str, Any]) -> FeatureEntry:
        entry = self.store.open(key)
        if entry is None:
            raise RuntimeError(f"the features of {key} vanished while they were written")
        return entry

    def _key(
        self,
        split: str,
        fingerprint: str,
        features: Sequence[str],
        augmentation: AnyAugmentation | None = None,
    ) -> dict[str, Any]:
        # Keys of earlier versions have nothing where images are prepared as the weights say.
        prepared = None if split == "text" else self._prepared
        return ({} if prepared is None else {"prepared": prepared}) | {
            "dataset": self._name,
            "fingerprint": fingerprint,
            "split": split,
            "backbone": self._backbone,
            "weights": self._weights,
            # That of text is the tokenizer's alone, and its key is that of earlier versions.
            "preprocessing": INFERENCE if split == "text" else self._preprocessing(augmentation),
            "precision": self.precision,
            "features": list(features),
        }

    def _preprocessing(self, augmentation: AnyAugmentation | None) -> Any:
        """Describe crops in the words of the entries that exist, where they are called views."""
        if not isinstance(augmentation, Augmentation):
            return INFERENCE
        first = {"first": augmentation.first} if augmentation.first else {}
        return first | {
            "views": augmentation.crops,
            "min_scale": augmentation.min_scale,
            "horizontal_flip": augmentation.horizontal_flip,
        }

    @cached_property
    def _weights(self) -> str:
        return weights_id(self.architecture, self.pretrained)

    @cached_property
    def _prompts_sha(self) -> str:
        return hashlib.sha256(json.dumps(self.class_prompts).encode()).hexdigest()

    @cached_property
    def clip(self) -> FrozenClip:
        """The backbone in float32, loaded when it is first asked for."""
        return self.loader(self.pretrained)()

    def loader(self, pretrained: str | None) -> Callable[[], FrozenClip]:
        """Give what loads the backbone in float32, with the weights that are called `pretrained`.

        It can be pickled, for the processes of an extraction.
        """
        return partial(FrozenClip.load, self.architecture, pretrained, self._prepared)

    @staticmethod
    def _made_by() -> dict[str, str]:
        return {"open_clip": version("open_clip_torch")}


def _holding(inputs: Sequence[str]) -> list[list[str]]:
    """List the combinations of features that hold `inputs`, the largest first."""
    return [
        [ALWAYS, *beside]
        for size in range(len(BESIDE), -1, -1)
        for beside in combinations(BESIDE, size)
        if set(inputs) <= {ALWAYS, *beside}
    ]
