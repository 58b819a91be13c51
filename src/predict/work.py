"""Going through the pictures: features, answers, and what is said of them in the end."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from torch import Tensor

from src.classifier.classifier import Classifier, load
from src.command_line import printable
from src.data.folder import EXTENSIONS
from src.data.images import Item
from src.data.text_files import SHOWN, listing
from src.features.image_batches import SKIPPED
from src.files import naming_full_disk, replacing
from src.predict import formats
from src.predict.part import LOCK, PART, beside, claim, packed, read, resume
from src.predict.pictures import Pictures, find
from src.predict.settings import Settings
from src.results.conformal import prediction_sets

CLOUDS = (".npy",)
DAMAGED = "damaged"
NONE_OF_THESE = "none of these"
FORMAT = 1
"""Of the lines of the answers so far; others are dropped."""


def run(settings: Settings) -> None:
    """Classify, and say how it went.

    Raises:
        UserError: the classifier or the list of images is wrong, the output is being written by
            another process, or the disk is full.
    """
    output = Path(settings.output)
    model = load(settings.model)
    suffixes = EXTENSIONS if model.about.view_weights is None else CLOUDS
    written = [output, beside(output, PART), beside(output, LOCK)]
    pictures = find(settings.images, suffixes, model.class_names, written)
    with claim(output), naming_full_disk(output.parent, settings="output"):
        print(classify(model, pictures, settings))


def classify(
    model: Classifier, pictures: Pictures, settings: Settings, progress: bool = True
) -> str:
    """Write the answers for all pictures, going on where an earlier try stopped.

    Args:
        model: the classifier.
        pictures: what to classify.
        settings: where the answers go, and what they tell.
        progress: show a progress bar.

    Returns:
        What there is to say of the answers.
    """
    output, part = Path(settings.output), beside(Path(settings.output), PART)
    own = (settings.top, settings.reject_below, settings.features, settings.batch_size)
    asked = json.dumps([FORMAT, asdict(model.about), own, pictures.fingerprint], sort_keys=True)
    number = hashlib.sha256(asked.encode()).hexdigest()
    done, total = resume(part, number, pictures.paths, settings.batch_size), len(pictures.paths)
    kind = "images" if model.about.view_weights is None else "point clouds"
    if done:
        print(f"{done:,} of {total:,} {kind} were classified before")
    if done < total:
        with part.open("a") as file:
            model.encode(
                model.given(pictures.paths),
                [Item(str(row), 0) for row in range(total)],
                _Answers(model, pictures, settings, file).take,
                start=done,
                batch_size=settings.batch_size,
                skip_damaged=True,
                progress=progress,
            )
    columns = ["path", "class", "probability", "label", "top"]
    columns += ["set"] if model.about.conformal is not None else []
    columns += ["features"] if settings.features else []
    summary = _Summary(kind)
    with replacing(output) as temporary:
        answers = summary.over(read(part))
        formats.write(answers, temporary, columns, model.about.view_weights is not None)
    part.unlink()
    return summary.text(output)


class _Answers:
    """Writes the answers of each batch of features as lines of JSON."""

    def __init__(
        self, model: Classifier, pictures: Pictures, settings: Settings, file: TextIO
    ) -> None:
        self.model, self.pictures, self.settings, self.file = model, pictures, settings, file

    def take(self, first: int, tensors: dict[str, Tensor]) -> None:
        """Write the answers of the pictures from number `first` on."""
        names, conformal = self.model.class_names, self.model.about.conformal
        probability = self.model.probabilities(tensors)
        best = probability.topk(min(self.settings.top, len(names)), dim=1)
        sets = None if conformal is None else prediction_sets(probability.numpy(), conformal)
        for row, label in enumerate(tensors["label"].tolist()):
            answer: dict[str, Any] = {
                "path": self.pictures.paths[first + row],
                "label": self.pictures.labels[first + row],
            }
            if label == SKIPPED:
                answer["class"] = DAMAGED
            else:
                classes = [names[index] for index in best.indices[row].tolist()]
                values = best.values[row].tolist()
                rejected = values[0] < self.settings.reject_below
                answer["class"] = NONE_OF_THESE if rejected else classes[0]
                told = [round(value, 6) for value in values]
                answer["probability"] = told[0]
                answer["top"] = [*zip(classes, told, strict=True)]
                if sets is not None:
                    answer["set"] = [names[index] for index in sets[row].nonzero()[0]]
                if self.settings.features:
                    answer["features"] = packed(tensors["global"][row].numpy())
            self.file.write(json.dumps(answer) + "\n")
        self.file.flush()


class _Summary:
    """Counts answers while they pass."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.total = self.right = self.labelled = self.damaged = 0
        self.names: list[str] = []

    def over(self, answers: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for answer in answers:
            self.total += 1
            if "probability" not in answer:
                self.damaged += 1
                self.names += [answer["path"]] if len(self.names) < SHOWN else []
            elif answer["label"]:
                self.labelled += 1
                self.right += answer["class"] == answer["label"]
            yield answer

    def text(self, output: Path) -> str:
        lines = [f"{self.total:,} {self.kind} classified in {formats.shown(str(output))}"]
        if self.damaged:
            names = listing(self.names)
            more = ", ..." if self.damaged > len(self.names) else ""
            lines.append(
                f"{self.damaged:,} cannot be read: their class is {DAMAGED!r} ({names}{more})"
            )
        if self.labelled:
            accuracy = 100 * self.right / self.labelled
            lines.append(f"accuracy {accuracy:.2f} % of {self.labelled:,} labelled {self.kind}")
        return printable("\n".join(lines))
