"""A source of features that notes what is missing from the store, in place of extracting it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from torch import Tensor

from src.clip.model import FrozenClip
from src.clip.weights import WEIGHTS_NAMES
from src.data.images import Item
from src.features.image_batches import BLACK
from src.features.image_crops import (
    BYTES_PER_LABEL,
    BYTES_PER_SHARD,
    BYTES_PER_VALUE,
    ImageCrops,
)
from src.features.image_features import ImageFeatures
from src.features.plan import Plan
from src.features.point_clouds import PointCloudFeatures
from src.quiet import quiet
from src.store.entry import FeatureEntry, read_manifest, status
from src.store.shards import DamageError, shard_count, shard_rows
from src.store.store import FeatureStore
from src.store.writer import EntryWriter, find_pending

BYTES_PER_MANIFEST, BYTES_PER_FLOAT = 800, 4
"""Of a manifest without its lines for shards, about; and of float32, which text features have."""
UNKNOWN = {"logit_scale": "1.0", "logit_bias": "0.0"}
"""What stands for that which is recorded of the backbone beside text."""


@dataclass(frozen=True)
class PlannedEntry(FeatureEntry):
    """An entry that stands for one which is not there: its labels are right, all else is 0.

    Rows of features have a single number, so that they take no memory.
    """

    label: Tensor

    def read(self, names: Sequence[str], start: int, stop: int) -> dict[str, Tensor]:
        zeros = torch.zeros(stop - start, 1)
        return {name: self.label[start:stop] if name == "label" else zeros for name in names}


@dataclass(frozen=True)
class Need:
    """An entry of the store that jobs need.

    Attributes:
        key: what names it.
        entry: it, or what stands for it.
        missing: how many of its rows are not in the store.
        rows_per_shard: of the entry.
        source: whose it is.
        plan: how it would be extracted; None for text, and for what is there.
    """

    key: Mapping[str, Any]
    entry: FeatureEntry
    missing: int
    rows_per_shard: int
    source: "Planned"
    plan: Plan | None = None

    @property
    def is_text(self) -> bool:
        return bool(self.key["split"] == "text")

    @property
    def group(self) -> tuple[str, ...]:
        """What stands in a row of the table: the dataset, the split, the backbone, the features."""
        names = ", ".join(self.key["features"])
        return str(self.key["dataset"]), str(self.key["split"]), str(self.key["backbone"]), names

    @property
    def inputs(self) -> int:
        """How many images, crops, point clouds or prompts it is made from."""
        return len(self.source.prompts) if self.is_text else len(self.entry)

    @property
    def to_encode(self) -> int:
        """How many of these are still to be encoded."""
        return self.inputs if self.is_text and self.missing else self.missing

    def extract(self) -> None:
        """Put it into the store, as the run does that asks for it first."""
        if self.plan is None:
            self.source.made.encode(self.key)
        else:
            self.source.made.extract(self.key, self.plan)

    def bytes_missing(self, shapes: Mapping[str, Sequence[int]]) -> int:
        """Compute what is still to be stored, given the shape of a row of each feature."""
        if not self.missing:
            return 0
        if self.is_text:
            row = len(self.key["features"]) * BYTES_PER_FLOAT * shapes["global"][-1]
        else:
            numbers = sum(math.prod(shapes[name]) for name in self.key["features"])
            row = BYTES_PER_VALUE * numbers + BYTES_PER_LABEL
        shards = shard_count(self.missing, self.rows_per_shard)
        return self.missing * row + shards * BYTES_PER_SHARD + BYTES_PER_MANIFEST


class PlannedStore(FeatureStore):
    """A store that is read, and into which nothing is written."""

    def __init__(self, root: Path, source: "Planned", needs: dict[Path, Need]) -> None:
        """Note in `needs`, by their folders, the entries that `source` asks for."""
        super().__init__(root)
        self.source, self.needs = source, needs

    def open(self, key: Mapping[str, Any]) -> FeatureEntry | None:
        folder = self.folder(key)
        if folder not in self.needs:
            manifest = _sound_manifest(folder)
            if manifest is None:
                return None
            step = int(manifest["rows_per_shard"])
            self.needs[folder] = Need(key, FeatureEntry(folder, manifest), 0, step, self.source)
        return self.needs[folder].entry

    def open_written(self, key: Mapping[str, Any]) -> FeatureEntry | None:
        return self.open(key)  # what another process is writing is not waited for

    def note(self, key: Mapping[str, Any], label: Tensor, plan: Plan | None) -> None:
        """Note an entry that would be made, with its rows' labels; one of text has no plan."""
        folder, rows = self.folder(key), len(label)
        rows_per_shard = rows if plan is None else plan.rows_per_shard
        pending: Sequence[int] = range(shard_count(rows, rows_per_shard))
        if folder.exists():  # an extraction that was interrupted goes on
            pending = find_pending(folder, rows, rows_per_shard)
        missing = sum(len(shard_rows(shard, rows, rows_per_shard)) for shard in pending)
        tensors = dict.fromkeys([*key["features"], *([] if plan is None else ["label"])])
        manifest = {"key": key, "rows": rows, "tensors": tensors, "made_by": UNKNOWN}
        entry = PlannedEntry(folder, manifest, label)
        self.needs[folder] = Need(key, entry, missing, rows_per_shard, self.source, plan)


