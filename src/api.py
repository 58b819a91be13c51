"""Calipers from Python: adapt CLIP to some pictures, or load what a run left, and use it.

    from src.api import fit, load, read_folder

    classifier = fit(*read_folder("photos/train"), method="tip_adapter", backbone="vit_b32")
    classifier.predict(["new.jpg"])

Nothing here needs Hydra or changes anything outside of what it returns.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng

from src.classifier.classifier import Classifier, load
from src.data.folder import Labelled
from src.data.folder import labelled as read_folder
from src.data.given import GivenImages, Picture
from src.data.images import Item
from src.errors import UserError
from src.features.image_features import ImageFeatures
from src.features.precomputed import Rows
from src.heads.base import answers_alone
from src.hints import without_hints
from src.job import assembly, calibrating
from src.job.clock import Clock
from src.job.composing import compose_plainly
from src.job.describing import describe, given_to
from src.job.stages import adapt
from src.job.trainer import make_trainer
from src.store.store import FeatureStore

__all__ = ["Classifier", "Labelled", "fit", "load", "read_folder"]

SEED = "PL_GLOBAL_SEED"
"""The environment variable in which Lightning leaves the seed."""
NOTHING = Rows({"global": torch.empty(0, 1)})


def fit(
    images: Sequence[Picture],
    labels: Sequence[int | str],
    class_names: Sequence[str],
    method: str = "tip_adapter",
    backbone: str = "rn50",
    *,
    validation: tuple[Sequence[Picture], Sequence[int | str]] | None = None,
    templates: Sequence[str] = ("a photo of a {}.",),
    settings: Mapping[str, Any] | None = None,
    seed: int = 1,
    features: str | Path | None = None,
    progress: bool = False,
) -> Classifier:
    """Adapt CLIP to labelled images: all of them are the support set.

    What happens is what `python -m src.run` does with a support set, except that nothing is tested.

    Args:
        images: paths, images of Pillow's, or arrays uint8 `[h, w]` or `[h, w, 3]`; methods without
            a support set need none.
        labels: of each image, its position in `class_names` or its class's name.
        class_names: as they go into the templates, in the order of the probabilities.
        method: one of `python -m src.methods`.
        backbone: one of `conf/backbone`; another by `settings`, as
            `{"backbone.architecture": "ViT-B-32", "backbone.pretrained": "weights.safetensors"}`.
        validation: labelled images by which the method's settings are chosen; None: they stay as
            they are by default.
        templates: prompt templates, in which `{}` stands for the class.
        settings: of the configuration, by key, as `{"method.training.epochs": 10}`, or
            `{"calibrate": "temperature"}`, which needs `validation`.
        seed: decides the order and the start of a training.
        features: a folder in which features are kept, so that other methods need not compute them
            again; None: they are not kept.
        progress: show progress bars.

    Returns:
        The classifier, as `load` gives that of a run.

    Raises:
        UserError: something of the above is missing or wrong.
    """
    names = list(class_names)
    with _nothing_left() as scratch:
        support = _items(images, labels, names, first=0)
        held_out, of_validation = validation or ((), ())
        val = _items(held_out, of_validation, names, first=len(images))
        # As many as the largest class has: then the sampler takes all images.
        shots = max(Counter(item.label for item in support).values(), default=1)
        values = {"shots": shots, "seed": seed, "paths.output": str(scratch), **(settings or {})}
        dataset = {"name": "given", "templates": list(templates)}
        selection = None if validation is None else "val"
        cfg = compose_plainly(method, backbone, selection, dataset, values)
        assembly.check_method(cfg)
        source = ImageFeatures(
            name=cfg.dataset.name,
            dataset=GivenImages(
                [*images, *held_out], names, {"train": support, "val": val, "test": ()}
            ),
            prompts=assembly.make_class_prompts(cfg, names),
            backbone=cfg.backbone.name,
            architecture=cfg.backbone.architecture,
            pretrained=cfg.backbone.pretrained,
            preprocessing=assembly.preprocessing_of(cfg),
            precision=cfg.backbone.precision,
            batch_size=cfg.backbone.batch_size,
            store=FeatureStore(scratch if features is None else Path(features)),
            trainer=partial(make_trainer, cfg, logger=False, progress=progress),
        )
        head = assembly.make_head(cfg, source)
        if not answers_alone(head):
            raise UserError(
                f"method={method} looks at test images together, or at crops of them, and there is "
                "no classifier of single pictures: choose another one."
            )
        shown = assembly.make_support(cfg, source, head)
        module = assembly.make_method(cfg, head, len(names))
        data = assembly.make_data(cfg, source, module.inputs, shown, NOTHING)
        training = cfg.method.training
        epochs = 1 if training is None else training.epochs
        trainer = make_trainer(cfg, logger=False, progress=progress, max_epochs=epochs)
        calibrated_on = calibrating.images_for(cfg, source, module.inputs)
        adapt(trainer, module, data, None, Clock())
        if calibrated_on is not None:
            calibrating.fit(cfg, module, calibrated_on)
        adapted_on = {
            "images": len(support), "validation_images": len(val), "shots": shots, "seed": seed,
            "selection": cfg.selection.name,
        }  # fmt: skip
        about = describe(cfg, source, module, adapted_on)
        return Classifier(about, head.cpu(), given_to(module, source), source.clip)


def _items(
    images: Sequence[Picture], labels: Sequence[int | str], names: Sequence[str], first: int
) -> list[Item]:
    """Make items of the images, numbered from `first` on, with positions in `names` as labels."""
    if len(images) != len(labels):
        raise UserError(f"there are {len(images)} images and {len(labels)} labels: give one each.")
    known = {name: label for label, name in enumerate(names)}
    items = []
    for row, given in enumerate(labels):
        label = known.get(given) if isinstance(given, str) else int(given)
        if label is None or not 0 <= label < len(names):
            raise UserError(
                f"label {row} is {given!r}: give a position in class_names, from 0 to "
                f"{len(names) - 1}, or one of its names."
            )
        items.append(Item(str(first + row), label))
    return items


@contextmanager
def _nothing_left() -> Iterator[Path]:
    """Give a folder for the time being; afterwards random numbers and Lightning are as before."""
    before = os.environ.get(SEED)
    with tempfile.TemporaryDirectory() as scratch, isolate_rng(), without_hints():
        try:
            yield Path(scratch)
        finally:
            if before is None:
                os.environ.pop(SEED, None)
            else:
                os.environ[SEED] = before
