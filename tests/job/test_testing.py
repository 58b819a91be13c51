"""Streams, whole sets and small tasks of test images: whole runs on features made up here."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from src import api
from src.config import compose, config_hash, protocol_of
from src.data import few_shot
from src.errors import UserError
from src.features import passes
from src.features.passes import Passes
from src.features.precomputed import Item, Rows
from src.heads.ape import Ape
from src.heads.base import ContractError
from src.heads.multi_view import MultiView
from src.heads.oga import Oga
from src.heads.support import Support
from src.heads.tda import Tda
from src.heads.transclip import TransClip
from src.heads.transclip_fs import TransClipFs
from src.heads.zero_shot import ZeroShot
from src.job import testing
from src.job.assembly import check_method
from src.job.recording import zero_shot_accuracy
from src.methods.base import Method
from src.results import formats, frame, summary, summary_tables
from src.results.outcome import Outcome
from src.results.record import Result
from tests.cli import calipers, jobs, result
from tests.heads.contract import settings_of
from tests.methods.metrics import Accuracy

CLASSES, WIDTH, SCALE = 6, 16, 50.0
COUNTS = (4, 10, 13, 21, 30, 22)


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> Path:
    """Make features of six classes of different sizes, with a drift away from their texts."""
    folder = tmp_path_factory.mktemp("features")
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(CLASSES, WIDTH, generator=generator)
    centre = text + 0.8 * torch.randn(CLASSES, WIDTH, generator=generator)

    def split(counts):
        label = torch.arange(CLASSES).repeat_interleave(torch.tensor(counts))
        noise = torch.randn(len(label), WIDTH, generator=generator)
        return {"global": (centre[label] + 1.2 * noise).half(), "label": label}

    (folder / "classes.json").write_text(json.dumps(list("abcdef")))
    (folder / "meta.json").write_text(json.dumps({"logit_scale": SCALE, "backbone": "mine"}))
    save_file({"text": text}, folder / "text.safetensors")
    for name, counts in (("train", [4] * CLASSES), ("val", [5] * CLASSES), ("test", COUNTS)):
        save_file(split(counts), folder / f"{name}.safetensors")
    return folder


def adapted(folder, features, *arguments):
    done = calipers(
        folder, "dataset=precomputed", f"dataset.path={features}", "logger=none", *arguments
    )
    assert done.returncode == 0, done.stderr
    return done


def material(features):
    test, text = load_file(features / "test.safetensors"), load_file(features / "text.safetensors")
    return test["global"].float(), test["label"], text["text"]


def of_zero_shot(image, text):
    return (normalize(image, dim=-1) @ normalize(text, dim=-1).T).argmax(dim=1)


def accuracy(logits, label):
    return 100 * (logits.argmax(dim=1) == label).double().mean().item()


@pytest.mark.parametrize(
    ("method", "make", "batch"),
    [
        ("tda", lambda text: Tda(text, SCALE, alpha=2.0, beta=5.0), 1),
        ("oga", lambda text: Oga(text, SCALE), 32),
    ],
)
def test_a_stream_is_passed_once_for_each_order(tmp_path, features, method, make, batch):
    told = adapted(tmp_path, features, f"method={method}", "stream.orders=12", "seed=3").stdout
    image, label, text = material(features)
    head, found, first = make(text), [], None
    for number in range(12):
        order = passes.shuffled(label, 3, number)
        head.reset()
        logits = torch.cat([head(rows) for rows in image[order].split(batch)])
        found.append(accuracy(logits, label[order]))
        if number == 0:
            first = torch.empty(len(label), dtype=torch.int64)
            first[order] = logits.argmax(dim=1)
    record = result(tmp_path)
    assert record["accuracy"] == pytest.approx(sum(found) / 12)
    worst = sum(sorted(found)[:2]) / 2
    assert record["metrics"]["worst_tenth_accuracy"] == pytest.approx(worst)
    assert (record["passes"], record["shots"], record["partial_test"]) == (12, 0, False)
    assert record["n_test"] == len(label)
    assert record["saw_test_images"]
    assert record["zero_shot"] == pytest.approx(
        100 * (of_zero_shot(image, text) == label).double().mean().item()
    )
    assert record["class_balance"] == {"classes": [6, 6], "images": [4, 30]}
    outcome = Outcome.read(tmp_path / "output/outcome.safetensors")
    assert torch.equal(torch.from_numpy(outcome.prediction), first)
    assert "‡" in told
    assert "4 to 30" in told
    assert f"{record['zero_shot']:.2f}" in told


def test_the_seed_decides_everything(tmp_path, features):
    found = {}
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        adapted(tmp_path / name, features, "method=tda", "stream.orders=1", f"seed={seed}")
        found[name] = (tmp_path / name / "output/outcome.safetensors").read_bytes()
    assert found["one"] == found["again"] != found["other"]


@pytest.mark.parametrize("method", ["tda", "oga"])
def test_how_many_features_are_read_at_once_changes_nothing(tmp_path, features, method):
    for size in (7, 256):
        folder = tmp_path / str(size)
        adapted(folder, features, f"method={method}", f"batch_size={size}", "stream.batch_size=3")
    one, other = (Outcome.read(tmp_path / str(s) / "output/outcome.safetensors") for s in (7, 256))
    assert (one.prediction == other.prediction).all()
    assert result(tmp_path / "7")["metrics"] == pytest.approx(result(tmp_path / "256")["metrics"])
    assert result(tmp_path / "7")["hyperparameters"]["batch_size"] == 3


def test_other_orders_are_a_protocol_of_their_own(tmp_path, features):
    orders = ("shuffled", "by_class", "dirichlet")
    for order in orders:
        adapted(tmp_path / order, features, "method=tda", f"stream={order}", "stream.orders=3")
    runs = frame.load([tmp_path]).frame
    assert set(runs["protocol"]) == {"all_classes", "stream_by_class", "stream_dirichlet"}
    image, label, text = material(features)
    head, found = Tda(text, SCALE, alpha=2.0, beta=5.0), []
    for number in range(3):
        order = passes.dirichlet(label, 1, number, 0.1)
        head.reset()
        found.append(accuracy(head(image[order]), label[order]))
    assert result(tmp_path / "dirichlet")["accuracy"] == pytest.approx(sum(found) / 3)


def test_a_set_is_answered_for_at_once(tmp_path, features):
    adapted(tmp_path, features, "method=transclip", "batch_size=7")
    image, label, text = material(features)
    record = result(tmp_path)
    assert record["accuracy"] == pytest.approx(accuracy(TransClip(text, SCALE)(image), label))
    assert (record["passes"], record["saw_test_images"]) == (0, True)
    assert "worst_tenth_accuracy" not in record["metrics"]


@pytest.mark.parametrize("selection", ["val_few_shot", "fixed"])
def test_validation_images_choose_by_the_test_images_that_are_nearest(
    tmp_path, features, selection
):
    adapted(tmp_path, features, "method=transclip_fs", "shots=4", f"selection={selection}")
    image, label, text = material(features)
    head = TransClipFs(text, SCALE, gamma=0.02)
    train, val = (load_file(features / f"{name}.safetensors") for name in ("train", "val"))
    head.prepare(Support({"global": train["global"][None]}, train["label"]))
    if selection == "val_few_shot":  # four of the five of each class, whichever the sampler took
        drawn = few_shot_validation(train["label"], val["label"])
        head.validate_on({"global": val["global"][drawn]}, val["label"][drawn])
    expected = accuracy(head(image), label)
    record = result(tmp_path)
    assert record["accuracy"] == pytest.approx(expected)
    assert record["hyperparameters"]["gamma"] == head.gamma
    assert (record["selection"], record["shots"]) == (selection, 4)


def few_shot_validation(train, val):
    items = [[Item(row, int(one)) for row, one in enumerate(label)] for label in (train, val)]
    _, drawn = few_shot.sample(*items, 4, 1, 4)
    return torch.tensor([item.row for item in drawn])


TASKS = ("protocol=tasks", "protocol.tasks=20", "protocol.images=30", "protocol.classes=[2,3]")


def test_small_tasks_are_answered_for_one_by_one(tmp_path, features):
    adapted(tmp_path / "set", features, "method=transclip", *TASKS)
    adapted(tmp_path / "alone", features, "method=zero_shot", *TASKS)
    adapted(tmp_path / "stream", features, "method=tda", *TASKS)
    image, label, text = material(features)
    tasks = [passes.task(label, 1, number, 30, (2, 3)) for number in range(20)]
    head = TransClip(text, SCALE)
    found = [accuracy(head(image[rows]), label[rows]) for rows in tasks]
    right = (of_zero_shot(image, text) == label).double()
    without = 100 * sum(right[rows].mean().item() for rows in tasks) / 20
    record = result(tmp_path / "set")
    assert record["accuracy"] == pytest.approx(sum(found) / 20)
    worst = sum(sorted(found)[:2]) / 2
    assert record["metrics"]["worst_tenth_accuracy"] == pytest.approx(worst)
    assert record["zero_shot"] == pytest.approx(without)
    assert (record["protocol"], record["passes"]) == ("tasks", 20)
    counts = [label[rows].unique(return_counts=True)[1] for rows in tasks]
    sizes = torch.cat(counts)
    assert record["class_balance"] == {
        "classes": [min(map(len, counts)), max(map(len, counts))],
        "images": [int(sizes.min()), int(sizes.max())],
    }
    assert result(tmp_path / "alone")["accuracy"] == pytest.approx(without)
    assert result(tmp_path / "alone")["zero_shot"] is None
    assert result(tmp_path / "stream")["passes"] == 20


def test_an_interrupted_test_is_told(tmp_path, features):
    adapted(tmp_path, features, "method=tda", "stream.orders=2", "+trainer.limit_test_batches=1")
    assert result(tmp_path)["partial_test"]


def test_seeds_of_a_stream_are_runs_of_their_own(tmp_path, features):
    done = calipers(
        tmp_path, "-m", "method=tda,transclip,zero_shot", "seed=1,2", "stream.orders=2",
        "dataset=precomputed", f"dataset.path={features}", "logger=none",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len({*jobs(tmp_path)}) == 4  # the seed is nothing to the others
    cells = summary.summarise(frame.load([tmp_path]).frame).set_index("label")["cell"]
    assert cells["tda"].seeds == 2
    assert cells["transclip"].seeds == cells["zero_shot"].seeds == 1
    assert str(cells["transclip"]).endswith(f"[{cells['zero_shot'].mean:.2f}]")
    assert cells["zero_shot"].zero_shot is None
    text = formats.markdown(
        summary_tables.by_shots(summary.summarise(frame.load([tmp_path]).frame))
    )
    assert "zero-shot CLIP with the same prompts on the same images" in text


def test_new_classes_are_a_stream_too(tmp_path, features):
    adapted(tmp_path, features, "method=tda", "protocol=base_to_new", "stream.orders=3")
    image, label, text = material(features)
    new = label >= 3
    head, found = Tda(text[3:], SCALE, alpha=2.0, beta=5.0), []
    for number in reversed(range(3)):
        order = passes.shuffled(label[new], 1, number)
        head.reset()
        logits = head(image[new][order])
        found.append(accuracy(logits, label[new][order] - 3))
    assert result(tmp_path)["metrics"]["new_accuracy"] == pytest.approx(sum(found) / 3)
    outcome = Outcome.read(tmp_path / "output/new_classes/outcome.safetensors")
    confidence = torch.empty(len(order))
    confidence[order] = logits.softmax(dim=1).amax(dim=1)
    torch.testing.assert_close(torch.from_numpy(outcome.confidence), confidence)


@pytest.mark.parametrize("key", ["calibrate=temperature", "conformal=lac"])
@pytest.mark.parametrize("method", ["tda", "transclip"])
def test_probabilities_that_depend_on_other_images_are_not_calibrated(method, key):
    cfg = compose([f"method={method}", "selection=val", key])
    with pytest.raises(UserError, match=f"{key}: the probabilities of method={method} depend on"):
        check_method(cfg)


def test_a_yaml_says_that_its_head_sees_a_stream():
    cfg = compose(["method=tda"])
    cfg.method.stream = None
    with pytest.raises(ContractError, match=r"Tda\.sees is 'stream'"):
        check_method(cfg)


def test_the_stream_is_nothing_to_other_methods():
    plain = [config_hash(compose(["method=zero_shot", *more])) for more in ([], ["seed=2"])]
    other = compose(["method=zero_shot", "stream=by_class", "stream.orders=99"])
    assert {*plain, config_hash(other)} == {plain[0]}
    assert protocol_of(other) == "all_classes"
    streams = [[], ["seed=2"], ["stream.orders=3"], ["stream=by_class"], ["stream.batch_size=2"]]
    hashes = {config_hash(compose(["method=tda", *more])) for more in streams}
    assert len(hashes) == len(streams)
    assert config_hash(compose(["method=tda", "shots=4"])) in hashes


def test_there_is_no_classifier_of_images_together(tmp_path):
    with pytest.raises(UserError, match="method=transclip looks at test images together"):
        api.fit([], [], ["a", "b"], method="transclip", backbone="tiny")
    run = tmp_path / "run"
    done = calipers(run, "method=tda", "dataset=digits", "stream.orders=1", "logger=none")
    assert done.returncode == 0, done.stderr
    assert not (run / "classifier").exists()


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [([50.0], 50.0), ([3.0, 1.0, 2.0], 1.0), ([*range(100)], 4.5), ([*range(11)], 0.5)],
)
def test_the_worst_tenth_is_of_one_pass_at_least(accuracies, expected):
    assert testing.worst_tenth(accuracies) == expected


def test_records_of_earlier_versions_have_no_passes():
    old = Path(__file__).parent.parent / "fixtures/results_version_1"
    (path, *_) = old.rglob("result.json")
    record = Result.read(path)
    assert (record.passes, record.class_balance, record.balance) == (0, {}, "")
    assert math.isfinite(record.accuracy)


def test_zero_shot_beside_is_that_of_weighted_depth_maps_and_needs_nothing_of_other_heads():
    generator = torch.Generator().manual_seed(0)
    text, clouds = (torch.randn(*shape, generator=generator) for shape in ((3, 8), (40, 2, 8)))
    label = torch.arange(40) % 3
    rows = Rows({"global": clouds, "label": label})
    several = MultiView(ZeroShot(text, 10.0), [1.0, 3.0])
    found = zero_shot_accuracy(Method(several, Accuracy()), text, rows, None)
    assert found == pytest.approx(accuracy(several(clouds), label))
    shown = Passes([torch.arange(10), torch.arange(5, 40)], 40)
    right = (several(clouds).argmax(dim=1) == label).double()
    expected = 50 * (right[:10].mean() + right[5:].mean()).item()
    assert zero_shot_accuracy(Method(several, Accuracy()), text, rows, shown) == pytest.approx(
        expected
    )
    images = Rows({"global": clouds[:, 0], "label": label})
    settings = settings_of(compose(["method=ape"]).method.head)
    head = Ape(text, 10.0, **settings)  # whose `weights` are others
    found = zero_shot_accuracy(Method(head, Accuracy()), text, images, None)
    assert found == pytest.approx(accuracy(ZeroShot(text, 10.0)(clouds[:, 0]), label))
