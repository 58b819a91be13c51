"""What a classifier says of one picture or point cloud, and where it looks."""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from src.classifier.classifier import Classifier
from src.clip import projection
from src.data.given import FILES
from src.data.images import DamagedImageError, Item
from src.data.point_clouds import DamagedCloudError
from src.errors import UserError
from src.heads.base import Attends
from src.results import attention

BRIGHTEST = 2.3
"""Of depth maps, as `src.depth_maps` draws them."""
LONGEST = 200
"""How many times as long as wide a picture may be: CLIP's transform makes its short side 224 pixels
or more, and keeps the proportions."""
ITEM = Item("0", 0)
"""The only one that is classified at a time."""


class Answer(NamedTuple):
    """What a classifier says.

    Attributes:
        seen: what it looked at, by its caption: the picture, or each depth map.
        probabilities: float32 `[c]`, that of each class.
        attention: a PNG of where the most probable classes look; None for a head that does not
            attend over positions.
    """

    seen: dict[str, Image.Image]
    probabilities: NDArray[np.float32]
    attention: bytes | None


def classify(classifier: Classifier, path: Path, caption: str) -> Answer:
    """Classify one picture or, by a classifier of them, one point cloud.

    Args:
        classifier: it is changed as `Classifier.encode` changes it.
        path: of the picture, or of an `.npy` file.
        caption: what the picture is called.

    Raises:
        UserError: it cannot be decoded, or is too large; the message is for whoever sees the page,
            and does not name the path.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            given, seen = _opened(classifier, path, caption)
        features: dict[str, Tensor] = {}
        dataset = classifier.given([given])
        classifier.encode(dataset, [ITEM], lambda _, rows: features.update(rows))
    except (DamagedImageError, DamagedCloudError) as error:
        raise UserError(f"{caption} cannot be used: {error.reason}.") from error
    except (Image.DecompressionBombWarning, MemoryError) as error:
        raise UserError(f"{caption} cannot be used: it is too large for the memory.") from error
    probabilities = classifier.probabilities(features)[0].numpy()
    return Answer(seen, probabilities, _attention(classifier, given, features, probabilities))


def _opened(classifier: Classifier, path: Path, caption: str) -> tuple[Any, dict[str, Image.Image]]:
    """Give what a classifier takes, and what it looks like."""
    if classifier.about.view_weights is None:
        image = FILES.load(Item(str(path), 0))
        if max(image.size) > LONGEST * min(image.size):
            raise UserError(f"{caption} cannot be used: it is too long and narrow.")
        return image, {caption: image}
    points: Any = classifier.given([path]).load(ITEM)
    views = len(classifier.about.view_weights)
    maps = projection.depth_maps(torch.from_numpy(points)[None], views)[0].numpy()
    shade = np.where(maps > 0, projection.DISTANCE[views] + 1 - maps + 0.3, 0) / BRIGHTEST
    pixels = (255 * shade.clip(0, 1)).round().astype(np.uint8)
    names = projection.NAMES[views]
    return path, {name: Image.fromarray(one) for name, one in zip(names, pixels, strict=True)}


@torch.no_grad()
def _attention(
    classifier: Classifier,
    image: Any,
    features: dict[str, Tensor],
    probabilities: NDArray[np.float32],
) -> bytes | None:
    head = classifier.head
    if not isinstance(head, Attends):
        return None
    device = next(iter(head.state_dict().values())).device
    spatial = features["spatial"].to(device).float()
    before, after = (each[0].cpu().numpy() for each in head.attention(spatial))
    maps = attention.class_maps(classifier.class_names, probabilities, before, after)
    return attention.png(image, maps)
