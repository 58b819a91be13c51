"""What every method does with the validation and the test split."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor, nn

from src.heads.base import Head
from src.methods.search import Search, Surface
from src.methods.view_search import ViewSearch

Batch = Mapping[str, Tensor]
"""The head's inputs by name, in float32; `row` int64 `[n]`, which rows of the split these are;
`label` int64 `[n]`, where it is known; `pass`, the number of the pass that shows them."""


class Answers(NamedTuple):
    """What a test found, image by image, in the order of the split.

    Attributes:
        outcome: `label` and `prediction` int64 `[n]`, and `confidence` float32 `[n]`, the softmax
            probability of the prediction.
        predictions: `logits` float32 `[n, c]`, divided by the temperature, so that their softmax
            has the confidences; and `label`. Empty unless they are kept.
        accuracy: per cent, of each pass over the images; of a single one where there are no passes.
        answered: how many images, counted as often as passes showed them.
    """

    outcome: dict[str, Tensor]
    predictions: dict[str, Tensor]
    accuracy: Sequence[float] = ()
    answered: int = 0


class Method(LightningModule):
    """Searches a head's settings and tests it, which is all that a method without a gradient does.

    `trainer.validate` makes the next of the `searches`, puts the best settings into the head and
    logs `validation_accuracy` (per cent). `surface` is what a search over two settings saw.
    `trainer.test` logs what `metrics` computes; afterwards `answers` holds the answer for each
    image. `trainer.predict` returns the logits `[n, c]` of each batch and needs no labels. Both
    divide the logits by `temperature`, which neither a training nor a search does.

    Before each of them the head is reset, so that none depends on those before it, and so it is
    before each pass over the images, where a test makes several. Answers are sorted by `row`; of an
    image that several passes show, the first is kept, and metrics are over all.

    Attributes:
        keep_predictions: whether a test keeps the logits.
        temperature: 1 unless it was calibrated; see `src.methods.calibration`.
    """

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
        self._forget_answers()
        self.checkpoint_extra: dict[str, Any] = {}
        self._classes: Tensor | None = None

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

    @property
    def sees_test_images(self) -> bool:
        """Whether it looks at other unlabelled test images before it answers for one."""
        return bool(self.head.sees != "image")

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
        self._forget_answers()

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
        number = int(batch.get("pass", 0))
        if number == len(self._right):
            self.head.reset()
            self._right.append(0)
            self._shown.append(0)
        logits = self(batch) / self.temperature
        self.metrics.update(logits, batch["label"])
        confidence, prediction = logits.softmax(dim=-1).max(dim=-1)
        self._right[number] += int((prediction == batch["label"]).sum())
        self._shown[number] += len(prediction)
        answers = {
            "row": batch["row"],
            "label": batch["label"],
            "prediction": prediction,
            "confidence": confidence.float(),
        }
        if self.keep_predictions:
            answers["logits"] = logits.float()
        rows = batch["row"].tolist()
        new = [row not in self._answered for row in rows]
        self._answered.update(rows)
        if any(new):
            self._rows.append({name: values.cpu()[new] for name, values in answers.items()})

    def on_test_epoch_end(self) -> None:
        for name, value in self.metrics.compute().items():
            self.log(name, value)
        self.metrics.reset()
        order = torch.cat([each["row"] for each in self._rows]).argsort()
        names = [name for name in self._rows[0] if name != "row"]
        outcome = {name: torch.cat([each[name] for each in self._rows])[order] for name in names}
        predictions = {}
        if self.keep_predictions:
            predictions = {"logits": outcome.pop("logits"), "label": outcome["label"]}
        accuracy = [100 * right / n for right, n in zip(self._right, self._shown, strict=True)]
        self.answers = Answers(outcome, predictions, accuracy, sum(self._shown))
        self._forget_answers()

    def _forget_answers(self) -> None:
        self._rows: list[dict[str, Tensor]] = []
        self._answered: set[int] = set()
        self._right: list[int] = []
        self._shown: list[int] = []
