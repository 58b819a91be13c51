import pytest
import torch

from src.features.datamodule import ChosenRows, FeatureBatches, ShuffledCrops
from src.features.precomputed import Rows


class Drawn:
    """Images without labels that are made on request; nothing is stored."""

    def __len__(self):
        return 5

    def rows(self, start, stop):
        return {"image": torch.stack([torch.full((3, 2, 2), row) for row in range(start, stop)])}


def test_images_that_are_stored_nowhere_come_in_batches():
    batches = FeatureBatches(Drawn(), ["image"], batch_size=2)
    found = [batches[index] for index in range(len(batches))]
    assert [batch["row"].tolist() for batch in found] == [[0, 1], [2, 3], [4]]
    assert [batch["image"][:, 0, 0, 0].tolist() for batch in found] == [[0, 1], [2, 3], [4]]
    assert all(set(batch) == {"image", "row"} for batch in found)


def test_rows_come_in_the_order_given():
    order = torch.tensor([4, 0, 1, 3])
    batches = FeatureBatches(Drawn(), ["image"], batch_size=3, order=order)
    assert [batches[index]["row"].tolist() for index in range(2)] == [[4, 0, 1], [3]]
    assert batches[0]["image"][:, 0, 0, 0].tolist() == [4, 0, 1]


def test_chosen_rows_are_those_of_every_tensor():
    rows = Rows({"global": torch.arange(20).view(10, 2), "label": torch.arange(10)})
    chosen = ChosenRows(rows, torch.tensor([1, 2, 3, 7, 5]))
    assert len(chosen) == 5
    part = chosen.rows(1, 5)
    assert part["label"].tolist() == [2, 3, 7, 5]
    assert part["global"][:, 0].tolist() == [4, 6, 14, 10]


@pytest.mark.parametrize(
    ("images", "drop_last", "sizes"),
    [(80, True, [32, 32]), (80, False, [32, 32, 16]), (20, True, [20]), (32, True, [32])],
)
def test_the_last_smaller_batch_is_left_out_where_there_is_a_whole_one(images, drop_last, sizes):
    """CoOp's loader drops the last batch unless the support set is smaller than a batch."""
    order = ShuffledCrops(3, images, 32, seed=0, drop_last=drop_last)
    assert len(order) == len(sizes)
    seen = set()
    for epoch in range(6):
        batches = list(order)
        assert [len(rows) for _, rows in batches] == sizes
        assert {crop for crop, _ in batches} == {epoch % 3}
        drawn = [row for _, rows in batches for row in rows.tolist()]
        assert len({*drawn}) == len(drawn) == sum(sizes)
        seen.update(drawn)
    assert seen == set(range(images))  # another few are left out in each epoch
