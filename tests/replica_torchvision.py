"""Small replicas of the sets that torchvision downloads: three letters, in the real layouts.

Each class has 10 training images, of which 2 become val, and 4 test images.
"""

import struct
from pathlib import Path

import h5py
import numpy as np
from PIL import Image
from scipy.io import savemat

from src.data.glyphs import PRETRAINING_FONTS, render

LETTERS = "abc"
COUNTS = {"train": 10, "val": 2, "test": 4}
SPLITS = {"train": 24, "val": 6, "test": 12}
SETTINGS = (
    "dataset.reader.class_names=[a,b,c]",
    "++dataset.downloads=[]",
    "++dataset.totals={classes: 3, train: 24, val: 6, test: 12}",
    "++dataset.per_class={train: 8, val: 2, test: 4}",
)


def pixels(split: str, row: int, size: int, grey: bool = False) -> np.ndarray:
    """Draw the letter of class `row % 3`: uint8 `[size, size, 3]`, or without colours."""
    generator = np.random.default_rng([list(COUNTS).index(split), row])
    font = PRETRAINING_FONTS[generator.integers(len(PRETRAINING_FONTS))]
    ink = render(font, LETTERS[row % 3], size)[:, :, None] * 0.8
    noisy = (ink + generator.integers(0, 51, (size, size, 3))).astype(np.uint8)
    return noisy[..., 0] if grey else noisy


def make(name: str, data: Path) -> Path:
    """Write a replica below `data`; return its folder."""
    return MAKERS[name](data)


def _rows(split: str, size: int, grey: bool = False) -> tuple[np.ndarray, np.ndarray]:
    count = 3 * COUNTS[split]
    images = np.stack([pixels(split, row, size, grey) for row in range(count)])
    return images, np.arange(count, dtype=np.uint8) % 3


def _cifar10(data: Path) -> Path:
    folder = data / "cifar10/cifar-10-batches-bin"
    folder.mkdir(parents=True)
    (folder / "batches.meta.txt").write_text("airplane\n")
    for split, files in (
        ("train", [f"data_batch_{n}" for n in range(1, 6)]),
        ("test", ["test_batch"]),
    ):
        images, labels = _rows(split, 32)
        records = np.hstack(
            [labels[:, None], images.transpose(0, 3, 1, 2).reshape(len(labels), -1)]
        )
        for file, part in zip(files, np.split(records, len(files)), strict=True):
            part.tofile(folder / f"{file}.bin")
    return data / "cifar10"


def _cifar100(data: Path) -> Path:
    folder = data / "cifar100/cifar-100-binary"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        images, labels = _rows(split, 32)
        coarse = np.full_like(labels, 19)
        flat = images.transpose(0, 3, 1, 2).reshape(len(labels), -1)
        np.hstack([coarse[:, None], labels[:, None], flat]).tofile(folder / f"{split}.bin")
    return data / "cifar100"


def _stl10(data: Path) -> Path:
    folder = data / "stl10/stl10_binary"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        images, labels = _rows(split, 96)
        images.transpose(0, 3, 2, 1).tofile(folder / f"{split}_X.bin")
        (labels + 1).astype(np.uint8).tofile(folder / f"{split}_y.bin")
    return data / "stl10"


def _svhn(data: Path) -> Path:
    (data / "svhn").mkdir(parents=True)
    for split in ("train", "test"):
        images, labels = _rows(split, 32)
        savemat(
            data / f"svhn/{split}_32x32.mat",
            {
                "X": images.transpose(1, 2, 3, 0),
                "y": np.where(labels == 0, 10, labels).astype(np.uint8)[:, None],
            },
            do_compression=True,
        )
    return data / "svhn"


def _mnist(data: Path) -> Path:
    folder = data / "MNIST/raw"
    folder.mkdir(parents=True)
    for split, name in (("train", "train"), ("test", "t10k")):
        images, labels = _rows(split, 28, grey=True)
        header = struct.pack(">IIII", 2051, len(images), 28, 28)
        (folder / f"{name}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = struct.pack(">II", 2049, len(labels))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
    return folder


def _fer2013(data: Path) -> Path:
    (data / "fer2013").mkdir(parents=True)
    lines = ["emotion,pixels,Usage"]
    for split, usages in (("train", ["Training"]), ("test", ["PublicTest", "PrivateTest"])):
        images, labels = _rows(split, 48, grey=True)
        for row, (image, label) in enumerate(zip(images, labels, strict=True)):
            text = " ".join(map(str, image.reshape(-1)))
            lines.append(f"{label},{text},{usages[row * len(usages) // len(images)]}")
    (data / "fer2013/fer2013.csv").write_text("\n".join(lines) + "\n")
    return data / "fer2013"


def _pcam(data: Path) -> Path:
    (data / "pcam").mkdir(parents=True)
    for split, name in (("train", "train"), ("val", "valid"), ("test", "test")):
        images, labels = _rows(split, 96)
        if split == "train":  # Its authors hold out val: the replica's train has 8 per class.
            images, labels = images[:24], labels[:24]
        for part, key, values in (("x", "x", images), ("y", "y", labels.reshape(-1, 1, 1, 1))):
            with h5py.File(
                data / f"pcam/camelyonpatch_level_2_split_{name}_{part}.h5", "w"
            ) as file:
                file.create_dataset(key, data=values, compression="gzip")
    return data / "pcam"


def _gtsrb(data: Path) -> Path:
    root = data / "gtsrb"
    for row in range(3 * COUNTS["train"]):
        label, number = row % 3, row // 3
        path = root / f"GTSRB/Training/{label:05d}/{number // 2:05d}_{number % 2:05d}.ppm"
        _save(path, pixels("train", row, 40))
    (root / "GTSRB/Training/00000/GT-00000.csv").write_text("Filename;Width\n")
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for row in range(3 * COUNTS["test"]):
        _save(root / f"GTSRB/Final_Test/Images/{row:05d}.ppm", pixels("test", row, 40))
        lines.append(f"{row:05d}.ppm;40;40;5;5;35;35;{row % 3}")
    (root / "GT-final_test.csv").write_text("\n".join(lines) + "\n")
    return root


def _folders(root: Path, names: str, ending: str) -> Path:
    for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        for row in range(SPLITS[split]):
            _save(root / folder / names[row % 3] / f"{row}{ending}", pixels(split, row, 64))
    return root


def _save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


MAKERS = {
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "stl10": _stl10,
    "svhn": _svhn,
    "mnist": _mnist,
    "fer2013": _fer2013,
    "pcam": _pcam,
    "gtsrb": _gtsrb,
    "country211": lambda data: _folders(data / "country211", ["AD", "AE", "AF"], ".jpg"),
    "rendered_sst2": lambda data: _folders(data / "rendered-sst2", "npz", ".png"),
}
