"""Lightning's progress bars, which fit a narrow terminal and are gone when the work is done."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

SHOWN = {"validation_accuracy": "validation"}
"""What stands beside the bar of a training, and how it is called there."""


class Bar(RichProgressBar):
    """A bar while there is something to wait for; the lines above it say what that is."""

    @property
    def predict_description(self) -> str:
        """Say what Lightning calls a prediction: here it is always images that are encoded."""
        return "Encoding"

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        """Leave out the last column, the batches a second: 60 columns have no room for it."""
        return super().configure_columns(trainer)[:-1]

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Leave out what has no short name, as W&B's number of a run."""
        metrics = super().get_metrics(trainer, pl_module)
        return {SHOWN[name]: value for name, value in metrics.items() if name in SHOWN}

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the bar from the screen; nothing of it reaches a file."""
        if self.progress is not None:
            self.progress.live.transient = True
        super().teardown(trainer, pl_module, stage)
