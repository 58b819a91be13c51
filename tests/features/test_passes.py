"""The drawing of orders and tasks of the test images."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from src.features import passes
from src.features.passes import Passes

LABEL = torch.tensor([0] * 12 + [1] * 30 + [3] * 7 + [2] * 51)
ORDERS = {
    "shuffled": passes.shuffled,
    "by_class": passes.by_class,
    "dirichlet": lambda label, seed, number: passes.dirichlet(label, seed, number, 0.1),
    "task": lambda label, seed, number: passes.task(label, seed, number, 20, (2, 3)),
}


def runs(label):
    """Count the runs of equal labels."""
    return 1 + int((label.diff() != 0).sum())


@pytest.mark.parametrize("name", ORDERS)
def test_the_seed_and_the_number_decide_everything(name):
    draw = ORDERS[name]
    assert torch.equal(draw(LABEL, 1, 5), draw(LABEL, 1, 5))
    drawn = [draw(LABEL, seed, number) for seed in (1, 2) for number in range(5)]
    for one, other in itertools.combinations(drawn, 2):
        assert not torch.equal(one, other)


@pytest.mark.parametrize("name", ["shuffled", "by_class", "dirichlet"])
@given(label=st.lists(st.integers(0, 5), min_size=1, max_size=60), number=st.integers(0, 99))
def test_an_order_shows_each_image_once(name, label, number):
    order = ORDERS[name](torch.tensor(label), 1, number)
    assert order.dtype == torch.int64
    assert sorted(order.tolist()) == list(range(len(label)))


def test_shuffled_orders_mix_classes_and_those_by_class_do_not():
    for number in range(5):
        assert runs(LABEL[passes.shuffled(LABEL, 1, number)]) > 20
        assert runs(LABEL[passes.by_class(LABEL, 1, number)]) == 4
    firsts = {int(LABEL[passes.by_class(LABEL, 1, number)[0]]) for number in range(20)}
    assert firsts == {0, 1, 2, 3}
    one, other = (passes.by_class(LABEL, 1, number) for number in range(2))
    of_class = [order[LABEL[order] == 2] for order in (one, other)]
    assert not torch.equal(*of_class)  # the images of a class are shuffled too


def test_a_low_concentration_keeps_classes_together_and_a_high_one_spreads_them():
    label = torch.arange(10).repeat_interleave(100)
    mixed = {
        concentration: sum(
            runs(label[passes.dirichlet(label, 1, number, concentration)]) for number in range(5)
        )
        for concentration in (1e-3, 0.1, 1e3)
    }
    assert mixed[1e-3] < mixed[0.1] < mixed[1e3]
    slots = passes.dirichlet(label, 1, 0, 1e6, slots=10).split(100)
    for slot in slots:  # ten images of each class in each slot, or nearly
        assert label[slot].bincount(minlength=10).min() >= 9


@given(st.integers(0, 99), st.integers(1, 40), st.integers(1, 6), st.integers(0, 3))
def test_a_task_has_images_of_few_classes(number, size, least, more):
    rows = passes.task(LABEL, 1, number, size, (least, least + more))
    assert len(set(rows.tolist())) == len(rows) <= size
    present = LABEL[rows].unique()
    assert len(present) <= min(least + more, 4)
    if len(rows) < size:  # the classes drawn have no more
        assert len(rows) == sum(int((one == LABEL).sum()) for one in present)


def test_numbers_of_classes_are_equally_likely_and_so_are_images():
    label = torch.arange(8).repeat_interleave(50)
    tasks = [passes.task(label, 1, number, 100, (2, 5)) for number in range(400)]
    classes = torch.tensor([len(label[rows].unique()) for rows in tasks])
    assert classes.unique().tolist() == [2, 3, 4, 5]
    assert classes.bincount()[2:].min() > 70
    shown = torch.cat(tasks).bincount(minlength=len(label))
    assert shown.min() > 0.5 * shown.float().mean() > 0.2 * shown.max()


def test_passes_count_their_images():
    assert Passes([torch.arange(3), torch.arange(5)], 2).images == 8
