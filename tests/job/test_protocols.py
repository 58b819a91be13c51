"""What runs adapt to and are tested on: base and new classes, other datasets, imbalance."""

import json
from collections import Counter

import pytest
import torch
from hydra.utils import get_class
from safetensors.numpy import load_file
from safetensors.torch import save_file
from torch.nn.functional import normalize

from src.clip.model import FrozenClip
from src.clip.text_tower import TextTower
from src.config import compose, config_hash
from src.data import digits
from src.data.few_shot import support
from src.files import CONFIG_DIR, ROOT
from src.heads.base import Head
from src.results.protocols import harmonic_mean
from src.results.record import Result
from tests.caltech101 import CLASSES
from tests.cli import calipers, jobs, refusal, result, run
from tests.shared import SHARED, needs_shared

ON_FEATURES = [
    method
    for method in sorted(path.stem for path in (CONFIG_DIR / "method").glob("*.yaml"))
    for head in [get_class(compose([f"method={method}"]).method.head["_target_"])]
    if head.inputs == ("global",) and not {"text_tower", "projection", "n_views"} & set(head.given)
    # What looks at test images and learns nothing answers for new classes as for its own.
    if head.sees == "image" or not head.carries_over
]
"""Methods that run on precomputed global features, and learn from labelled ones or not at all."""
OF_FEATURES = ("clip_adapter", "mean_similarity", "rla", "zero_shot")
"""Those among them whose learning is not bound to classes."""


def test_the_hash_of_a_run_knows_any_other_protocol():
    cfg = compose(["method=tip_adapter"])
    others = [
        compose(["method=tip_adapter", f"protocol={one}"]) for one in ("base_to_new", "imbalanced")
    ]
    others.append(
        compose(["method=tip_adapter", "protocol=imbalanced", "protocol.imbalance=realistic"])
    )
    assert len({config_hash(one) for one in (cfg, *others)}) == 4


@pytest.mark.parametrize(("base", "new", "h"), [(69.34, 74.22, 71.70), (80, 0, 0), (0, 0, 0)])
def test_the_harmonic_mean_is_that_of_the_papers(base, new, h):
    assert harmonic_mean(base, new) == pytest.approx(h, abs=0.005)