class Planned(ImageFeatures):
    """The features of a dataset, of which those that are not in the store are planned only."""

    made: ImageFeatures
    """What it stands for."""
    store: PlannedStore

    @classmethod
    def like(cls, source: Any, needs: dict[Path, Need]) -> "Planned":
        """Do as `source` does, which a run would have, but extract nothing."""
        kind = PlannedClouds if isinstance(source, PointCloudFeatures) else cls
        planned = kind.__new__(kind)
        vars(planned).update(vars(source))
        planned.made = source
        planned.store = PlannedStore(source.store.root, planned, needs)
        return planned

    @property
    def prompts(self) -> list[str]:
        """Those of all classes."""
        return [prompt for of_class in self.class_prompts for prompt in of_class]

    @property
    def blank(self) -> Any:
        """What is encoded in place of an image that cannot be decoded; None: nothing is."""
        return BLACK if self.skip_damaged else None

    @property
    def root(self) -> Path:
        """The folder of the store."""
        return self.store.root

    @property
    def processes(self) -> int:
        """How many share an extraction."""
        return len(self.devices)

    @property
    def trainer(self) -> Callable[..., Trainer]:
        """What makes a Trainer as an extraction has it, without a progress bar."""
        return partial(super().trainer, progress=False)

    def backbone(self) -> tuple[FrozenClip, bool]:
        """Load the backbone, and say whether its weights are here.

        Where they would have to be fetched first, it has random ones, which are as fast.
        """
        with quiet():
            here = self.pretrained is None or is_here(self.architecture, self.pretrained)
            return self.loader(self.pretrained if here else None)(), here

    def plan_crops(self, drawn: ImageCrops, items: Sequence[Item]) -> Plan:
        def describe(writer: EntryWriter, kind: str) -> str:  # planned text has no true width
            return self.made.plan_crops(drawn, items).describe(writer, kind)

        return super().plan_crops(drawn, items)._replace(describe=describe)

    def encode(self, key: Mapping[str, Any]) -> None:
        self.store.note(key, torch.zeros(self.text_rows(key)), None)

    def extract(self, key: Mapping[str, Any], plan: Plan) -> None:
        label = torch.tensor([crop.item.label for crop in plan.crops])
        self.store.note(key, label, plan)


class PlannedClouds(Planned, PointCloudFeatures):
    """The same of point clouds."""


def _sound_manifest(folder: Path) -> Mapping[str, Any] | None:
    """Read the manifest of an entry whose shards are there, without reading these."""
    try:
        manifest = read_manifest(folder)
        if manifest is not None and all(
            status(folder / shard["file"])["size"] == shard["size"] for shard in manifest["shards"]
        ):
            return manifest
    except DamageError:
        pass
    return None


def is_here(architecture: str, tag: str) -> bool:
    """Say whether the weights that open_clip has under a tag, or a file, need no fetching.

    A tag that is unknown counts as here: loading it says what is wrong.
    """
    import open_clip
    from huggingface_hub import try_to_load_from_cache

    published = {} if Path(tag).is_file() else open_clip.get_pretrained_cfg(architecture, tag)
    # open_clip itself looks on the Hub first.
    if place := published.get("hf_hub"):
        repository, _, name = place.rpartition("/")
        names = {*WEIGHTS_NAMES, *([name, f"{name[:-4]}.safetensors"] if name else [])}
        return any(isinstance(try_to_load_from_cache(repository, one), str) for one in names)
    if url := published.get("url"):
        return (Path("~/.cache/clip").expanduser() / Path(url).name).is_file()
    return True
