"""ModelNet40 and ModelNet10 (Wu et al., CVPR 2015), as PointNet's HDF5 files of 2,048 points.

The layout of `modelnet40_ply_hdf5_2048` (Qi et al., CVPR 2017): `shape_names.txt` names one class
per line in the order of the labels; `train_files.txt` and `test_files.txt` list HDF5 files. It has
9,840 of ModelNet40's 9,843 training shapes, and all 2,468 test shapes.
"""

from collections.abc import Sequence
from pathlib import Path

from src.data.images import Item
from src.data.point_clouds import HDF5Clouds, hold_out, read_rows, used
from src.data.text_files import read_lines
from src.errors import UserError

_REMEDY = "Move its folder away and run `python -m src.prepare dataset=modelnet40`."


def read(root: str, views: int, points: int, classes: Sequence[str] | None = None) -> HDF5Clouds:
    """Read the lists below `root`, and the labels that the HDF5 files hold; no points yet.

    Of a listed path, as `data/modelnet40_ply_hdf5_2048/ply_data_train0.h5`, the file's name counts:
    it is looked for in `root`. A fifth of each class of the training shapes becomes `val`.

    Args:
        root: the dataset's folder.
        views: how many depth maps of each cloud, 6 or 10.
        points: how many points of each cloud are used, the first ones; all, if there are fewer.
        classes: the classes to keep, in the order of their labels; all of them by default.

    Raises:
        UserError: a file is missing or malformed, or there is no class of such a name.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise UserError(
            f"the dataset folder {root} is missing. Set paths.data (or DATA_ROOT) to the folder "
            "that holds it, or fetch it by `python -m src.prepare dataset=modelnet40`."
        )
    names = read_lines(folder / "shape_names.txt", _REMEDY)
    if len(set(names)) < len(names):
        raise UserError(f"{folder / 'shape_names.txt'} names a class twice. {_REMEDY}")
    kept = names if classes is None else classes
    for name in kept:
        if name not in names:
            raise UserError(f"{folder / 'shape_names.txt'} names no class {name!r}. {_REMEDY}")
    label = {names.index(name): number for number, name in enumerate(kept)}
    files = {split: _files(folder / f"{split}_files.txt") for split in ("train", "test")}
    rows, available = read_rows(folder, files, names, _REMEDY)
    published = {
        split: [Item(item.key, label[item.label]) for item in items if item.label in label]
        for split, items in rows.items()
    }
    train, val = hold_out(published["train"], kept)
    splits = {"train": train, "val": val, "test": published["test"]}
    return HDF5Clouds(kept, splits, views, used(points, available), folder)


def _files(path: Path) -> list[str]:
    return [Path(line).name for line in read_lines(path, _REMEDY)]