@pytest.fixture(scope="module")
def caltech(tmp_path_factory):
    """Convert the real features of 28 classes."""
    folder, source = tmp_path_factory.mktemp("caltech"), SHARED / "clip_features"
    (folder / "classes.json").write_text(json.dumps(CLASSES))
    done = run(
        "src.features.from_tip_adapter", source / "caltech101_vit_b32", folder / "features",
        "--classes", folder / "classes.json", "--shots", 16,
        "--text", source / "text_vit_b32/lvis_names.npy",
        "--text-names", source / "text_vit_b32/lvis_names.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "features"


@pytest.fixture(scope="module")
def divided(caltech, tmp_path_factory):
    """Run every method that can on 14 base and 14 new classes."""
    folder = tmp_path_factory.mktemp("divided")
    done = calipers(
        folder, "-m", f"method={','.join(ON_FEATURES)}", "dataset=precomputed", "shots=4",
        f"dataset.path={caltech}", "protocol=base_to_new", "selection=fixed", "logger=none",
        "++method.training.epochs=3",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = [Result.read(job / "result.json") for job in jobs(folder)]
    return dict(zip(ON_FEATURES, results, strict=True))


@pytest.fixture(scope="module")
def plain(caltech):
    """Compute zero-shot CLIP's accuracy on the first and on the second half of the classes."""
    from safetensors.torch import load_file as load

    test, text = (
        load(caltech / "test.safetensors"),
        load(caltech / "text.safetensors")["text"].float(),
    )
    accuracies = []
    for classes in (list(range(14)), list(range(14, 28))):
        right = []
        for feature, label in zip(test["global"].float(), test["label"].tolist(), strict=True):
            if label in classes:
                scores = [float(feature @ normalize(text[one], dim=0)) for one in classes]
                right.append(classes[scores.index(max(scores))] == label)
        accuracies.append(100 * sum(right) / len(right))
    return accuracies


@needs_shared
def test_zero_shot_on_base_and_new_classes_is_a_plain_computation(caltech, plain, tmp_path):
    base, new = plain
    done = calipers(
        tmp_path, "method=zero_shot", "dataset=precomputed", f"dataset.path={caltech}",
        "protocol=base_to_new", "logger=none",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = result(tmp_path)["metrics"]
    assert found["base_accuracy"] == pytest.approx(base, abs=1e-3)
    assert found["new_accuracy"] == pytest.approx(new, abs=1e-3)
    assert found["harmonic_mean"] == pytest.approx(2 * base * new / (base + new), abs=1e-3)
    assert found["accuracy"] == found["base_accuracy"]


@pytest.mark.slow
@needs_shared
@pytest.mark.parametrize("method", ON_FEATURES)
def test_every_method_answers_for_new_classes(divided, plain, method):
    found = divided[method]
    assert (found.protocol, found.n_classes) == ("base_to_new", 14)
    assert found.metrics["accuracy"] > 80
    _, new = plain
    if method not in (*OF_FEATURES, "gda"):  # bound to its classes: zero-shot CLIP
        assert found.metrics["new_accuracy"] == pytest.approx(new, abs=1e-3)
    assert found.metrics["new_accuracy"] > new - 1


def test_a_context_learned_on_base_classes_is_read_by_new_ones(tmp_path):
    done = calipers(
        tmp_path, "method=coop", "shots=2", "method.training.epochs=2", "protocol=base_to_new",
        "method.support.crops=2", "logger=none", "save_predictions=true",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    context = torch.load(tmp_path / "output/checkpoint.ckpt", weights_only=True)["state_dict"]
    context = context["head.context"]
    clip = FrozenClip.load(f"local-dir:{ROOT}/src/clip/tiny", None)
    data = digits.read()
    tower, new = TextTower(clip), list(data.class_names)[5:]
    embeddings, ends = tower.embed(new, len(context))
    prefix = torch.cat([embeddings[0, :1], context])
    with torch.no_grad():
        text = normalize(tower(prefix, embeddings[:, 1 + len(context) :], ends), dim=1)
        items = [item for item in data.splits["test"] if item.label >= 5]
        images = torch.stack([clip.preprocess(data.load(item)) for item in items])
        logits = normalize(clip.encode_image(images), dim=1) @ text.T
    found = load_file(tmp_path / "output/new_classes/outcome.safetensors")
    assert found["label"].tolist() == [item.label - 5 for item in items]
    same = (found["prediction"] == logits.argmax(dim=1).numpy()).mean()
    assert same > 0.99  # features pass through float16
    right = (logits.argmax(dim=1) == torch.tensor(found["label"])).float().mean()
    assert result(tmp_path)["metrics"]["new_accuracy"] == pytest.approx(100 * right, abs=0.5)


@pytest.mark.slow
def test_point_clouds_have_base_and_new_classes_too(tmp_path):
    small = "dataset.per_class={train: 2, val: 1, test: 2}"
    done = calipers(
        tmp_path, "-m", "method=pointclip,tip_adapter,gda", "dataset=solids", "shots=1",
        small, "protocol=base_to_new", "++method.training.epochs=2",
        "++method.support.copies=1", "dataset.points=256", "logger=none",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for job in jobs(tmp_path):
        assert 0 <= Result.read(job / "result.json").metrics["new_accuracy"] <= 100


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """Adapt to digits, and test on letters."""
    folder = tmp_path_factory.mktemp("elsewhere")
    done = calipers(
        folder, "-m", "method=zero_shot,tip_adapter,clip_adapter", "protocol=cross_dataset",
        "dataset=digits", "eval_dataset=[letters]", "shots=2", "++method.training.epochs=2",
        "logger=none",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return jobs(folder)


def test_other_datasets_are_tested_on_their_own_classes(elsewhere, tmp_path):
    for job in elsewhere:
        own, found = (
            Result.read(job / name) for name in ("result.json", "eval/letters/result.json")
        )
        assert (found.protocol, found.dataset, found.adapted_on) == (
            "cross_dataset", "letters", "digits",
        )  # fmt: skip
        assert (found.n_classes, own.n_classes) == (26, 10)
        assert found.hyperparameters == own.hyperparameters
    done = calipers(tmp_path, "method=zero_shot", "dataset=letters", "logger=none")
    assert done.returncode == 0, done.stderr
    there = Result.read(elsewhere[0] / "eval/letters/result.json")
    assert there.metrics == pytest.approx(result(tmp_path)["metrics"])


def test_what_is_bound_to_classes_is_zero_shot_elsewhere(elsewhere):
    zero_shot, tip_adapter, clip_adapter = (
        load_file(job / "eval/letters/outcome.safetensors") for job in elsewhere
    )
    assert (tip_adapter["confidence"] == zero_shot["confidence"]).all()
    assert (clip_adapter["confidence"] != zero_shot["confidence"]).any()


@pytest.mark.parametrize("imbalance", ["relaxed", "realistic"])
def test_an_imbalanced_support_set_is_drawn_by_frequency(tmp_path, imbalance):
    method = "tip_adapter" if imbalance == "relaxed" else "clip_adapter"
    done = calipers(
        tmp_path, f"method={method}", "protocol=imbalanced", f"protocol.imbalance={imbalance}",
        "shots=3", "method.support.crops=null", "selection=fixed", "logger=none",
        *(["method.training.epochs=1"] if method == "clip_adapter" else []),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert result(tmp_path)["protocol"] == f"imbalanced_{imbalance}"
    if method == "tip_adapter":
        state = load_file(tmp_path / "output/classifier/head.safetensors")
        drawn = support(digits.read().splits["train"], 3, 1, imbalance)
        assert Counter(state["state.label"].tolist()) == Counter(item.label for item in drawn)


def few_classes(folder, count):
    for split in ("train", "val", "test"):
        label = torch.arange(count).repeat(4)
        content = {"global": torch.randn(len(label), 4), "label": label}
        save_file(content, folder / f"{split}.safetensors")
    save_file({"text": torch.randn(count, 4)}, folder / "text.safetensors")
    (folder / "classes.json").write_text(json.dumps([f"class {n}" for n in range(count)]))
    (folder / "meta.json").write_text('{"logit_scale": 100}')
    return ("dataset=precomputed", f"dataset.path={folder}", "protocol=base_to_new", "logger=none")


MISTAKES = [
    ("protocol=base_to_new eval_dataset=[letters]", "tests on its own dataset"),
    ("protocol=imbalanced eval_dataset=[letters]", "tests on its own dataset"),
    ("protocol=cross_dataset eval_dataset=[] dataset=digits", "tests on other datasets"),
    ("protocol=shift eval_dataset=[] dataset=digits", "tests on other datasets"),
    ("protocol=imbalanced protocol.imbalance=true", "give relaxed or realistic"),
    ("protocol.imbalance=relaxed", "is no way of protocol=all_classes"),
    ("protocol.name=mine", "protocol.name=mine is unknown: choose protocol=all_classes"),
    ("protocol=base_to_now", "called 'base_to_now'. Did you mean base_to_new?"),
    (
        "protocol=imbalanced protocol.imbalance=realistic method=tip_adapter",
        "method=tip_adapter needs an image of every class",
    ),
    ("protocol=shift dataset=digits eval_dataset=[letters]", "protocol=cross_dataset none must"),
]


@pytest.mark.parametrize(("typed", "message"), MISTAKES)
def test_a_mistake_is_one_message(tmp_path, typed, message):
    assert message in refusal(tmp_path, *typed.split(), "logger=none")
    assert not (tmp_path / "features").exists()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_too_few_classes_are_not_divided(tmp_path, count):
    typed = few_classes(tmp_path, count)
    assert f"has {count}: it takes four or more" in refusal(tmp_path, *typed)


def test_of_an_odd_number_of_classes_the_larger_half_is_base(tmp_path):
    done = calipers(tmp_path, "method=tip_adapter", "shots=1", *few_classes(tmp_path, 5))
    assert done.returncode == 0, done.stderr
    found = result(tmp_path)
    assert (found["n_classes"], found["n_test"]) == (3, 12)
    new = load_file(tmp_path / "output/new_classes/outcome.safetensors")
    assert sorted({*new["label"].tolist()}) == [0, 1]


def test_only_gda_has_a_rule_of_its_own_for_new_classes():
    own_rule = {"Gda", "MultiView"}
    for path in (CONFIG_DIR / "method").glob("*.yaml"):
        head = get_class(compose([f"method={path.stem}"]).method.head["_target_"])
        assert (head.for_classes is Head.for_classes) == (head.__name__ not in own_rule)


@pytest.mark.parametrize(("selection", "per_class"), [("val_few_shot", 4), ("val_shots", 6)])
def test_as_many_validation_images_as_the_selection_says(tmp_path, selection, per_class):
    """With 6 shots, what calibrates is what the selection looks at."""
    done = calipers(
        tmp_path, "method=zero_shot", f"selection={selection}", "shots=6",
        "calibrate=temperature", "logger=none",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert result(tmp_path)["calibration"]["images"] == 10 * per_class
