"""Small replicas of the point cloud datasets' folders; clouds are letters cut from thick board."""

import json
import string
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from src.data.glyphs import PRETRAINING_FONTS, render
from src.data.scanobjectnn import CLASSES, FILES

TINY = ("backbone=tiny", 'dataset.templates=["a photo of the letter {}."]')
"""`tiny` reads letters: for classes that are called so. For others, see `prompts`."""

MODELNET10 = (
    "bathtub",
    "bed",
    "chair",
    "desk",
    "dresser",
    "monitor",
    "night_stand",
    "sofa",
    "table",
    "toilet",
)


def modelnet(
    data: Path, names: Sequence[str] = "cab", per_class: int = 5, points: int = 512
) -> Path:
    """Make `modelnet40_ply_hdf5_2048` below `data`, two files for training and one for testing.

    Class number i of `names` looks like letter number i of the alphabet; if its name is a letter,
    it looks like that one. A class has `per_class` clouds in each file.
    """
    root = data / "modelnet40_ply_hdf5_2048"
    root.mkdir(parents=True)
    (root / "shape_names.txt").write_text("".join(f"{name}\n" for name in names))
    files = {"train": ["ply_data_train0.h5", "ply_data_train1.h5"], "test": ["ply_data_test0.h5"]}
    for first, (split, some) in enumerate(files.items()):
        for number, file in enumerate(some):
            clouds, labels = _clouds(names, per_class, points, seed=10 * first + number)
            with h5py.File(root / file, "w") as content:
                content.create_dataset("data", data=clouds, compression="gzip")
                content.create_dataset("label", data=labels.astype(np.uint8)[:, None])
        listed = "".join(f"data/modelnet40_ply_hdf5_2048/{file}\n" for file in some)
        (root / f"{split}_files.txt").write_text(listed)
    return root


def scanobjectnn(data: Path, per_class: int = 5, points: int = 512) -> Path:
    """Make the three variants below `data / "scanobjectnn"`; class i looks like letter i."""
    root = data / "scanobjectnn"
    for number, file in enumerate(FILES.values()):
        for part in ("training", "test"):
            path = root / file.format(part)
            path.parent.mkdir(parents=True, exist_ok=True)
            seed = 10 * number + (part == "test")
            clouds, labels = _clouds(CLASSES, per_class, points, seed)
            with h5py.File(path, "w") as content:
                content["data"] = clouds
                content["label"] = labels.astype(np.int32)
                content["mask"] = np.zeros(clouds.shape[:2], np.int32)
    return root


def prompts(path: Path, names: Sequence[str]) -> Path:
    """Write a file for `dataset.prompts` that describes each class as the letter it looks like."""
    path.write_text(
        json.dumps(
            {name: [f"a photo of the letter {_letter(names, i)}."] for i, name in enumerate(names)}
        )
    )
    return path


def _letter(names: Sequence[str], label: int) -> str:
    name = names[label]
    return name if len(name) == 1 else string.ascii_lowercase[label]


def _clouds(
    names: Sequence[str], per_class: int, points: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Make the classes' clouds in turn: float32 `[n, points, 3]`, y upwards, and labels `[n]`."""
    generator = np.random.default_rng(seed)
    labels = np.tile(np.arange(len(names)), per_class)
    clouds = [_cut_out(_letter(names, label), points, generator) for label in labels]
    return np.stack(clouds).astype(np.float32), labels


def _cut_out(letter: str, points: int, generator: np.random.Generator) -> np.ndarray:
    """Draw points inside a letter cut out of board; it is readable from the front, which is +z."""
    font = PRETRAINING_FONTS[generator.integers(len(PRETRAINING_FONTS))]
    rows, columns = np.nonzero(render(font, letter, 96) > 127)
    drawn = generator.integers(len(rows), size=points)
    x, y = columns[drawn] / 48 - 1, 1 - rows[drawn] / 48
    jitter = generator.uniform(-1 / 96, 1 / 96, (2, points))
    return np.stack([x + jitter[0], y + jitter[1], generator.uniform(-0.1, 0.1, points)], axis=1)
