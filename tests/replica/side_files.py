"""What the published archives of CoOp's datasets hold besides the images that are used.

Contents are abridged to the fields that CoOp and torchvision read.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from tests.replica.photographs import photograph, write

Rows = dict[str, list]
"""CoOp's split: [path, label, class name] of each image, by split."""


def add(dataset: str, root: Path, classes: str, rows: Rows) -> None:
    """Write the side files of `dataset`, if it has any."""
    writers = {
        "caltech101": _caltech101,
        "oxford_pets": _oxford_pets,
        "stanford_cars": _stanford_cars,
        "oxford_flowers": _oxford_flowers,
        "food101": _food101,
        "sun397": _sun397,
        "dtd": _dtd,
        "ucf101": _ucf101,
    }
    if dataset in writers:
        parts = {"train": rows["train"] + rows["val"], "test": rows["test"]}
        writers[dataset](root, classes, parts)


def _caltech101(root: Path, classes: str, parts: Rows) -> None:
    for name in classes:
        _mat(root / f"Annotations/{name}/annotation_0001.mat", obj_contour=np.zeros((2, 9)))
    for name in ("BACKGROUND_Google", "Faces_easy"):
        photograph(root / f"101_ObjectCategories/{name}/image_0001.jpg", "x", 0, 48)


def _oxford_pets(root: Path, classes: str, parts: Rows) -> None:
    for part, rows in (("trainval", parts["train"]), ("test", parts["test"])):
        write(root / f"annotations/{part}.txt", *(f"{_stem(row)} {row[1] + 1} 1 1" for row in rows))
    (root / "annotations/trimaps").mkdir()
    for row in parts["test"]:
        Image.new("L", (64, 48), 2).save(root / f"annotations/trimaps/{_stem(row)}.png")


def _stanford_cars(root: Path, classes: str, parts: Rows) -> None:
    _mat(root / "devkit/cars_meta.mat", class_names=np.array([*classes], object))
    for part, path in (
        ("train", "devkit/cars_train_annos.mat"),
        ("test", "cars_test_annos_withlabels.mat"),
    ):
        annotations = [(Path(key).name, label + 1) for key, label, _ in parts[part]]
        kind = [("fname", object), ("class", np.uint8)]
        _mat(root / path, annotations=np.array(annotations, kind))


def _oxford_flowers(root: Path, classes: str, parts: Rows) -> None:
    labels = [label + 1 for rows in parts.values() for _, label, _ in rows]
    _mat(root / "imagelabels.mat", labels=np.array([labels], np.uint8))
    names = {str(label + 1): name for label, name in enumerate(classes)}
    (root / "cat_to_name.json").write_text(json.dumps(names))


def _food101(root: Path, classes: str, parts: Rows) -> None:
    write(root / "README.txt", "Food-101 Data Set")
    write(root / "license_agreement.txt", "see README.txt")
    for file in ("classes", "labels"):
        write(root / f"meta/{file}.txt", *classes)
    for part, rows in parts.items():
        keys = [key.removesuffix(".jpg") for key, _, _ in rows]
        write(root / f"meta/{part}.txt", *keys)
        by_class = {name: [key for key in keys if key[0] == name] for name in classes}
        (root / f"meta/{part}.json").write_text(json.dumps(by_class))


def _sun397(root: Path, classes: str, parts: Rows) -> None:
    for folder in (root, root / "SUN397"):
        write(folder / "ClassName.txt", *(f"/{name}/{name}" for name in classes))
    for part, file in (("train", "Training_01.txt"), ("test", "Testing_01.txt")):
        write(root / file, *(f"/{key}" for key, _, _ in parts[part]))


def _dtd(root: Path, classes: str, parts: Rows) -> None:
    for part, rows in parts.items():
        write(root / f"labels/{part}1.txt", *(key for key, _, _ in rows))
    write(
        root / "labels/labels_joint_anno.txt", *(f"{key} {name}" for key, _, name in parts["test"])
    )
    _mat(root / "imdb/imdb.mat", images={"id": np.arange(9.0)})


def _ucf101(root: Path, classes: str, parts: Rows) -> None:
    lists = root / "ucfTrainTestlist"
    numbered = [f"{label} {name}" for label, name in enumerate(classes, start=1)]
    write(lists / "classInd.txt", *numbered)
    for part, rows in parts.items():
        videos = [f"{key.removesuffix('.jpg')}.avi" for key, _, _ in rows]
        write(lists / f"{part}list01.txt", *videos)


def _stem(row: list) -> str:
    return Path(row[0]).stem


def _mat(path: Path, **content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, content)
