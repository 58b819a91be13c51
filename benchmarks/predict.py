"""New pictures beside extraction of the same ones, and beside a plain loop over an exported file.

Zero-shot CLIP of random weights. `predict` decodes, encodes and classifies, and writes its answers
to a CSV file; extraction decodes and encodes, and writes features; both in the precision that
`auto` chooses. The plain loop is what a script for the file of `python -m src.export` does: open an
image, preprocess it as open_clip does, run ONNX Runtime in float32, and write the best class. It
takes an image at a time, and decodes none meanwhile.
"""

import csv
import shutil
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import extraction
from benchmarks.side_by_side import Figure, take_turns
from src.classifier.classifier import Classifier
from src.classifier.folder import About
from src.clip.model import FrozenClip
from src.clip.precision import AUTO, FLOAT32, resolve
from src.data.images import ImageFiles, Item
from src.export.description import describe
from src.export.formats import write_onnx
from src.export.graph import trace
from src.heads.zero_shot import ZeroShot
from src.hints import without_hints
from src.predict.pictures import Pictures
from src.predict.settings import Settings
from src.predict.work import classify

MODELS = ("RN50-quickgelu", "ViT-B-32-quickgelu")
CLASSES = 100
REPEATED = 2
"""How often each photograph is read in a round; it stays in the system's memory anyway."""
ROUNDS = 5
AT_LEAST = 0.95
"""The share of the rate of extraction that is left for the answers and their file."""


def figures() -> Iterator[Figure]:
    """Measure each model beside extraction, and beside its export."""
    extraction._quiet()
    precision = resolve(AUTO, extraction.trainer)
    with tempfile.TemporaryDirectory() as folder, without_hints():
        kind, dataset = extraction.photographs(Path(folder))
        items = [*dataset.splits["test"]] * REPEATED
        paths = [str(dataset.root / item.key) for item in items]
        for architecture in MODELS:
            clip = extraction._calibrated(FrozenClip.load(architecture, None), dataset)
            classifiers = {
                each: _classifier(clip, architecture, each) for each in (precision, FLOAT32)
            }
            exported = _classifier(clip, architecture, FLOAT32)
            session, copy = _session(exported, Path(folder, "exported.onnx")), deepcopy(clip)
            answers, store = Path(folder, "answers.csv"), Path(folder, "features")
            turns = take_turns(
                rounds=ROUNDS,
                extracted=partial(_extracted, dataset, items, copy, precision, store),
                plain=partial(_looped, session, classifiers[FLOAT32], paths, answers),
                **{
                    each: partial(_predicted, classifier, paths, answers)
                    for each, classifier in classifiers.items()
                },
            )
            rates = {way: f"{len(paths) / turns.median(way):.1f} images/s" for way in turns.seconds}
            what = f"{kind}, {architecture}"
            yield Figure(
                f"predict beside extraction, {what}, {precision}",
                rates[precision], rates["extracted"], turns.ratio("extracted", precision), AT_LEAST,
            )  # fmt: skip
            for each in classifiers:
                yield Figure(
                    f"predict in {each} beside a plain loop over ONNX Runtime in float32, {what}",
                    rates[each], rates["plain"], turns.ratio("plain", each), None,
                )  # fmt: skip
                same = np.mean(np.array(turns.results[each]) == np.array(turns.results["plain"]))
                yield Figure(
                    f"same class as that loop, random weights, {what}, {each}",
                    f"{same:.1%}", "", float(same), None,
                )  # fmt: skip


def _extracted(
    dataset: ImageFiles, items: list[Item], clip: FrozenClip, precision: str, store: Path
) -> None:
    shutil.rmtree(store, ignore_errors=True)
    extraction._extracted(dataset, items, clip, precision, store)


def _classifier(clip: FrozenClip, architecture: str, precision: str) -> Classifier:
    torch.manual_seed(0)
    names = [f"class {number}" for number in range(CLASSES)]
    text = torch.randn(CLASSES, clip.projection.weight.shape[1])
    about = About(
        method="zero_shot", settings={}, view_weights=None, class_names=names, prompts=[],
        logit_scale=clip.logit_scale, backbone=architecture, architecture=architecture,
        pretrained=None, weights="random", precision=precision, inputs=["global"], adapted_on={},
    )  # fmt: skip
    return Classifier(about, ZeroShot(text, clip.logit_scale), {}, deepcopy(clip))


def _predicted(classifier: Classifier, paths: list[str], output: Path) -> list[str]:
    """Classify as the command does, once it has its classifier and the list of images."""
    settings = Settings(
        model=str(output.parent), images=str(output.parent), output=str(output),
        batch_size=extraction.BATCH,
    )  # fmt: skip
    classify(classifier, Pictures(paths, [None] * len(paths), "same"), settings, progress=False)
    return _classes(output)


def _looped(session: Any, classifier: Classifier, paths: list[str], output: Path) -> list[str]:
    """Classify as a script does that was written for the exported file."""
    preprocess = classifier.clip.preprocess
    (given,) = session.get_inputs()
    with output.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "class", "probability"])
        for path in paths:
            with Image.open(path) as image:
                pixels = preprocess(image.convert("RGB"))[None].numpy()
            (probability,) = session.run(None, {given.name: pixels})[0]
            best = int(probability.argmax())
            rows.writerow([path, classifier.class_names[best], probability[best]])
    return _classes(output)


def _classes(output: Path) -> list[str]:
    with output.open(newline="") as file:
        return [row["class"] for row in csv.DictReader(file)]


def _session(classifier: Classifier, path: Path) -> Any:
    """Export a classifier, which cannot be used afterwards, and open it as others do."""
    import onnxruntime

    about = describe(classifier, "float32")
    write_onnx(trace(classifier, "float32", computes=False), about, path)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
