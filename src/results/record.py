"""`result.json`: the one record of a run, which tables and reports read."""

import hashlib
import json
import logging
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.errors import UserError
from src.files import INSTALLED, ROOT, write_json
from src.results.published import OPENAI_RN50, published

if TYPE_CHECKING:
    from pydantic import TypeAdapter

log = logging.getLogger(__name__)

FILE = "result.json"
FAILURE = "failure.json"
"""What a job leaves that failed: `message`, and `command`, which runs it again."""
VERSION = 2
"""The record's version. Version 1 had `AT_THE_TOP` as fields, and none that have a default."""
VERSIONED = ("torch", "lightning", "open_clip_torch", "torchmetrics", "hydra-core")
AT_THE_TOP = ("accuracy", "mean_class_accuracy", "ece")
"""Metrics that the file holds beside `metrics` as well, where other programs look for them."""


class NewerRecordError(UserError):
    """A record was written by a newer version of the code."""


@dataclass(frozen=True)
class Result:
    """One run. Times are in seconds.

    Attributes:
        dataset: what the run was tested on.
        adapted_on: the dataset that prompts, support set and settings come from: `dataset` itself,
            except for those that `eval_dataset` names.
        backbone: the name of an architecture with certain weights.
        method: the name of the method.
        shots: labelled images per class that the run may have seen; 0 if it saw none.
        seed: decides which ones, and every other random number.
        selection: how the settings were chosen; `fixed` if there was nothing to choose.
        metrics: what the test found, by the names of `src.results.metrics.ALL`, on the whole test
            split. But those of sets are found on the images that did not calibrate them.
        validation_accuracy: top-1 accuracy (per cent) on the images that settings were chosen on,
            or None.
        hyperparameters: the settings of the head with which it was tested.
        selected_on_test: settings were chosen on the test split, so the run is not comparable.
        n_test: how many images were tested.
        skipped_images: how many images of any split could not be decoded and were left out.
        n_classes: among how many classes each image was classified.
        trainable_parameters: how many numbers training changed.
        epochs: epochs trained, 0 for methods without a gradient.
        timings_s: seconds by stage.
        threads: how many threads torch computed with.
        peak_rss_mb: the peak of resident memory, in MB.
        published: the published accuracy that this run corresponds to, or None: the first one of
            `published_by_source`.
        config_hash: hash of everything in the configuration that can change the metrics.
        versions: Python's, and those of the libraries that metrics depend on.
        git_revision: the commit of the code, with `-dirty` if it was changed since; None outside a
            checkout.
        started_at: ISO 8601, UTC, to the millisecond: the order of the runs of a sweep.
        command: what to type to have this run again.
        precision: Lightning's name of the precision in which CLIP computed the images' features;
            None for features that the user brought.
        architecture: open_clip's name, or `local-dir:` and a folder; None if it is not known.
        weights: their tag or checksum; None if it is not known.
        preprocessing: how images were prepared: a tag of open_clip whose images are prepared so
            (`openai` for files that do not say it), `open_clip_config.json`, or the setting in
            words; None if it is not known, or for point clouds.
        prompts: SHA-256 of the classes' prompts; None if they are not known.
        settings_from: where the method's settings came from, as `rn50 on eurosat
            (conf/settings/calip.yaml)` or `defaults`; where the similarities of the backbone have
            another range than CLIP's, `defaults, scaled from CLIP's similarities: beta by 1.2` or,
            if nothing was scaled, `defaults, for CLIP's similarities`; empty if it is not known.
        published_by_source: what each source says that has it, by the source's letter in
            `experiments/published.json`.
        saw_test_images: the method looked at the unlabelled test images before it answered.
        partial_test: fewer images were tested than the test split holds, as with
            `trainer.limit_test_batches`.
        points: how many points of each cloud were projected; None for images.
        distinct_crops: how many different crops of each support image training saw; 0 for methods
            that do not train.
        zero_shot: the accuracy (per cent) of zero-shot CLIP with the same prompts on the same
            images, where the prompts are not the dataset's own or the method saw the unlabelled
            test images; None otherwise.
        calibration: the `temperature` that logits were divided by, what `selection` names the
            images that it was fitted on, and how many `images`; empty where it was not.
        conformal: what `src.results.conformal.prediction_sets` takes, and how many `images` it was
            calibrated on, which on the dataset itself are a part of the test split; empty where
            there are no sets. On a further dataset the sets are those of the dataset adapted on.
        protocol: what it was adapted to and tested on, by the names of `conf/protocol`; that of
            imbalanced support sets with how they are drawn. Runs of different protocols are not
            comparable.
        passes: how many orders of the test images or tasks of them were drawn by the seed, over
            which the metrics are taken; 0 where none were.
        class_balance: of the images that a method sees together, `classes`, how many have any, and
            `images`, how many each of those has, both at least and at most; empty for methods that
            look at one image at a time.
        trained_with: `sigmoid` where the backbone's loss looked at one pair of image and text at a
            time and so has a logit bias, as SigLIP's; `softmax` where it compared pairs, as CLIP's;
            empty if it is not known.
        probabilities: how confidences, and with them ECE, NLL and Brier score, follow from the
            logits: by `softmax` over the classes, whatever the backbone was trained with; empty if
            it is not known.
        machine: what `machine` gives; empty if it is not known.
        dataset_notes: what is to be said of the dataset, such as its commit on the Hub, and how
            splits were drawn that its authors do not publish.
        version: the record's version.
    """

    dataset: str
    adapted_on: str
    backbone: str
    method: str
    shots: int
    seed: int
    selection: str
    metrics: Mapping[str, float]
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
    precision: str | None = None
    architecture: str | None = None
    weights: str | None = None
    preprocessing: str | None = None
    prompts: str | None = None
    settings_from: str = ""
    published_by_source: Mapping[str, float] = field(default_factory=dict)
    saw_test_images: bool = False
    partial_test: bool = False
    points: int | None = None
    distinct_crops: int = 0
    zero_shot: float | None = None
    calibration: Mapping[str, Any] = field(default_factory=dict)
    conformal: Mapping[str, Any] = field(default_factory=dict)
    protocol: str = "all_classes"
    passes: int = 0
    class_balance: Mapping[str, list[int]] = field(default_factory=dict)
    trained_with: str = ""
    probabilities: str = ""
    machine: Mapping[str, str] = field(default_factory=dict)
    dataset_notes: Sequence[str] = field(default_factory=list)
    version: int = VERSION

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy on the test split, in per cent."""
        return self.metrics["accuracy"]

    @property
    def balance(self) -> str:
        """How many images a class has among those seen together, as `10 to 240`; empty if none."""
        if not self.class_balance:
            return ""
        images, classes = (_range(self.class_balance[name]) for name in ("images", "classes"))
        whole = self.class_balance["classes"][0] == self.n_classes
        return images if whole else f"{images}, of {classes} classes"

    @property
    def validation_free(self) -> bool:
        """Whether nothing was chosen, by the protocol of that name."""
        return self.selection == "validation_free"

    def write(self, folder: Path) -> None:
        """Write `result.json` into `folder`, atomically."""
        at_the_top = {name: self.metrics[name] for name in AT_THE_TOP if name in self.metrics}
        content = at_the_top | asdict(self)
        write_json(folder / FILE, content | {"checksum": _checksum(content)})

    @classmethod
    def read(cls, path: Path) -> "Result":
        """Read one `result.json`, of this version or of an earlier one.

        A record that was edited is read, and a warning says so.

        Raises:
            UserError: it is not the record of a run, or it is one of a later version.
        """
        try:
            content = json.loads(path.read_text())
            if content.pop("checksum", None) not in (None, _checksum(content)):
                log.warning("%s is not as its run wrote it: it was edited, or is damaged", path)
            return cls.of(content, str(path))
        except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
            raise UserError(f"{path} is not the result of a run: {_reason(error)}.") from None

    @classmethod
    def of(cls, content: dict[str, Any], place: str) -> "Result":
        """Make a record of the content of its file, of this version or of an earlier one.

        Args:
            content: what was read; it may be changed.
            place: where it was read, for messages.

        Raises:
            UserError: it is not the record of a run, or it is one of a later version.
        """
        try:
            version = content.setdefault("version", 1)
            if version > VERSION:
                raise NewerRecordError(
                    f"{place} was written by a newer version of Calipers (record version "
                    f"{version}, this one reads up to {VERSION}): update Calipers."
                )
            if version == 1:
                content["metrics"] = {name: content[name] for name in AT_THE_TOP}
            if content["published"] is not None and "published_by_source" not in content:
                # Earlier versions looked up the same figures and kept the first one.
                content["published_by_source"] = published(
                    content["dataset"], content["method"], content["shots"], *OPENAI_RN50
                )
            known = {one.name for one in fields(cls)}
            found = {name: content[name] for name in known & content.keys()}
            result = _types().validate_json(json.dumps(found), strict=True)
            if not 0 <= result.accuracy <= 100:
                raise ValueError(f"accuracy: {result.accuracy}")
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{place} is not the result of a run: {_reason(error)}.") from None
        return result


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()).partition(" [type=")[0]


def _range(bounds: Sequence[int]) -> str:
    least, most = bounds
    return str(least) if least == most else f"{least} to {most}"


def _checksum(content: Mapping[str, Any]) -> str:
    """Compute the SHA-256 of a record's content, whatever the layout of its file."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@cache
def _types() -> "TypeAdapter[Result]":
    from pydantic import TypeAdapter

    return TypeAdapter(Result)


@cache
def versions() -> Mapping[str, str]:
    """Give the versions of Python and of the libraries that metrics depend on."""
    python = ".".join(map(str, sys.version_info[:3]))
    return {"python": python} | {name: version(name) for name in VERSIONED}


@cache
def machine(accelerator: str = "") -> Mapping[str, str]:
    """Describe what a run computes on: `system`, `processor` and, if there is one, `accelerator`.

    No name of the machine or of its user is in it.

    Args:
        accelerator: its model, where features or heads are computed on one.
    """
    found = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "accelerator": accelerator,
    }
    return {name: value for name, value in found.items() if value}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor())


@cache
def git_revision() -> str | None:
    """Describe the checkout that this code runs from, as it was when this process first asked."""
    if INSTALLED:
        return None  # an environment may lie within a repository of its user's
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty"]
    command += ["--exclude", "*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def peak_rss_mb() -> float:
    """Give the peak of this process's resident memory so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)
