"""`python -m src.features fidelity backbone=rn50 images=FOLDER`: compare two precisions.

Computes the features of the same images in both, as runs do, and tells how far apart they are. The
exit code is 0 if every feature keeps a cosine similarity of 0.999 or more, else 1. The settings of
runs in the groups backbone, dataset, trainer and paths, and on_bad_image, are taken here too:

  python -m src.features fidelity dataset=eurosat backbone=rn50 precision=16-true
  python -m src.features fidelity images=photos classes=cat,dog backbone.pretrained=my.safetensors
"""

import re
import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from rich.table import Table

from src.command_line import make_console, run_command
from src.config import build, compose
from src.data.folder import EXTENSIONS
from src.data.images import ImageDataset, ImageFiles, Item
from src.data.point_clouds import PointClouds
from src.errors import UserError, require_integer
from src.files import write_json
from src.typed import read, read_command_line
from src.validation import validate

if TYPE_CHECKING:
    from lightning import Trainer

OF_RUNS = ("backbone", "dataset", "trainer", "paths", "on_bad_image")
"""The settings of runs that are taken here too."""


@dataclass(frozen=True)
class Settings:
    """What is typed, as key=value.

    Attributes:
        images: a folder of images, looked through to any depth; or give dataset=NAME, whose test
            images and classes are taken.
        classes: of images=FOLDER, separated by commas: compares the nearest class too.
        precision: Lightning's name of the precision in question, or auto.
        against: that of the precision it is compared with.
        spatial: false leaves spatial features out, which few methods see.
        limit: how many images at most, evenly from all; features of one pass stay in memory.
        output: a JSON file for the figures.
    """

    images: str = ""
    classes: str = ""
    precision: str = "bf16-true"
    against: str = "32-true"
    spatial: bool = True
    limit: int = 512
    output: str = ""

    def __post_init__(self) -> None:
        """Check what can be checked without the backbone.

        Raises:
            UserError: a setting is wrong.
        """
        require_integer("limit", self.limit, least=1)
        if self.images and not Path(self.images).is_dir():
            raise UserError(f"images={self.images} is no folder: give one that holds images.")
        if self.classes and not self.images:
            raise UserError("classes=... belongs to images=FOLDER: a dataset has its own classes.")
        if Path(self.output).is_dir() and self.output:
            raise UserError(f"output={self.output} is a folder: give the name of a JSON file.")


def main() -> None:
    """Read the command line, compute, compare, and end with the verdict.

    Raises:
        UserError: a setting is wrong, there is no image, or one cannot be decoded.
        SystemExit: with code 1, if a feature differs too much.
    """
    words = sys.argv[1:]
    if {"-h", "--help"} & set(words):
        read_command_line(Settings, __doc__)
    of_runs = [word for word in words if re.split(r"[=.@]", word.lstrip("+~"))[0] in OF_RUNS]
    settings = read(Settings, [word for word in words if word not in of_runs])
    cfg = configuration(settings, of_runs)
    found = measure(cfg, settings)
    show(found)
    if settings.output:
        write_json(Path(settings.output), found)
    if not found["faithful"]:
        raise SystemExit(1)


def configuration(settings: Settings, of_runs: Sequence[str]) -> DictConfig:
    """Compose and check the configuration of a run on these images.

    Raises:
        UserError: it is wrong, or it is not said which images.
    """
    chosen = any(word.startswith("dataset=") for word in of_runs)
    if chosen == bool(settings.images):
        raise UserError("which images? Give either images=FOLDER or dataset=NAME.")
    folder = ["dataset=folder"] if settings.images else []
    cfg = compose([*folder, *of_runs, "paths.output=."])  # nothing is written there
    validate(cfg)
    return cfg


