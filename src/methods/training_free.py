"""Methods without gradient: at most a search for their settings."""

from torch import nn

from src.methods.base import Batch, Method
from src.selection import Choice, Search


class TrainingFree(Method):
    """`trainer.validate` searches the head's settings and puts the best into the head."""

    def __init__(
        self,
        head: nn.Module,
        n_classes: int,
        keep_predictions: bool = False,
        search: Search | None = None,
    ) -> None:
        super().__init__(head, n_classes, keep_predictions)
        self.search = search
        self.choice: Choice | None = None

    def validation_step(self, batch: Batch, _: int) -> None:
        if self.search is None:
            raise ValueError("this method was built without a search")
        self.search.add(self.head, self.features(batch), batch["label"])

    def on_validation_epoch_end(self) -> None:
        assert self.search is not None
        self.choice = self.search.best()
        for setting, value in self.choice.settings.items():
            setattr(self.head, setting, value)
        self.log("validation_accuracy", self.choice.accuracy)
