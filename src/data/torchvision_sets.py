"""The classification sets that torchvision downloads, in its folders and without torch.

torchvision unpickles CIFAR's "python version", which may run any code; the binary version that is
read here has the same images. Where the authors publish no validation split, a fifth of each
class's training images, drawn by `dataset.split_seed`, is val.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from src.data.dividing import hold_out
from src.data.images import SPLITS, ImageFiles, Item
from src.data.pixel_rows import (
    HDF5Pixels,
    MatlabPixels,
    PixelRows,
    Pixels,
    Records,
    TextPixels,
    matlab_shapes,
    read_matlab,
)
from src.data.rows import Rows
from src.data.set_files import (
    FETCH,
    REMEDY,
    check_labels,
    class_folders,
    count_records,
    missing,
    read_hdf5,
    read_idx_shape,
)
from src.data.text_files import read_file
from src.errors import UserError, require_integer

VAL_OF_TRAIN = 0.2


def read_cifar(
    root: str,
    train: Sequence[str],
    test: Sequence[str],
    label_bytes: int,
    class_names: Sequence[str],
    split_seed: int,
) -> PixelRows:
    """Read CIFAR-10 or CIFAR-100 in the binary version (Krizhevsky, 2009).

    Args:
        root: the dataset's folder.
        train: the files below `root` of the training images.
        test: the files below `root` of the test images.
        label_bytes: bytes before the 3 × 32 × 32 of each image; the last is its class.
        class_names: in the order of the labels.
        split_seed: decides which training images are val.

    Raises:
        UserError: a file is missing or malformed; the message names it.
    """
    size = label_bytes + 3 * 32 * 32
    sources, labels = {}, {}
    for split, files in (("train", train), ("test", test)):
        paths = [Path(root, file) for file in files]
        counts = [count_records(path, size) for path in paths]
        parts = [
            np.memmap(path, np.uint8, "r", shape=(count, size))[:, label_bytes - 1]
            for path, count in zip(paths, counts, strict=True)
        ]
        for path, part in zip(paths, parts, strict=True):
            check_labels(part, class_names, path)
        sources[split] = Records(paths, counts, 0, size, label_bytes, (3, 32, 32), (1, 2, 0))
        labels[split] = np.concatenate(parts)
    return _dataset(root, class_names, sources, labels, split_seed)


def read_stl10(root: str, class_names: Sequence[str], split_seed: int) -> PixelRows:
    """Read STL-10 (Coates et al., AISTATS 2011): `root/stl10_binary/{train,test}_{X,y}.bin`.

    The images without labels and the ten folds of the training images are not used.

    Raises:
        UserError: a file is missing or malformed; the message names it.
    """
    folder = Path(root, "stl10_binary")
    size = 3 * 96 * 96
    sources, labels = {}, {}
    for split in ("train", "test"):
        path, of_labels = folder / f"{split}_X.bin", folder / f"{split}_y.bin"
        count = count_records(path, size)
        count_records(of_labels, 1)
        labels[split] = np.fromfile(of_labels, np.uint8).astype(np.int64) - 1
        check_labels(labels[split], class_names, of_labels, first=1, count=count)
        # An image lies there column by column.
        sources[split] = Records([path], [count], 0, size, 0, (3, 96, 96), (2, 1, 0))
    return _dataset(root, class_names, sources, labels, split_seed)


def read_svhn(root: str, class_names: Sequence[str], split_seed: int) -> PixelRows:
    """Read SVHN's cropped digits (Netzer et al., 2011): `root/{train,test}_32x32.mat`.

    Their label of the digit 0 is 10. The 531,131 further, easier training images are not used.

    Raises:
        UserError: a file is missing or malformed; the message names it.
    """
    sources, labels = {}, {}
    for split in ("train", "test"):
        path = Path(root, f"{split}_32x32.mat")
        try:
            shape = matlab_shapes(path).get("X", (0,))
            found = read_matlab(path, "y").reshape(-1).astype(np.int64)
        except FileNotFoundError:
            raise missing(path) from None
        except ValueError as error:
            raise UserError(f"the file {path} is damaged: {error}. {REMEDY}") from None
        labels[split] = np.where(found == 10, 0, found)
        check_labels(labels[split], class_names, path, count=shape[-1])
        sources[split] = MatlabPixels(path, "X")
    return _dataset(root, class_names, sources, labels, split_seed)


def read_mnist(root: str, class_names: Sequence[str], split_seed: int) -> PixelRows:
    """Read MNIST (LeCun et al., 1998), unpacked: `root/train-images-idx3-ubyte` and three more.

    Raises:
        UserError: a file is missing or malformed; the message names it.
    """
    sources, labels = {}, {}
    for split, name in (("train", "train"), ("test", "t10k")):
        path, of_labels = (
            Path(root, f"{name}-images-idx3-ubyte"),
            Path(root, f"{name}-labels-idx1-ubyte"),
        )
        count, height, width = read_idx_shape(path, 3)
        read_idx_shape(of_labels, 1)
        labels[split] = np.fromfile(of_labels, np.uint8, offset=8).astype(np.int64)
        check_labels(labels[split], class_names, of_labels, count=count)
        shape = (height, width)
        sources[split] = Records([path], [count], 16, height * width, 0, shape, (0, 1))
    return _dataset(root, class_names, sources, labels, split_seed)


def read_fer2013(root: str, class_names: Sequence[str], split_seed: int) -> PixelRows:
    """Read FER2013 (Goodfellow et al., ICONIP 2013): `root/fer2013.csv`, `emotion,pixels,Usage`.

    As in torchvision, both its test parts, `PublicTest` and `PrivateTest`, are the test split.

    Raises:
        UserError: the file is missing or malformed; the message names the line.
    """
    path = Path(root, "fer2013.csv")
    if not path.is_file():
        raise missing(path)
    split_of = {b"Training": "train", b"PublicTest": "test", b"PrivateTest": "test"}
    found: dict[str, list[tuple[int, int, int]]] = {"train": [], "test": []}
    with path.open("rb") as file:
        header = file.readline()
        if header.strip() != b"emotion,pixels,Usage":
            raise UserError(
                f"{path} must begin with emotion,pixels,Usage, not {header[:80]!r}. {REMEDY}"
            )
        start = len(header)
        for number, line in enumerate(file, start=2):
            emotion, _, rest = line.partition(b",")
            split = split_of.get(rest.rpartition(b",")[2].strip())
            if split is None or not emotion.isdigit() or int(emotion) >= len(class_names):
                raise UserError(
                    f"{path}, line {number}: it is no emotion from 0 to {len(class_names) - 1}, "
                    f"pixels and Usage. {REMEDY}"
                )
            found[split].append((int(emotion), number, start + len(emotion) + 1))
            start += len(line)
    sources, labels = {}, {}
    for split, some in found.items():
        if not some:
            raise UserError(f"{path} has no images to {split} on. {REMEDY}")
        labels[split], lines, starts = np.array(some, np.int64).T
        sources[split] = TextPixels(path, lines, starts, 48)
    return _dataset(root, class_names, sources, labels, split_seed)


def read_pcam(root: str, class_names: Sequence[str]) -> PixelRows:
    """Read PatchCamelyon (Veeling et al., MICCAI 2018), unpacked.

    `root/camelyonpatch_level_2_split_{train,valid,test}_{x,y}.h5`, whose valid split is val.

    Raises:
        UserError: a file is missing or malformed; the message names it.
    """
    sources, splits = {}, {}
    for split, name in zip(SPLITS, ("train", "valid", "test"), strict=True):
        path, of_labels = (
            Path(root, f"camelyonpatch_level_2_split_{name}_{part}.h5") for part in "xy"
        )
        shape, _ = read_hdf5(path, "x", values=False)
        if len(shape) != 4 or shape[3] != 3:
            raise UserError(f"{path}: x must be [N, H, W, 3], not {list(shape)}. {REMEDY}")
        labels = read_hdf5(of_labels, "y", values=True)[1].reshape(-1).astype(np.int64)
        check_labels(labels, class_names, of_labels, count=shape[0])
        sources[split] = HDF5Pixels(path, "x")
        splits[split] = Rows(split, np.arange(len(labels)), labels)
    return PixelRows(Path(root), list(class_names), splits, sources)


def read_gtsrb(root: str, class_names: Sequence[str], split_seed: int) -> ImageFiles:
    """Read GTSRB (Stallkamp et al., IJCNN 2011).

    `root/GTSRB/Training/<label>/<track>_<frame>.ppm`, the test images in
    `root/GTSRB/Final_Test/Images`, and their classes in `root/GT-final_test.csv`. The frames of a
    track show one sign, so whole tracks are held out as val.

    Raises:
        UserError: something is missing or malformed; the message names it.
    """
    top = Path(root)
    require_integer("dataset.split_seed", split_seed, least=0)
    folders = {f"{label:05d}": label for label in range(len(class_names))}
    train: list[Item] = []
    tracks: dict[tuple[int, str], int] = {}
    for folder, files in class_folders(top / "GTSRB/Training", ".ppm").items():
        if folder not in folders:
            raise UserError(
                f"{top / 'GTSRB/Training' / folder} is none of the {len(class_names)} classes "
                f"00000 to {len(class_names) - 1:05d}. {REMEDY}"
            )
        train += [Item(f"GTSRB/Training/{folder}/{file}", folders[folder]) for file in files]
    of_item = [
        tracks.setdefault((item.label, item.key.rpartition("_")[0]), len(tracks)) for item in train
    ]
    held_out = hold_out(
        np.array([label for label, _ in tracks], np.int64), VAL_OF_TRAIN, split_seed
    )
    splits = {
        "train": [item for item, track in zip(train, of_item, strict=True) if not held_out[track]],
        "val": [item for item, track in zip(train, of_item, strict=True) if held_out[track]],
        "test": _gtsrb_test(top, len(class_names)),
    }
    share = f"{VAL_OF_TRAIN:.0%} of each class's tracks of train"
    note = f"val: {share}, dataset.split_seed={split_seed}"
    return ImageFiles(top, list(class_names), splits, notes=[note])


def read_folders(root: str, splits: Mapping[str, str], class_names: Sequence[str]) -> ImageFiles:
    """Read Country211 or Rendered SST2 (Radford et al., ICML 2021): `root/<split>/<class>/*`.

    Args:
        root: the dataset's folder.
        splits: the folder below it of `train`, `val` and `test`.
        class_names: in the order of the class folders' names.

    Raises:
        UserError: a folder is missing, or the classes are others; the message names it.
    """
    top = Path(root)
    found = {split: class_folders(top / name, ".jpg", ".png") for split, name in splits.items()}
    known = list(next(iter(found.values())))
    for split, folders in found.items():
        if list(folders) != known or len(known) != len(class_names):
            raise UserError(
                f"{top / splits[split]} must hold a folder for each of the {len(class_names)} "
                f"classes, as the other splits do, and holds {len(folders)}. {REMEDY}"
            )
    items = {
        split: [
            Item(f"{splits[split]}/{folder}/{file}", label)
            for label, (folder, files) in enumerate(folders.items())
            for file in files
        ]
        for split, folders in found.items()
    }
    return ImageFiles(top, list(class_names), items)


def _dataset(
    root: str,
    class_names: Sequence[str],
    sources: Mapping[str, Pixels],
    labels: Mapping[str, NDArray[np.integer]],
    split_seed: int,
) -> PixelRows:
    """Hold out val from train."""
    require_integer("dataset.split_seed", split_seed, least=0)
    train, test = (
        Rows(split, np.arange(len(labels[split])), labels[split].astype(np.int64))
        for split in ("train", "test")
    )
    drawn = hold_out(train.labels, VAL_OF_TRAIN, split_seed)
    splits = {"train": train.chosen(~drawn), "val": train.chosen(drawn), "test": test}
    note = f"val: {VAL_OF_TRAIN:.0%} of each class of train, dataset.split_seed={split_seed}"
    return PixelRows(Path(root), list(class_names), splits, sources, [note])


def _gtsrb_test(top: Path, classes: int) -> list[Item]:
    path = top / "GT-final_test.csv"
    lines = csv.DictReader(io.StringIO(read_file(path, FETCH)), delimiter=";")
    items = []
    for row in lines:
        name, label = row.get("Filename"), row.get("ClassId")
        where = f"{path}, line {lines.line_num}"
        if not name or not label or not label.isdecimal() or "/" in name:
            raise UserError(f"{where}: it gives no Filename and ClassId. {REMEDY}")
        if int(label) >= classes:
            raise UserError(
                f"{where}: the label is {label}, and the {classes} classes are 0 to "
                f"{classes - 1}. {REMEDY}"
            )
        items.append(Item(f"GTSRB/Final_Test/Images/{name}", int(label)))
    if not items:
        raise UserError(f"{path} lists no image. {REMEDY}")
    return items
