"""ScanObjectNN (Uy et al., ICCV 2019): scanned objects of 15 classes, in its HDF5 files.

The main split of the published `h5_files`. The files hold no names: their order is confirmed in
the authors' FAQ (hkust-vgd/scanobjectnn, training_data/README.md).
"""

from pathlib import Path

from src.data.point_clouds import HDF5Clouds, hold_out, read_rows, used
from src.errors import UserError

CLASSES = (
    "bag",
    "bin",
    "box",
    "cabinet",
    "chair",
    "desk",
    "display",
    "door",
    "shelf",
    "table",
    "bed",
    "pillow",
    "sink",
    "sofa",
    "toilet",
)

FILES = {
    "pb_t50_rs": "main_split/{}_objectdataset_augmentedrot_scale75.h5",
    "obj_bg": "main_split/{}_objectdataset.h5",
    "obj_only": "main_split_nobg/{}_objectdataset.h5",
}
"""The files of each variant: perturbed boxes (the hardest), objects with background, objects only.

11,416 + 2,882 clouds for training and testing, and 2,309 + 581 of either of the others.
"""

_REMEDY = (
    "It is in h5_files.zip, which its authors send to whoever accepts their terms at "
    "https://hkust-vgd.github.io/scanobjectnn/."
)


def read(root: str, variant: str, views: int, points: int) -> HDF5Clouds:
    """Read the labels of one variant; a fifth of each class of the training objects becomes `val`.

    Args:
        root: the folder `h5_files`.
        variant: a key of `FILES`.
        views: how many depth maps of each cloud, 6 or 10.
        points: how many points of each cloud are used, the first ones; all, if there are fewer.

    Raises:
        UserError: there is no such variant, or a file is missing or malformed.
    """
    if variant not in FILES:
        raise UserError(f"dataset.variant={variant} is none of {', '.join(FILES)}.")
    folder = Path(root)
    files = {part: [FILES[variant].format(part)] for part in ("training", "test")}
    published, available = read_rows(folder, files, CLASSES, _REMEDY)
    train, val = hold_out(published["training"], CLASSES)
    splits = {"train": train, "val": val, "test": published["test"]}
    return HDF5Clouds(CLASSES, splits, views, used(points, available), folder)
