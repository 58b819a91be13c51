"""`python -m src.predict model=RUN images=FOLDER`: classify new pictures with what a run adapted.

Answers are written while they are found; started again, the command continues where it stopped.
"""

import csv
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO, cast

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from src.classifier.classifier import Classifier, load
from src.command_line import run_command
from src.data.folder import EXTENSIONS
from src.data.images import Item
from src.data.text_files import listing, read_text
from src.errors import UserError, require_integer
from src.features.image_batches import SKIPPED
from src.files import replacing

FORMATS = (".csv", ".jsonl")
DAMAGED = "damaged"
NONE_OF_THESE = "none of these"


@dataclass
class Settings:
    """What is typed, as key=value.

    Attributes:
        model: the folder of a run, or its classifier/.
        images: a folder (looked through to any depth), a pattern such as 'photos/*.jpg', a text
            file with a path on each line, a CSV file with the column path and perhaps label, or -
            for paths on the standard input.
        output: where the answers go; .csv or .jsonl.
        top: how many classes of each image are told.
        reject_below: a probability; an image whose best class has less is "none of these".
        batch_size: images per forward pass.
    """

    model: str = MISSING
    images: str = MISSING
    output: str = "predictions.csv"
    top: int = 1
    reject_below: float = 0.0
    batch_size: int = 64


class Picture(NamedTuple):
    """An image to classify, and its class where that is known."""

    path: str
    label: str | None


def main() -> None:
    """Read the command line, classify, and say how it went.

    Raises:
        UserError: a setting, the classifier or the list of images is wrong.
    """
    settings = _settings(sys.argv[1:])
    output = Path(settings.output)
    if output.suffix not in FORMATS:
        raise UserError(f"output={output}: give a name that ends in {' or '.join(FORMATS)}.")
    require_integer("top", settings.top, least=1)
    require_integer("batch_size", settings.batch_size, least=1)
    model = load(settings.model)
    pictures = find(settings.images, model.about.class_names)
    part = output.with_name(f"{output.name}.part")
    done = _continue(part, settings, model, pictures)
    if done:
        print(f"{done:,} of {len(pictures):,} images were classified before")
    with part.open("a") as file:
        _classify(model, pictures, done, settings, file)
    _finish(part, output)
    part.unlink()
    _tell(output, _rows(output), model.about.class_names)


def _settings(arguments: Sequence[str]) -> Settings:
    if {"-h", "--help"} & set(arguments):
        print(f"{__doc__}\n{Settings.__doc__}")
        raise SystemExit(0)
    try:
        merged = OmegaConf.merge(
            OmegaConf.structured(Settings), OmegaConf.from_cli(list(arguments))
        )
        settings: Any = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{error.full_key}: {reason}. `--help` lists the settings.") from None
    return cast(Settings, settings)


def find(images: str, class_names: Sequence[str]) -> list[Picture]:
    """List the images, in the order of the list or, of a folder, of their paths.

    Raises:
        UserError: there is none, or the list cannot be read.
    """
    path = Path(images)
    if images == "-":
        found = [Picture(line.strip(), None) for line in sys.stdin if line.strip()]
    elif path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.suffix.lower() in EXTENSIONS)
        known = {each.parent.name for each in files} <= set(class_names)
        found = [Picture(str(each), each.parent.name if known else None) for each in files]
    elif path.suffix == ".csv":
        rows = csv.DictReader(read_text(path, "images").splitlines())
        if "path" not in (rows.fieldnames or []):
            raise UserError(f"images={images}: the header must have the column path.")
        found = [Picture(str(path.parent / row["path"]), row.get("label") or None) for row in rows]
    elif any(sign in images for sign in "*?["):
        pattern = str(path.relative_to(path.anchor))
        found = [Picture(str(each), None) for each in sorted(Path(path.anchor).glob(pattern))]
    else:
        lines = read_text(path, "images").splitlines()
        found = [Picture(str(path.parent / line.strip()), None) for line in lines if line.strip()]
    if not found:
        raise UserError(f"images={images}: there is no image ({', '.join(sorted(EXTENSIONS))}).")
    if missing := [one.path for one in found if not Path(one.path).is_file()]:
        raise UserError(f"images={images}: {listing(missing)} is missing: correct the list.")
    if unknown := sorted({one.label for one in found if one.label} - set(class_names)):
        raise UserError(f"images={images}: the classifier has no class {listing(unknown)}.")
    return found