def images_of(cfg: DictConfig, settings: Settings) -> tuple[ImageDataset, list[Item]]:
    """Give a dataset, and those of its images that are looked at.

    Raises:
        UserError: there is none, or they are no images.
    """
    dataset: Any
    if settings.images:
        root = Path(settings.images)
        names = [name.strip() for name in settings.classes.split(",")] if settings.classes else []
        if names and (len(set(names)) < max(2, len(names)) or "" in names):
            raise UserError(f"classes={settings.classes}: give two or more different ones.")
        paths = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
        keys = sorted(
            path.as_posix()
            for path in paths
            if path.suffix.lower() in EXTENSIONS and not any(part[0] == "." for part in path.parts)
        )
        dataset = ImageFiles(root, names, {"test": [Item(key, 0) for key in keys]})
    else:
        precomputed = cfg.dataset.reader["_target_"].startswith("src.features.")
        dataset = None if precomputed else build(cfg.dataset.reader)
        if precomputed or isinstance(dataset, PointClouds):
            raise UserError(f"dataset={cfg.dataset.name} holds no images: choose one that does.")
    items = dataset.splits["test"]
    if not items:
        where = settings.images or f"the test split of {cfg.dataset.name}"
        raise UserError(f"there is no image in {where} ({', '.join(sorted(EXTENSIONS))}).")
    count = min(settings.limit, len(items))
    # Datasets are sorted by class, of which the first images would show a few only.
    return dataset, [items[number * len(items) // count] for number in range(count)]


def measure(cfg: DictConfig, settings: Settings) -> dict[str, Any]:
    """Compute the features in both precisions; return all that there is to tell, as JSON holds it.

    Raises:
        UserError: a precision is unknown or cannot be had on this device; both are the same; or
            the backbone or an image is not what it should be.
    """
    dataset, items = images_of(cfg, settings)

    import torch

    from src.features.fidelity import LEAST, Comparison, encode
    from src.hints import without_hints
    from src.job.assembly import make_class_prompts, make_features
    from src.job.trainer import check_trainer

    with without_hints():
        check_trainer(cfg)
        trainers = {
            key: _trainer(cfg, key, getattr(settings, key)) for key in ("against", "precision")
        }
        precision, against = (str(trainers[key].precision) for key in ("precision", "against"))
        if precision == against:
            raise UserError(
                f"precision={settings.precision} and against={settings.against} are the same here: "
                "give two different ones."
            )
        cfg.backbone.precision = precision
        prompts = make_class_prompts(cfg, dataset.class_names)
        source: Any = make_features(cfg, cfg.dataset.name, dataset, prompts)
        clip = source.clip
        names = ["global", "spatial"] if settings.spatial and _has_spatial(clip) else ["global"]
        text = clip.encode_text(prompts).text if prompts else None
        comparison, skip = Comparison(text), cfg.on_bad_image == "skip"
        takes = {"against": comparison.remember, "precision": comparison.compare}
        copies = {"against": deepcopy(clip), "precision": clip}
        rates = {
            key: encode(
                copies.pop(key), names, dataset, items, cfg.backbone.batch_size, trainer, skip,
                takes[key],
            )
            for key, trainer in trainers.items()
        }  # fmt: skip
    if not comparison.images:
        raise UserError("none of the images can be decoded: give others.")
    likeness = comparison.likeness()
    origin, device = source.origin, trainers["precision"].strategy.root_device
    return {
        "backbone": origin.backbone,
        "architecture": origin.architecture,
        "weights": origin.weights,
        "images_of": settings.images or cfg.dataset.name,
        "images": comparison.images,
        "precision": precision,
        "against": against,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "features": {name: asdict(one) for name, one in likeness.items()},
        "same_top1": comparison.same if prompts else None,
        "images_per_second": {precision: rates["precision"], against: rates["against"]},
        "least_cosine_allowed": LEAST,
        "faithful": all(one.below == 0 for one in likeness.values()),
    }


def show(found: dict[str, Any]) -> None:
    """Print the figures and the verdict."""
    precision, against = found["precision"], found["against"]
    least = found["least_cosine_allowed"]
    table = Table(title=f"{found['backbone']}, {found['images']:,} images: {precision}")
    table.add_column("feature")
    numbers = ("rows", f"below {least}", "least cosine", "mean cosine", "largest change of length")
    for column in numbers:
        table.add_column(column, justify="right")
    for name, one in found["features"].items():
        table.add_row(
            name,
            f"{one['rows']:,}",
            f"{one['below']:,}",
            f"{one['least_cosine']:.6f}",
            f"{one['mean_cosine']:.6f}",
            f"{one['largest_length_difference']:.3%}",
        )
    make_console().print(table)
    if (same := found["same_top1"]) is not None:
        print(f"the same class comes first: {same:,} of {found['images']:,} images")
    rates = found["images_per_second"].items()
    if told := ", ".join(f"{name} {rate:.1f}" for name, rate in rates if rate is not None):
        print(f"images per second on {found['device']}, encoding only: {told}")
    beside = f"a cosine of {least} to {against}"
    if found["faithful"]:
        print(f"{precision} is enough: no feature is below {beside}")
    else:
        low = " and ".join(name for name, one in found["features"].items() if one["below"])
        print(f"{precision} is not enough: {low} features are below {beside}")


def _trainer(cfg: DictConfig, key: str, asked: str) -> "Trainer":
    """Make the Trainer of one pass.

    Raises:
        UserError: Lightning has no such precision on this device.
    """
    from functools import partial

    from src.clip.precision import resolve
    from src.job.trainer import check_precision, make_trainer

    make = partial(make_trainer, cfg, logger=False, progress=make_console().is_terminal)
    precision = resolve(asked, make)
    check_precision(cfg, key, precision)
    return make(precision=precision)


def _has_spatial(clip: Any) -> bool:
    import torch

    try:
        clip.encode_image_spatial(torch.zeros(1, 3, *clip.image_size))
    except UserError:
        return False
    return True


if __name__ == "__main__":
    run_command(main)
