import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.data import coop, few_shot
from src.data.images import Item
from src.errors import UserError
from tests.shared import SHARED, needs_shared

PUBLISHED = {
    "eurosat": ("split_zhou_EuroSAT.json", "2750"),
    "dtd": ("split_zhou_DescribableTextures.json", "images"),
    "oxford_pets": ("split_zhou_OxfordPets.json", "images"),
}


@needs_shared
@pytest.mark.parametrize("dataset", PUBLISHED)
def test_reproduces_every_published_selection_order_included(dataset, tmp_path):
    split_file, images = PUBLISHED[dataset]
    (tmp_path / split_file).write_text((SHARED / "coop/splits" / split_file).read_text())
    splits = coop.read(str(tmp_path), images, split_file).splits
    published = sorted((SHARED / "coop/fewshot" / dataset).glob("shot_*-seed_*.json"))
    assert len(published) == 15
    for path in published:
        shots, seed = (int(part.split("_")[1]) for part in path.stem.split("-"))
        drawn = few_shot.sample(splits["train"], splits["val"], shots, seed)
        for split, items in zip(("train", "val"), drawn, strict=True):
            expected = json.loads(path.read_text())[split]["data"]
            assert [(f"/{images}/{item.key}", item.label) for item in items] == [
                ("/" + row["impath"].split("/", 3)[3], row["label"]) for row in expected
            ], path.name


items = st.lists(st.integers(0, 5), min_size=1, max_size=60).map(
    lambda labels: [Item(str(number), label) for number, label in enumerate(labels)]
)


@given(train=items, val=items, shots=st.integers(1, 20), seed=st.integers(0, 2**32))
def test_every_class_gives_its_share_and_nothing_twice(train, val, shots, seed):
    def count(rows, label):
        return sum(item.label == label for item in rows)

    labels = {item.label for item in train}
    if shots > max(count(train, label) for label in labels):
        with pytest.raises(UserError, match=rf"shots={shots} is more than the data holds"):
            few_shot.sample(train, val, shots, seed)
        return
    support, validation = few_shot.sample(train, val, shots, seed)
    assert len(set(support)) == len(support)
    assert set(support) <= set(train)
    assert set(validation) <= set(val)
    assert (support, validation) == few_shot.sample(train, val, shots, seed)
    for label in labels:
        assert count(support, label) == min(shots, count(train, label))
    for label in {item.label for item in val}:
        assert count(validation, label) == min(shots, 4, count(val, label))


def test_one_generator_serves_both_splits():
    train = [Item(f"train{number}", 0) for number in range(9)]
    val = [Item(f"val{number}", 0) for number in range(9)]
    generator = random.Random(0)
    expected = (generator.sample(train, 2), generator.sample(val, 2))
    assert few_shot.sample(train, val, 2, 0) == expected


def test_as_many_validation_items_as_shots_where_it_is_asked_for():
    train, val = ([Item(f"{name}{n}", n % 2) for n in range(40)] for name in ("train", "val"))
    few, many = (few_shot.sample(train, val, 16, 0, most)[1] for most in (4, 16))
    assert [len(few), len(many)] == [8, 32]


def by_numpy(label, k, p, seed, allow_missing_class):
    """Follow SS-Text's `balance_split` step by step; return the rows it keeps."""
    total = len(np.unique(label)) * k
    counts = []
    for one in np.unique(label):
        count = round(total * p[one])
        if not allow_missing_class and count < 1:
            count = 1
        counts.append(count)
    excess = np.sum(counts) - total
    while excess > 0:
        counts[np.argmax(counts)] -= 1
        excess -= 1
    rows = []
    for one in np.unique(label):
        index = np.where(label == one)[0]
        np.random.seed(seed)
        np.random.shuffle(index)
        rows.extend(index[: counts[one]])
    return rows


@given(
    sizes=st.lists(st.integers(1, 60), min_size=2, max_size=12),
    shots=st.integers(1, 8),
    seed=st.integers(0, 2**32 - 1),
    imbalance=st.sampled_from(["relaxed", "realistic"]),
)
def test_imbalanced_sampling_is_that_of_ss_texts_release(sizes, shots, seed, imbalance):
    label = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    train = [Item(str(row), int(one)) for row, one in enumerate(label)]
    if shots * len(sizes) > len(train):
        with pytest.raises(UserError, match="items, and the data holds"):
            few_shot.support(train, shots, seed, imbalance)
        return
    drawn = few_shot.support(train, shots, seed, imbalance)
    share = np.array(sizes) / len(train)
    expected = by_numpy(label, shots, share, seed, allow_missing_class=imbalance == "realistic")
    assert [int(item.key) for item in drawn] == expected
    assert len(drawn) <= shots * len(sizes)
    if imbalance == "relaxed":
        assert {item.label for item in drawn} == set(range(len(sizes)))
