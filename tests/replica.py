"""Small replicas of the benchmarks' folders, in CoOp's layout: photographs of printed letters."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from src.data.glyphs import PRETRAINING_FONTS, render

TINY = ("backbone=tiny", 'dataset.templates=["a photo of the letter {}."]')
"""`tiny` reads letters only, so the replicas' classes are letters."""

SPLITS = ("train", "val", "test")


class Layout(NamedTuple):
    """Where a dataset of CoOp's keeps its images and its split, and what its files are called.

    `part` is "train" also for the validation images, which CoOp drew from the training images.
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
DATASETS = (*LAYOUTS, "fgvc_aircraft")


def make(
    dataset: str, data: Path, per_class: int = 6, size: int = 48, classes: str = "abc"
) -> Path:
    """Make `dataset` below `data`, `per_class` images per class and split; returns its folder."""
    if dataset == "fgvc_aircraft":
        return _fgvc_aircraft(data, per_class, size, classes)
    layout = LAYOUTS[dataset]
    root = data / layout.folder
    rows: dict[str, list] = {split: [] for split in SPLITS}
    for split, label, number in _items(per_class, len(classes)):
        name = classes[label]
        part = "test" if split == "test" else "train"
        key = layout.key.format(part=part, name=name, label=label, number=number)
        _photograph(root / layout.images / key, name, number, size)
        rows[split].append([key, label, name])
    (root / layout.split_file).write_text(json.dumps(rows))
    return root


def dtd(data: Path, per_class: int = 6, size: int = 48, classes: str = "abc") -> Path:
    return make("dtd", data, per_class, size, classes)


def _fgvc_aircraft(data: Path, per_class: int, size: int, classes: str) -> Path:
    root = data / "fgvc_aircraft"
    lines: dict[str, list[str]] = {split: [] for split in SPLITS}
    for split, label, number in _items(per_class, len(classes)):
        image = f"{label}{number:06d}"
        _photograph(root / f"images/{image}.jpg", classes[label], number, size)
        lines[split].append(f"{image} {classes[label]}\n")
    for split in SPLITS:
        (root / f"images_variant_{split}.txt").write_text("".join(lines[split]))
    (root / "variants.txt").write_text("".join(f"{name}\n" for name in classes))
    return root


def _items(per_class: int, classes: int) -> list[tuple[str, int, int]]:
    """List the images of all splits: (split, label, number within the class)."""
    numbers = range(3 * per_class)
    return [(SPLITS[number % 3], label, number) for label in range(classes) for number in numbers]


def _photograph(path: Path, letter: str, seed: int, size: int) -> None:
    """Write a noisy photograph of a letter, `size` pixels high and a little wider."""
    generator = np.random.default_rng(seed)
    font = PRETRAINING_FONTS[generator.integers(len(PRETRAINING_FONTS))]
    ink = np.pad(render(font, letter, size), ((0, 0), (8, 8)))[:, :, None] * 0.8
    pixels = (ink + generator.integers(0, 51, (size, size + 16, 3))).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
