"""CALIP's attention over chosen test images, as pictures: `attention_images=[0,5,17]`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import get_class
from omegaconf import DictConfig, ListConfig

from src.data.images import ImageDataset
from src.data.point_clouds import PointClouds
from src.errors import UserError

if TYPE_CHECKING:
    from src.features.datamodule import FeatureDataModule
    from src.methods.base import Method
    from src.results.attention import ClassMap


def check(cfg: DictConfig, dataset: Any) -> None:
    """Check that `dataset` and the method have what `cfg.attention_images` asks for.

    Raises:
        UserError: the method has no attention over positions, the dataset no images, or the rows
            are not rows of its test split, or would not be those of its features.
    """
    rows = cfg.attention_images
    told = f"attention_images={rows}"
    if isinstance(rows, ListConfig) and not rows:
        return
    if not isinstance(rows, ListConfig) or any(type(row) is not int for row in rows):
        raise UserError(f"{told}: give rows of the test split, as attention_images=[0,5,17].")
    from src.heads.base import Attends

    if not issubclass(get_class(cfg.method.head._target_), Attends):
        raise UserError(
            f"{told} draws CALIP's attention, and method={cfg.method.name} has none: choose "
            "method=calip, calip_fs or calip_fs_paper."
        )
    if isinstance(dataset, PointClouds) or not hasattr(dataset, "load"):
        raise UserError(
            f"{told} draws over images, and dataset={cfg.dataset.name} has none: choose a dataset "
            "of images."
        )
    if cfg.on_bad_image == "skip":
        raise UserError(
            f"{told} counts all test images, and on_bad_image=skip leaves some out: remove those "
            "from the dataset, and choose on_bad_image=stop."
        )
    images = len(dataset.splits["test"])
    if outside := [row for row in rows if not 0 <= row < images]:
        raise UserError(
            f"{told}: {cfg.dataset.name} has {images:,} test images, so there is no row "
            f"{outside[0]}. Give rows from 0 to {images - 1}."
        )


def draw(cfg: DictConfig, dataset: Any, method: "Method", data: "FeatureDataModule") -> None:
    """Write `attention/<row>.png` below the run's output for each of `cfg.attention_images`.

    Pictures of an earlier run in the same folder are removed.
    """
    from src.results import attention

    folder = Path(cfg.paths.output) / attention.FOLDER
    for earlier in folder.glob("*.png"):
        earlier.unlink(missing_ok=True)
    for row in cfg.attention_images:
        image = dataset.load(dataset.splits["test"][row])
        attention.draw(image, _maps(dataset, method, data, row), folder / f"{row}.png")


def _maps(
    dataset: ImageDataset, method: "Method", data: "FeatureDataModule", row: int
) -> list["ClassMap"]:
    import torch

    from src.features.datamodule import FeatureBatches
    from src.results.attention import class_maps

    batch = FeatureBatches(data.test, method.inputs, batch_size=1)[row]
    with torch.no_grad():
        probabilities = method(batch)[0].softmax(dim=-1).numpy()
        before, after = (maps[0].numpy() for maps in method.head.attention(batch["spatial"]))
    return class_maps(dataset.class_names, probabilities, before, after, int(batch["label"]))
