"""`result.json`: the one record of a run, which tables and reports read."""

import json
import resource
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from src.config import ROOT
from src.errors import UserError
from src.files import write_json

FILE = "result.json"
VERSIONED = ("torch", "lightning", "open_clip_torch", "torchmetrics", "hydra-core")


@dataclass(frozen=True)
class Result:
    """One run. Accuracies are in per cent, times in seconds.

    Attributes:
        adapted_on: where prompts, support set and settings come from: `dataset` itself, but for
            what `eval_dataset` names.
        precision: that CLIP computed the images' features in, by Lightning's name; None for those
            brought along.
        shots: labelled images per class that the run may have seen; 0 if it saw none.
        selection: how the settings were chosen; `fixed` if there was nothing to choose.
        accuracy: top-1 on the test split.
        mean_class_accuracy: mean over classes of the accuracy on their test images.
        ece: expected calibration error, 15 bins, 0 to 1.
        validation_accuracy: top-1 on the images that settings were chosen on, or None.
        hyperparameters: the settings that the figures belong to.
        selected_on_test: settings were chosen on the test split: not comparable.
        skipped_images: how many images of any split could not be decoded and were left out.
        epochs: epochs trained, 0 for methods without gradient.
        timings_s: by stage.
        threads: that torch computed with.
        published: the published figure that `accuracy` corresponds to, or None.
        config_hash: of everything in the configuration that can change the figures.
        git_revision: of the code, `-dirty` with uncommitted changes, None outside a checkout.
        started_at: ISO 8601, UTC, to the millisecond: the order of the runs of a sweep.
        command: what to type to have this run again.
    """

    dataset: str
    adapted_on: str
    backbone: str
    precision: str | None
    method: str
    shots: int
    seed: int
    selection: str
    accuracy: float
    mean_class_accuracy: float
    ece: float
    validation_accuracy: float | None
    hyperparameters: Mapping[str, Any]
    selected_on_test: bool
    n_test: int
    skipped_images: int
    n_classes: int
    trainable_parameters: int
    epochs: int
    timings_s: Mapping[str, float]
    threads: int
    peak_rss_mb: float
    published: float | None
    config_hash: str
    versions: Mapping[str, str]
    git_revision: str | None
    started_at: str
    command: str

    def write(self, folder: Path) -> None:
        """Write `result.json` into `folder`, atomically."""
        write_json(folder / FILE, asdict(self))

    @classmethod
    def read(cls, path: Path) -> "Result":
        """Read one `result.json`.

        Raises:
            UserError: it is not the record of a run.
        """
        try:
            content = json.loads(path.read_text())
            return cls(**{field.name: content[field.name] for field in fields(cls)})
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise UserError(f"{path} is not the result of a run: {error!r}.") from None


@cache
def versions() -> Mapping[str, str]:
    """Versions of Python and of the libraries that figures depend on."""
    python = ".".join(map(str, sys.version_info[:3]))
    return {"python": python} | {name: version(name) for name in VERSIONED}


@cache
def git_revision() -> str | None:
    """Describe the checkout that this code runs from, as it was when this process first asked."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty"]
    command += ["--exclude", "*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def peak_rss_mb() -> float:
    """Peak resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)
