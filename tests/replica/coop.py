"""The datasets that are described by a split file from CoOp."""

import json
from pathlib import Path
from typing import NamedTuple

from tests.replica import side_files
from tests.replica.photographs import SPLITS, items, photograph


class Layout(NamedTuple):
    """Where a dataset in CoOp's layout keeps its images and its split, and how files are named.

    `part` is "train" for validation images too, because CoOp drew them from the training images.
    """

    folder: str
    images: str
    split_file: str
    key: str  # formatted with part, name, label, and number, which counts within the class


LAYOUTS = {
    "caltech101": Layout(
        "caltech-101",
        "101_ObjectCategories",
        "split_zhou_Caltech101.json",
        "{name}/image_{number:04d}.jpg",
    ),
    "oxford_pets": Layout(
        "oxford_pets", "images", "split_zhou_OxfordPets.json", "{name}_{number}.jpg"
    ),
    "stanford_cars": Layout(
        "stanford_cars",
        ".",
        "split_zhou_StanfordCars.json",
        "cars_{part}/{label}{number:04d}.jpg",
    ),
    "oxford_flowers": Layout(
        "oxford_flowers", "jpg", "split_zhou_OxfordFlowers.json", "image_{label}{number:04d}.jpg"
    ),
    "food101": Layout("food-101", "images", "split_zhou_Food101.json", "{name}/{number:07d}.jpg"),
    "sun397": Layout(
        "sun397", "SUN397", "split_zhou_SUN397.json", "{name[0]}/{name}/sun_{number:016x}.jpg"
    ),
    "dtd": Layout(
        "dtd", "images", "split_zhou_DescribableTextures.json", "{name}/{name}_{number:04d}.jpg"
    ),
    "eurosat": Layout("eurosat", "2750", "split_zhou_EuroSAT.json", "{name}/{name}_{number}.jpg"),
    "ucf101": Layout(
        "ucf101",
        "UCF-101-midframes",
        "split_zhou_UCF101.json",
        "{name}/v_{name}_g{number:02d}_c01.jpg",
    ),
}


def make(dataset: str, data: Path, per_class: int, size: int, classes: str) -> Path:
    layout = LAYOUTS[dataset]
    root = data / layout.folder
    rows: dict[str, list] = {split: [] for split in SPLITS}
    for split, label, number in items(per_class, len(classes)):
        name = classes[label]
        part = "test" if split == "test" else "train"
        key = layout.key.format(part=part, name=name, label=label, number=number)
        photograph(root / layout.images / key, name, number, size)
        rows[split].append([key, label, name])
    (root / layout.split_file).write_text(json.dumps(rows))
    side_files.add(dataset, root, classes, rows)
    return root
