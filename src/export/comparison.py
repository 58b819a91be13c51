"""Whether an exported file answers as the classifier that it was made from."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from src.classifier.classifier import Classifier
from src.clip.crops import Crop
from src.data.folder import EXTENSIONS
from src.data.images import Item
from src.errors import UserError

RANDOM, BATCH = 32, 32
POINTS = 1024
TIE = 1e-6
"""Classes whose probabilities are so near in the original are equally good answers."""


class Tolerance(NamedTuple):
    """What is accepted of the difference to the original.

    Attributes:
        difference: of probabilities, at most.
        rare: of probabilities, at most, for one input in a hundred, or for one: a feature that lies
            between two numbers of float16 may be rounded to the other one.
        same: the share of inputs whose most probable class is the same, at least.
    """

    difference: float
    rare: float
    same: float


TOLERANCES = {
    "float32": Tolerance(1e-4, 1e-3, 1.0),
    "float16": Tolerance(1e-2, 1e-2, 0.95),
    "bfloat16": Tolerance(1e-1, 1e-1, 0.9),
}


class Samples:
    """Inputs in batches, as often as they are asked for: float32, as an exported file takes them.

    They are the images below a folder, prepared as for the run, or random.
    """

    def __init__(self, classifier: Classifier, folder: str) -> None:
        """List the folder; "" stands for random inputs.

        Raises:
            UserError: the folder holds none.
        """
        self.random = None if folder else random_inputs(classifier, RANDOM)
        clouds = classifier.about.view_weights is not None
        extensions = {".npy"} if clouds else EXTENSIONS
        listed = sorted(Path(folder).rglob("*")) if folder else []
        self.paths = [path for path in listed if path.suffix.lower() in extensions]
        if folder and not self.paths:
            raise UserError(f"images={folder}: there is no {', '.join(sorted(extensions))} in it.")
        self.data: Any = classifier.given(self.paths)
        self.transform = classifier.clip.transform(None)

    def __iter__(self) -> Iterator[Float[Tensor, "n ..."]]:
        """Prepare one batch after the other.

        Raises:
            UserError: one of the images cannot be decoded.
        """
        if self.random is not None:
            yield self.random
            return
        for start in range(0, len(self.paths), BATCH):
            rows = range(start, min(start + BATCH, len(self.paths)))
            items = [Item(str(row), 0) for row in rows]
            batch = [self.transform(self.data.load(item), Crop(item, None)) for item in items]
            yield torch.stack(batch).view(torch.float32)


def random_inputs(classifier: Classifier, n: int) -> Float[Tensor, "n ..."]:
    """Draw images from a few coloured tiles to noise, or clouds of all proportions."""
    generator = torch.Generator().manual_seed(0)
    if classifier.about.view_weights is not None:
        size = (n, classifier.about.points or POINTS, 3)
        points = torch.randn(size, generator=generator)
        points *= torch.rand(n, 1, 3, generator=generator)
        points -= points.mean(dim=1, keepdim=True)
        return points / points.norm(dim=2).amax(dim=1).view(-1, 1, 1)
    height, width = classifier.clip.image_size
    images = []
    for number in range(n):
        tiles = min(2 ** (1 + number % 6), height, width)
        drawn = torch.rand(1, 3, tiles, tiles, generator=generator)
        images.append(interpolate(drawn, (height, width), mode="bilinear"))
    normalised: Tensor = classifier.clip.preprocess.transforms[-1](torch.cat(images))
    return normalised


@torch.no_grad()
def probabilities(classifier: Classifier, samples: Iterable[Tensor]) -> Float[Tensor, "n c"]:
    """Ask the classifier itself, in float32."""
    pictures, names = classifier.about.view_weights is None, classifier.about.inputs
    batches = (batch if pictures else batch.view(torch.int32) for batch in samples)
    answers = [classifier.probabilities(classifier.clip.encode(each, names)) for each in batches]
    return torch.cat(answers)


def compare(
    expected: Float[Tensor, "n c"],
    samples: Iterable[Tensor],
    answer: Callable[[Tensor], Tensor],
    precision: str,
) -> str:
    """Put what an exported file answers beside what it should, and describe it.

    The file gets batches of another size than the classifier did: neither may depend on that.

    Raises:
        UserError: they differ by more than `TOLERANCES` has for this precision.
    """
    found = torch.cat([answer(part) for batch in samples for part in _unevenly(batch)])
    difference = (found - expected).abs().amax(dim=1)
    theirs = expected.gather(1, found.argmax(dim=1, keepdim=True)).squeeze(1)
    same = int((theirs >= expected.amax(dim=1) - TIE).sum())
    n, allowed = len(expected), TOLERANCES[precision]
    told = (
        f"probabilities differ from the original's by at most {difference.max():.1e} (allowed: "
        f"{allowed.difference:g}), and the class is the same for {same} of {n}"
    )
    # Compared so that what is not a number is too much, too.
    near = int((difference <= allowed.difference).sum())
    none_far = bool((difference <= allowed.rare).all())
    if n - near > max(1, n // 100) or not none_far or same < allowed.same * n:
        raise UserError(
            f"the exported file does not answer as the original does, and is not left: {told} "
            f"(allowed: {allowed.same:.0%}). Try the other format, precision=float32, or "
            "images=FOLDER with images such as it is meant for."
        )
    return told


def _unevenly(batch: Tensor) -> tuple[Tensor, ...]:
    return tuple(part for part in (batch[:1], batch[1:]) if len(part))
