"""A classifier that stands by itself: pictures to classes, without the data it was adapted on."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import get_class
from jaxtyping import Float
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from src.bars import Bar
from src.classifier.folder import (
    ABOUT,
    FOLDER,
    GIVEN,
    LEARNED,
    STATE,
    About,
    read_about,
    read_state,
    save,
)
from src.clip.crops import Crop
from src.clip.model import FrozenClip
from src.clip.precision import FLOAT32
from src.clip.text_tower import TextTower
from src.clip.weights import LOCAL_DIR, weights_id
from src.config import method_yaml
from src.data.given import Cloud, GivenClouds, GivenImages, Picture
from src.data.images import ImageDataset, Item
from src.errors import UserError
from src.features.extract import Encoder
from src.features.image_batches import BLACK, ListedBatches
from src.features.point_clouds import DepthMapClip
from src.files import ROOT
from src.heads.base import Head, check
from src.heads.multi_view import MultiView
from src.hints import without_hints

BATCH = 64
"""Images per forward pass."""


class Classifier:
    """A head with the backbone that its features come from.

    Attributes:
        about: what it is.
        head: in evaluation mode.
        clip: the frozen CLIP. Its image tower is in the classifier's precision once it was used.
    """

    def __init__(
        self, about: About, head: Head, given: Mapping[str, Any], clip: FrozenClip
    ) -> None:
        """Join a head, `given` what it was built from (by the names of `Head.given`), and CLIP."""
        self.about, self.head, self.clip = about, head.eval(), clip
        self._given = given

    @property
    def class_names(self) -> list[str]:
        """The classes, in the order of the probabilities."""
        return self.about.class_names

    def predict(
        self, images: Picture | Cloud | Sequence[Picture | Cloud], batch_size: int = BATCH
    ) -> list[str]:
        """Name the most probable class of each image.

        Args:
            images: one or more paths, images of Pillow's, or arrays uint8 `[h, w]` or `[h, w, 3]`;
                for a classifier of point clouds, paths of `.npy` files or arrays `[p, 3]`.
            batch_size: images per forward pass.

        Raises:
            UserError: an image is missing, cannot be decoded, or is none of these.
        """
        best = self.predict_proba(images, batch_size).argmax(axis=1)
        return [self.class_names[label] for label in best]

    def predict_proba(
        self, images: Picture | Cloud | Sequence[Picture | Cloud], batch_size: int = BATCH
    ) -> NDArray[np.float32]:
        """Compute the probability of each class, float32 `[n, c]`; see `predict`."""
        found: list[Tensor] = []
        self._over(images, batch_size, lambda _, rows: found.append(self.probabilities(rows)))
        return torch.cat(found).numpy()

    def features(
        self, images: Picture | Cloud | Sequence[Picture | Cloud], batch_size: int = BATCH
    ) -> NDArray[np.float32]:
        """Compute CLIP's image features, float32 `[n, d]`, not normalised; see `predict`.

        Those of point clouds are `[n, v, d]`, one of each of v depth maps.
        """
        found: list[Tensor] = []
        self._over(images, batch_size, lambda _, rows: found.append(rows["global"].float()))
        return torch.cat(found).numpy()

    def save(self, folder: str | Path) -> None:
        """Write the folder from which `load` builds this classifier again."""
        save(Path(folder), self.about, self.head, self._given)

    @torch.no_grad()
    def probabilities(self, features: Mapping[str, Tensor]) -> Float[Tensor, "n c"]:
        """Compute the probability of each class from the features that `about.inputs` names.

        Features pass through float16, as those of the run did that the store gave: the answers are
        the run's own. The head stands where `encode` last put it.
        """
        device = next(iter(self.head.state_dict().values())).device
        inputs = [features[name].to(device).half().float() for name in self.about.inputs]
        logits: Tensor = self.head(*inputs)
        return (logits / self.about.temperature).softmax(dim=-1).cpu()

    def given(self, images: Sequence[Any]) -> ImageDataset:
        """Make a dataset of pictures or, for a classifier of them, of point clouds."""
        if self.about.view_weights is None:
            return GivenImages(images, self.class_names, {})
        assert self.about.points is not None
        views = len(self.about.view_weights)
        clouds: Any = GivenClouds(self.class_names, {}, views, self.about.points, images)
        return clouds

    def encode(
        self,
        images: ImageDataset,
        items: Sequence[Item],
        take: Callable[[int, dict[str, Tensor]], None],
        *,
        start: int = 0,
        batch_size: int = BATCH,
        skip_damaged: bool = False,
        progress: bool = False,
    ) -> None:
        """Compute the features of `items` batch by batch, while the next ones are decoded.

        Args:
            images: opens them.
            items: what to encode.
            take: gets the number of a batch's first item, and its features as float16 by name with
                `label` int64 `[n]`.
            start: the first item to encode.
            batch_size: items per forward pass.
            skip_damaged: an item that cannot be decoded has the label `SKIPPED`, and features that
                mean nothing; otherwise it is a `UserError`.
            progress: show a progress bar.
        """
        starts = range(start, len(items), batch_size)
        batches = [(first, range(first, min(first + batch_size, len(items)))) for first in starts]
        data = ListedBatches(
            images,
            [Crop(item, None) for item in items],
            self.clip.pixels(None),
            self._blank if skip_damaged else None,
            batches,
        )
        precision: Any = self.about.precision
        with without_hints():
            trainer = Trainer(
                accelerator="auto", devices=1, precision=precision, logger=False,
                enable_checkpointing=False, enable_model_summary=False,
                use_distributed_sampler=False, enable_progress_bar=progress,
                callbacks=[*([Bar()] if progress else []), _Taking(take)],
            )  # fmt: skip
            self.head.to(trainer.strategy.root_device)
            with torch.random.fork_rng(devices=[]):  # a loader draws a number
                trainer.predict(self._encoder, datamodule=data, return_predictions=False)

    def _over(
        self, images: Any, batch_size: int, take: Callable[[int, dict[str, Tensor]], None]
    ) -> None:
        if isinstance(images, str | Path | Image.Image) or _is_one(images, self.about.points):
            images = [images]
        if len(images) == 0:
            raise UserError("there is no image: give one or more.")
        items = [Item(str(row), 0) for row in range(len(images))]
        self.encode(self.given(images), items, take, batch_size=batch_size)

    @property
    def _blank(self) -> Any:
        """Give what is encoded in place of an item that cannot be decoded."""
        if self.about.points is None:
            return BLACK
        return np.zeros((self.about.points, 3), dtype=np.float32)

    @cached_property
    def _encoder(self) -> Encoder:
        # Lightning converts a model to a lower precision in place, and a text tower needs float32.
        shared = self.head.frozen and self.about.precision != FLOAT32
        clip = load_clip(self.about) if shared else self.clip
        return Encoder(clip, self.about.inputs)


def _is_one(images: Any, points: int | None) -> bool:
    """Say whether an array is a single picture or, where `points` are read, a single cloud."""
    if not isinstance(images, np.ndarray) or images.ndim > 3:
        return False
    coloured = images.ndim == 3 and images.shape[2] == 3
    return images.ndim == 2 or (coloured and points is None)


class _Taking(BasePredictionWriter):
    """Hands each batch of features on."""

    def __init__(self, take: Callable[[int, dict[str, Tensor]], None]) -> None:
        super().__init__(write_interval="batch")
        self.take = take

    def write_on_batch_end(
        self, _: Trainer, __: LightningModule, prediction: dict[str, Any], *___: Any
    ) -> None:
        self.take(prediction["shard"], prediction["tensors"])


def load(folder: str | Path) -> Classifier:
    """Build a classifier from its folder, or from that of the run which left it.

    Raises:
        UserError: the folder is no classifier, was altered, is of a later version, or belongs to
            weights that are not here.
    """
    folder = Path(folder)
    folder = folder if (folder / ABOUT).is_file() else folder / FOLDER
    about = read_about(folder / ABOUT)
    tensors = read_state(folder / STATE, about)
    architecture = here(about.architecture)
    if weights_id(architecture, about.pretrained, about.preprocessing) != about.weights:
        raise UserError(
            f"{folder} belongs to {about.backbone} with the weights {about.weights}, and those of "
            f"{architecture} here are others: get the weights that it was made with."
        )
    clip = load_clip(about)
    given = _given(folder, about, tensors, clip)
    return Classifier(about, _build(folder, about, tensors, given), given, clip)


def load_clip(about: About) -> FrozenClip:
    """Load the backbone of a classifier."""
    architecture = here(about.architecture)
    if about.view_weights is None:
        return FrozenClip.load(architecture, about.pretrained, about.preprocessing)
    return DepthMapClip.load_for(architecture, about.pretrained, len(about.view_weights))


def portable(architecture: str) -> str:
    """Write the folder of a backbone that comes with Calipers as it is on every machine."""
    return architecture.replace(f"{LOCAL_DIR}{ROOT}/", LOCAL_DIR)


def here(architecture: str) -> str:
    """Say where on this machine the folder is that `portable` wrote; others stay as they are."""
    folder = ROOT / architecture.removeprefix(LOCAL_DIR)
    own = architecture.startswith(LOCAL_DIR) and folder.is_dir()
    return f"{LOCAL_DIR}{folder}" if own else architecture


def _given(
    folder: Path, about: About, tensors: Mapping[str, Tensor], clip: FrozenClip
) -> dict[str, Any]:
    """Gather what the head is built from, by the names of `Head.given`."""
    known: dict[str, Any] = {
        "class_names": about.class_names,
        "logit_scale": about.logit_scale,
        "n_views": None if about.view_weights is None else len(about.view_weights),
    }
    known |= {name.removeprefix(GIVEN): t for name, t in tensors.items() if name.startswith(GIVEN)}
    names = _head_class(folder, about.method).given
    return {name: known[name] if name in known else _of_clip(name, clip) for name in names}


def _build(
    folder: Path, about: About, tensors: Mapping[str, Tensor], given: Mapping[str, Any]
) -> Head:
    head_class = _head_class(folder, about.method)
    check(head_class, about.settings)
    head: Head = head_class(**given, **about.settings)
    if about.view_weights is not None:
        head = MultiView(head, about.view_weights)
    for name, tensor in tensors.items():
        if name.startswith(LEARNED):
            _put(head, name.removeprefix(LEARNED), tensor)
    return head


def _of_clip(name: str, clip: FrozenClip) -> Any:
    if name == "text_tower":
        return TextTower(clip)
    weight, bias = clip.projection
    return {"projection": weight, "projection_bias": bias}[name].clone()


def _put(head: nn.Module, name: str, tensor: Tensor) -> None:
    """Give a head a tensor that it has, or that it would have once it had seen a support set.

    Raises:
        UserError: it has something else of that name.
    """
    path, _, leaf = name.rpartition(".")
    modules = dict(head.named_modules())
    module = modules.get(path)
    if module is not None and leaf in module._parameters:
        module._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
    elif module is not None and (leaf in module._buffers or not hasattr(module, leaf)):
        module.register_buffer(leaf, tensor)
    else:
        raise UserError(
            f"the classifier holds a tensor that this head does not have: {name!r}. Use an intact "
            "copy."
        )


def _head_class(folder: Path, method: str) -> Any:
    """Find the head's class by the method's own YAML."""
    own = method_yaml(method)
    if "head" not in own:
        raise UserError(f"{folder} is of method={method}, which there is not here.")
    return get_class(own.head["_target_"])
