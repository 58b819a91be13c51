"""How far features in one precision are from those in another: the figures, and how to get them."""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from lightning import Trainer
from torch import Tensor

from src.clip.crops import Crop
from src.clip.model import FrozenClip
from src.data.images import ImageDataset, Item
from src.features.extract import Encoder
from src.features.image_batches import BLACK, SKIPPED, ListedBatches

LEAST = 0.999
"""The least cosine similarity of features that are near enough."""
Named = Mapping[str, Tensor]
"""Features by name, `[n, d]` or `[n, s, d]`."""


class Rows(NamedTuple):
    """What became of each feature, float64 `[n]`.

    Attributes:
        cosine: the cosine similarity to the same feature in the other precision, -1 to 1; 0 where
            one of the two is not finite.
        length_difference: of their lengths, as a share of the longer one, 0 to 1; 1 where one of
            the two is not finite.
    """

    cosine: Tensor
    length_difference: Tensor


@dataclass(frozen=True)
class Likeness:
    """How alike all features of one name are; see `Rows`.

    Attributes:
        below: how many of the rows have a cosine similarity below `LEAST`.
    """

    rows: int
    below: int
    least_cosine: float
    mean_cosine: float
    largest_length_difference: float


def compare(features: Float[Tensor, "... d"], reference: Float[Tensor, "... d"]) -> Rows:
    """Compare each feature with the one in its place in `reference`, which has the same shape."""
    one, other = (tensor.reshape(-1, tensor.shape[-1]).double() for tensor in (features, reference))
    finite = _is_finite(one) & _is_finite(other)
    # Exchanging the two, or doubling both, changes no figure.
    lengths = torch.stack([one.norm(dim=1), other.norm(dim=1)])
    longer = lengths.amax(dim=0)
    cosine = (one * other).sum(dim=1) / lengths.prod(dim=0)
    cosine = torch.where(lengths.amin(dim=0) > 0, cosine.clamp(-1, 1), (longer == 0).double())
    difference = torch.where(longer > 0, 1 - lengths.amin(dim=0) / longer, 0)
    return Rows(torch.where(finite, cosine, 0), torch.where(finite, difference, 1))


def summarise(rows: Sequence[Rows]) -> Likeness:
    """Join the figures of all features; there must be one at least."""
    cosine, difference = (torch.cat(parts) for parts in zip(*rows, strict=True))
    return Likeness(
        rows=len(cosine),
        below=int((cosine < LEAST).sum()),
        least_cosine=float(cosine.min()),
        mean_cosine=float(cosine.mean()),
        largest_length_difference=float(difference.max()),
    )


def same_top1(
    features: Float[Tensor, "n d"], reference: Float[Tensor, "n d"], text: Float[Tensor, "c d"]
) -> int:
    """Count the images whose nearest class is the same in both; none that is not finite."""
    one, other = ((tensor.float() @ text.T).argmax(dim=1) for tensor in (features, reference))
    return int(((one == other) & _is_finite(features) & _is_finite(reference)).sum())


def _is_finite(features: Float[Tensor, "n d"]) -> Bool[Tensor, " n"]:
    return features.isfinite().all(dim=1)


class Comparison:
    """Two passes over the same images in the same batches, of which the second is compared.

    Attributes:
        images: how many were compared.
        same: how many of them have the same nearest class, where there are classes.
    """

    def __init__(self, text: Float[Tensor, "c d"] | None) -> None:
        """Compare top-1 too, if there are the text features of classes."""
        self.text = text
        self.images = self.same = 0
        self._reference: deque[Named] = deque()
        self._rows: dict[str, list[Rows]] = defaultdict(list)

    def remember(self, features: Named) -> None:
        """Take a batch of the first pass."""
        self._reference.append(features)

    def compare(self, features: Named) -> None:
        """Take a batch of the second pass; what it is compared with is forgotten."""
        reference = self._reference.popleft()
        self.images += len(features["global"])
        for name, tensor in features.items():
            self._rows[name].append(compare(tensor, reference[name]))
        if self.text is not None:
            self.same += same_top1(features["global"], reference["global"], self.text)

    def likeness(self) -> dict[str, Likeness]:
        """Give the figures of each feature by its name."""
        return {name: summarise(rows) for name, rows in self._rows.items()}


class TimedEncoder(Encoder):
    """The encoder of runs with a clock; what is not finite is a figure here and no mistake.

    Attributes:
        rates: images per second in each batch, without decoding them.
    """

    def __init__(
        self, clip: FrozenClip, names: Collection[str], take: Callable[[Named], None]
    ) -> None:
        """Compute the features called `names` with `clip`, which is changed in place.

        Args:
            clip: the backbone.
            names: of the features.
            take: gets those of each batch, float16 as runs store them, without the rows of images
                that cannot be decoded.
        """
        super().__init__(clip, names)
        self.take = take
        self.rates: list[float] = []

    def predict_step(self, batch: dict[str, Any], _: int) -> dict[str, Any]:
        start = time.perf_counter()
        features = self.features(batch["images"])
        stored = {name: tensor.to(torch.float16).cpu() for name, tensor in features.items()}
        self.rates.append(len(batch["images"]) / (time.perf_counter() - start))
        intact = batch["label"].cpu() != SKIPPED
        self.take({name: tensor[intact] for name, tensor in stored.items()})
        return {}


def encode(
    clip: FrozenClip,
    names: Collection[str],
    dataset: ImageDataset,
    items: Sequence[Item],
    batch_size: int,
    trainer: Trainer,
    skip_damaged: bool,
    take: Callable[[Named], None],
) -> float | None:
    """Compute features batch by batch, in the order of `items`.

    Args:
        clip: the backbone in float32; it is folded and converted in place.
        names: of the features.
        dataset: opens the images.
        items: the images.
        batch_size: images per forward pass.
        trainer: runs the loop, and has the precision.
        skip_damaged: leave out images that cannot be decoded; else they are a `UserError`.
        take: as `TimedEncoder`'s.

    Returns:
        Images per second, without decoding them: the median of the batches but the first one, in
        which libraries prepare themselves; None if there is no other.
    """
    starts = range(0, len(items), batch_size)
    data = ListedBatches(
        dataset,
        [Crop(item, None) for item in items],
        clip.pixels(None),
        BLACK if skip_damaged else None,
        [(0, range(start, min(start + batch_size, len(items)))) for start in starts],
    )
    encoder = TimedEncoder(clip, names, take)
    trainer.predict(encoder, datamodule=data, return_predictions=False)
    return median(encoder.rates[1:]) if len(encoder.rates) > 1 else None
