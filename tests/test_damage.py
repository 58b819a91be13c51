"""Every file that is read, damaged in many ways: a message, or nothing changes; never a hang.

To add a file: write it into `tmp_path`, and give its path and how it is read. `told` is what the
reader may raise. A file that carries no checksum, as a user's own table, may read as another one
where a byte was changed: for those, `checked` is false.
"""

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from src.clip import weights
from src.data import coop, fgvc_aircraft, folder, imagenet, modelnet, scanobjectnn
from src.data.prompts import read_prompts
from src.errors import UserError
from src.features import from_tip_adapter, precomputed
from src.files import ROOT
from src.methods import checkpoint
from src.results.frame import load
from src.results.outcome import Outcome
from src.results.record import Result
from src.store.store import FeatureStore
from tests import replica, replica_3d
from tests.results.test_frame import run
from tests.results.test_outcome import random_outcome
from tests.results.test_record import made_up
from tests.store.test_store import KEY, fill

LIMIT_S = 20


class File(NamedTuple):
    """A file, whole, and how it is read.

    Attributes:
        path: where it lies.
        read: reads it; what it returns can be compared.
        checked: whether each change of its content is noticed.
    """

    path: Path
    read: Callable[[], Any]
    checked: bool = False


def result(root: Path) -> File:
    made_up().write(root)
    return File(root / "result.json", lambda: Result.read(root / "result.json"), checked=True)


def outcome(root: Path) -> File:
    random_outcome(0).write(root)
    path = root / "outcome.safetensors"
    return File(path, lambda: Outcome.read(path)._asdict(), checked=True)


def of_a_run(name: str) -> Callable[[Path], File]:
    def make(root: Path) -> File:
        run(root / "sweep/job")
        run(root / "sweep/other", seed=1)
        (root / "sweep/multirun.yaml").write_text("hydra: {overrides: {task: [a=1]}}")
        (root / "sweep/failed/.hydra").mkdir(parents=True)
        (root / "sweep/failed/failure.json").write_text('{"message": "m", "command": "c"}')
        return File(root / "sweep" / name, lambda: load([root / "sweep"]))

    return make


def of_the_store(name: str) -> Callable[[Path], File]:
    def make(root: Path) -> File:
        store = FeatureStore(root)
        fill(store)
        (path,) = root.glob(f"*/*/{name}")

        def read() -> Any:
            if store.open(KEY) is None:  # made again, as a run does
                fill(store)
            entry = store.open(KEY)
            return {name: entry.tensor(name).tolist() for name in ("spatial", "label")}

        return File(path, read, checked=True)

    return make


def trained(root: Path) -> File:
    found = {
        "method": "coop", "dataset": "digits", "backbone": "tiny", "shots": 1, "seed": 1,
        "selection": "fixed", "hyperparameters": {}, "validation_accuracy": None,
    }  # fmt: skip
    weights = {"head.context": torch.arange(8.0)}
    content = {"state_dict": weights, checkpoint.RESULT: found, checkpoint.CLASS_NAMES: ["a", "b"]}
    path = root / "checkpoint.ckpt"
    torch.save(content | {checkpoint.CHECKSUM: checkpoint._checksum(weights)}, path)

    def read() -> Any:
        return checkpoint.read(path, "coop").weights["head.context"].tolist()

    return File(path, read, checked=True)


def of_a_dataset(name: str, file: str, read: Callable[[str], Any]) -> Callable[[Path], File]:
    def make(root: Path) -> File:
        top = replica.make(name, root, per_class=3)
        return File(top / file, lambda: (dataset := read(str(top))).splits | {"": dataset.root})

    return make


def image(root: Path) -> File:
    for name in "ab":
        (root / name).mkdir()
        for number in range(3):
            Image.new("RGB", (9, 9), (40 * number, 9, 9)).save(root / name / f"{number}.png")

    def read() -> Any:
        dataset = folder.read(str(root), None, None, 0)
        return [dataset.load(item).tobytes() for items in dataset.splits.values() for item in items]

    return File(root / "a/0.png", read)


def table(root: Path) -> File:
    image(root)
    lines = [f"{name}/{number}.png,{name}" for name in "ab" for number in range(3)]
    (root / "list.csv").write_text("\n".join(["path,label", *lines]))
    return File(root / "list.csv", lambda: folder.read(None, str(root / "list.csv"), None, 0))


def class_names(file: str, content: str) -> Callable[[Path], File]:
    def make(root: Path) -> File:
        (root / "images").mkdir()
        image(root / "images")
        (root / file).write_text(content)
        images, path = str(root / "images"), str(root / file)
        return File(root / file, lambda: folder.read(images, None, path, 0).class_names)

    return make


def prompts(root: Path) -> File:
    path = root / "prompts.json"
    path.write_text('{"a": ["A letter."], "b": ["Another letter."]}')
    return File(path, lambda: read_prompts(str(path), ["a", "b"]))


def of_own_features(file: str) -> Callable[[Path], File]:
    def make(root: Path) -> File:
        (root / "classes.json").write_text('["a", "b"]')
        (root / "meta.json").write_text('{"logit_scale": 100, "backbone": "mine"}')
        save_file({"text": torch.ones(2, 4)}, root / "text.safetensors")
        save_file({"global": torch.ones(2, 4), "label": torch.arange(2)}, root / "test.safetensors")

        def read() -> Any:
            features = precomputed.read(str(root))
            rows = features.split("test", ["global"]).rows(0, 2)
            return features.class_names, features.text.tolist(), rows["global"].tolist()

        return File(root / file, read)

    return make


