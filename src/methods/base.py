"""What every method does with the validation and the test split."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor, nn

from src.heads.base import Head
from src.methods.search import Search, Surface
from src.methods.view_search import ViewSearch

Batch = Mapping[str, Tensor]
"""The head's inputs by name, in float32; `row` int64 `[n]`, which rows of the split these are;
`label` int64 `[n]`, where it is known."""


class Answers(NamedTuple):
    """What a test found, image by image, in the order of the split.

    Attributes:
        outcome: `label` and `prediction` int64 `[n]`, and `confidence` float32 `[n]`, the softmax
            probability of the prediction.
        predictions: `logits` float32 `[n, c]`, divided by the temperature, so that their softmax
            has the confidences; and `label`. Empty unless they are kept.
    """

    outcome: dict[str, Tensor]
    predictions: dict[str, Tensor]


class Method(LightningModule):
    """Searches a head's settings and tests it, which is all that a method without a gradient does.

    `trainer.validate` makes the next of the `searches`, puts the best settings into the head and
    logs `validation_accuracy` (per cent). `surface` is what a search over two settings saw.
    `trainer.test` logs what `metrics` computes; afterwards `answers` holds the answer for each
    image. `trainer.predict` returns the logits `[n, c]` of each batch and needs no labels. Both
    divide the logits by `temperature`, which neither a training nor a search does.

    Before each of them the head is reset, so that none depends on those before it, and the order
    in which a loader gives the rows does not matter: answers are sorted by `row`.

    Attributes:
        sees_test_images: whether the method looks at unlabelled test images before it answers, as
            a stream or as a whole. It then may keep what it saw until it is reset.
        keep_predictions: whether a test keeps the logits.
        temperature: 1 unless it was calibrated; see `src.methods.calibration`.
    """

    sees_test_images: ClassVar[bool] = False
    head: Any  # a `src.heads.base.Head`

    def __init__(
        self,
        head: Head,
        metrics: nn.Module,
        keep_predictions: bool = False,
        searches: Sequence[Search | ViewSearch] = (),
    ) -> None:
        """Wrap a head.

        Args:
            head: from features to logits.
            metrics: what a test computes: `update(logits, label)`, `compute()` to numbers by name,
                and `reset()`.
            keep_predictions: whether a test keeps the logits.
            searches: over settings of the head, each of which takes one `trainer.validate`.
        """
        super().__init__()
        self.head = head
        self.metrics: Any = metrics
        self.keep_predictions = keep_predictions
        self.temperature = 1.0
        self.searches = list(searches)
        self.surface: Surface | None = None
        self.answers = Answers({}, {})
        self.checkpoint_extra: dict[str, Any] = {}
        self._classes: Tensor | None = None
        self._rows: list[dict[str, Tensor]] = []

    @contextmanager
    def restricted(self, classes: Sequence[int], metrics: nn.Module) -> Iterator[None]:
        """Answer for some of the classes only, as on ImageNet-A with 200 of the 1,000 classes.

        The head itself still knows all its classes: an attention over classes, as CALIP's, goes
        over all of them.

        Args:
            classes: `classes[k]` is the head's label of class k.
            metrics: as those of the constructor, for these classes.
        """
        before = self.metrics
        self.metrics = metrics.to(self.device)
        self._classes = torch.tensor(classes, dtype=torch.int64, device=self.device)
        try:
            yield
        finally:
            self.metrics, self._classes = before, None

    def trainable_parameters(self) -> int:
        """Count the numbers that training changes."""
        return 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint.update(self.checkpoint_extra)

    @property
    def inputs(self) -> list[str]:
        """The features of an image that the head takes."""
        return list(self.head.inputs)

    def features(self, batch: Batch) -> list[Tensor]:
        """Take the head's inputs out of a batch."""
        return [batch[name] for name in self.inputs]

    def forward(self, batch: Batch) -> Float[Tensor, "n c"]:
        logits: Tensor = self.head(*self.features(batch))
        return logits if self._classes is None else logits[:, self._classes.to(logits.device)]

    def on_validation_epoch_start(self) -> None:
        self.head.reset()

    def on_test_epoch_start(self) -> None:
        self.head.reset()

    def on_predict_epoch_start(self) -> None:
        self.head.reset()

    def validation_step(self, batch: Batch, _: int) -> None:
        self.searches[0].add(self.head, self.features(batch), batch["label"])

    def on_validation_epoch_end(self) -> None:
        search = self.searches.pop(0)
        choice = search.best()
        if isinstance(search, Search):
            self.surface = search.surface()
        self.head.choose(choice.settings)
        self.log("validation_accuracy", choice.accuracy)

    def predict_step(self, batch: Batch, _: int) -> Float[Tensor, "n c"]:
        logits: Tensor = self(batch) / self.temperature
        return logits

    def test_step(self, batch: Batch, _: int) -> None:
        logits = self(batch) / self.temperature
        self.metrics.update(logits, batch["label"])
        confidence, prediction = logits.softmax(dim=-1).max(dim=-1)
        answers = {
            "row": batch["row"],
            "label": batch["label"],
            "prediction": prediction,
            "confidence": confidence.float(),
        }
        if self.keep_predictions:
            answers["logits"] = logits.float()
        self._rows.append({name: values.cpu() for name, values in answers.items()})

    def on_test_epoch_end(self) -> None:
        for name, value in self.metrics.compute().items():
            self.log(name, value)
        self.metrics.reset()
        order = torch.cat([each["row"] for each in self._rows]).argsort()
        names = [name for name in self._rows[0] if name != "row"]
        outcome = {name: torch.cat([each[name] for each in self._rows])[order] for name in names}
        self._rows = []
        predictions = {}
        if self.keep_predictions:
            predictions = {"logits": outcome.pop("logits"), "label": outcome["label"]}
        self.answers = Answers(outcome, predictions)