def _continue(
    part: Path, settings: Settings, model: Classifier, pictures: Sequence[Picture]
) -> int:
    """Begin the file of answers, or keep those of an earlier try that are whole; count them."""
    own = (settings.top, settings.reject_below, settings.batch_size)
    asked = json.dumps([model.about.checksum, own, pictures])
    head = json.dumps({"asked": hashlib.sha256(asked.encode()).hexdigest()}) + "\n"
    found = part.read_text() if part.is_file() else ""
    lines = found.splitlines(keepends=True)[1:] if found.startswith(head) else []
    whole = sum(line.endswith("\n") for line in lines)
    if whole < len(pictures):
        whole -= whole % settings.batch_size  # rounding differs a little between other batches
    with replacing(part) as temporary:
        temporary.write_text("".join([head, *lines[:whole]]))
    return whole


class _Answers:
    """Writes the answers of each batch of features as lines of JSON."""

    def __init__(
        self, model: Classifier, pictures: Sequence[Picture], settings: Settings, file: TextIO
    ) -> None:
        self.model, self.pictures, self.settings, self.file = model, pictures, settings, file

    def take(self, first: int, tensors: dict[str, Tensor]) -> None:
        """Write the answers of the images from number `first` on."""
        probability = self.model.probabilities(tensors)
        best = probability.topk(min(self.settings.top, probability.shape[1]), dim=1)
        names = self.model.class_names
        for row, label in enumerate(tensors["label"].tolist()):
            picture = self.pictures[first + row]
            answer: dict[str, Any] = {"path": picture.path, "label": picture.label}
            if label == SKIPPED:
                answer["class"] = DAMAGED
            else:
                classes = [names[index] for index in best.indices[row].tolist()]
                values = [round(value, 6) for value in best.values[row].tolist()]
                rejected = values[0] < self.settings.reject_below
                answer["class"] = NONE_OF_THESE if rejected else classes[0]
                answer["probability"] = values[0]
                answer["top"] = dict(zip(classes, values, strict=True))
            self.file.write(json.dumps(answer, ensure_ascii=False) + "\n")
        self.file.flush()


def _classify(
    model: Classifier, pictures: Sequence[Picture], done: int, settings: Settings, file: TextIO
) -> None:
    """Classify the images from number `done` on."""
    if done == len(pictures):
        return
    model.encode(
        model.given([picture.path for picture in pictures]),
        [Item(str(row), 0) for row in range(len(pictures))],
        _Answers(model, pictures, settings, file).take,
        start=done,
        batch_size=settings.batch_size,
        skip_damaged=True,
        progress=True,
    )


def _finish(part: Path, output: Path) -> None:
    """Write the answers in the format of `output`'s name."""
    with part.open() as lines, replacing(output) as temporary:
        next(lines)
        with temporary.open("w", newline="") as file:
            if output.suffix == ".jsonl":
                file.writelines(lines)
                return
            rows = csv.writer(file)
            rows.writerow(["path", "class", "probability", "label", "top"])
            for answer in map(json.loads, lines):
                top = json.dumps(answer.get("top", {}), ensure_ascii=False)
                rows.writerow(
                    [
                        answer["path"], answer["class"], answer.get("probability", ""),
                        answer["label"] or "", top,
                    ]
                )  # fmt: skip


def _rows(output: Path) -> Iterator[dict[str, Any]]:
    with output.open(newline="") as file:
        if output.suffix == ".jsonl":
            yield from map(json.loads, file)
        else:
            yield from csv.DictReader(file)


def _tell(output: Path, rows: Iterator[dict[str, Any]], class_names: Sequence[str]) -> None:
    total = damaged = right = labelled = 0
    for row in rows:
        total += 1
        damaged += row["class"] == DAMAGED and DAMAGED not in class_names
        if row["label"] and row["class"] != DAMAGED:
            labelled += 1
            right += row["class"] == row["label"]
    print(f"{total:,} images classified in {output}")
    if damaged:
        print(f"{damaged:,} cannot be decoded: their class is {DAMAGED!r}")
    if labelled:
        print(f"accuracy {100 * right / labelled:.2f} % of {labelled:,} labelled images")


if __name__ == "__main__":
    run_command(main)