def of_a_tip_adapter_cache(file: str) -> Callable[[Path], File]:
    def make(root: Path) -> File:
        torch.save(torch.ones(2, 4), root / "test_f.pt")
        np.save(root / "text.npy", np.ones((2, 4), np.float32))
        read = from_tip_adapter._read_text if file == "text.npy" else from_tip_adapter._load
        further = () if file == "text.npy" else (2,)
        return File(root / file, lambda: read(root / file, *further).tolist())

    return make


def of_own_weights(file: str) -> Callable[[Path], File]:
    def make(root: Path) -> File:
        for path in (ROOT / "src/clip/tiny").iterdir():
            (root / path.name).write_bytes(path.read_bytes())

        def read() -> Any:
            architecture = f"local-dir:{root}"
            model, *_ = weights.load_model(architecture, None)
            total = sum(parameter.double().sum() for parameter in model.parameters())
            return weights.weights_id(architecture, None), float(total)

        return File(root / file, read)

    return make


def modelnet_file(file: str) -> Callable[[Path], File]:
    def make(root: Path) -> File:
        top = replica_3d.modelnet(root, points=8)

        def read() -> Any:
            clouds = modelnet.read(str(top), 6, 8)
            return [clouds.load(item) for item in clouds.splits["test"]]

        return File(top / file, read)

    return make


def scan_file(root: Path) -> File:
    top = replica_3d.scanobjectnn(root, points=8)
    (path,) = top.glob("main_split/test_objectdataset.h5")

    def read() -> Any:
        clouds = scanobjectnn.read(str(top), "obj_bg", 6, 8)
        return [clouds.load(item) for item in clouds.splits["test"]]

    return File(path, read)


def read_dtd(top: str) -> Any:
    return coop.read(top, "images", "split_zhou_DescribableTextures.json")


FILES = {
    "result.json": result,
    "outcome.safetensors": outcome,
    "config.yaml": of_a_run("job/.hydra/config.yaml"),
    "overrides.yaml": of_a_run("job/.hydra/overrides.yaml"),
    "multirun.yaml": of_a_run("multirun.yaml"),
    "failure.json": of_a_run("failed/failure.json"),
    "manifest.json": of_the_store("manifest.json"),
    "shard": of_the_store("shard-00001.safetensors"),
    "checkpoint": trained,
    "CoOp's split": of_a_dataset("dtd", "split_zhou_DescribableTextures.json", read_dtd),
    "classnames.txt": of_a_dataset("imagenet", "classnames.txt", imagenet.read),
    "variants.txt": of_a_dataset("fgvc_aircraft", "variants.txt", fgvc_aircraft.read),
    "image": image,
    "table": table,
    "class names": class_names("n.json", '{"a": "ant", "b": "bee"}'),
    "lines of class names": class_names("n.txt", "a ant\nb bee\n"),
    "prompts": prompts,
    "classes.json": of_own_features("classes.json"),
    "meta.json": of_own_features("meta.json"),
    "text features": of_own_features("text.safetensors"),
    "test features": of_own_features("test.safetensors"),
    "Tip-Adapter's features": of_a_tip_adapter_cache("test_f.pt"),
    "text of numpy": of_a_tip_adapter_cache("text.npy"),
    "weights": of_own_weights("model.safetensors"),
    "open_clip_config.json": of_own_weights("open_clip_config.json"),
    "ModelNet40's clouds": modelnet_file("ply_data_test0.h5"),
    "shape_names.txt": modelnet_file("shape_names.txt"),
    "test_files.txt": modelnet_file("test_files.txt"),
    "ScanObjectNN's clouds": scan_file,
}


def flip(path: Path, where: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(where * (len(content) - 1))] ^= 4
    path.write_bytes(content)


def replace(path: Path, make: Callable[[], object]) -> None:
    path.unlink()
    make()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "half of it": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "without its last byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    **{f"flipped at {at:.0%}": lambda path, at=at: flip(path, at) for at in (0, 0.03, 0.5, 0.9, 1)},
    "another type": lambda path: path.write_text('[1, {"a": null}, [[2]]]'),
    "another value": lambda path: path.write_text("3"),
    "deep": lambda path: path.write_text("[" * 100_000),
    "not text": lambda path: path.write_bytes(b"\xff\xfe\x00\xd8"),
    "empty": lambda path: path.write_bytes(b""),
    "a folder": lambda path: replace(path, path.mkdir),
    "a link loop": lambda path: replace(path, lambda: path.symlink_to(path.name)),
    "missing": lambda path: path.unlink(),
}


@contextmanager
def no_hang() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise AssertionError(f"it took more than {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_a_message_or_changes_nothing(tmp_path, caplog, name, damage):
    file = FILES[name](tmp_path)
    whole = json.dumps(file.read(), default=repr)
    caplog.clear()
    DAMAGES[damage](file.path)
    with no_hang():
        try:
            found = json.dumps(file.read(), default=repr)
        except UserError as error:
            assert file.path.name in str(error) or file.path.parent.name in str(error)
            assert "\n" not in str(error)
            return
    assert found == whole or caplog.messages or not file.checked
