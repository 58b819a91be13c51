import pytest
import torch

from src.features.datamodule import (
    ChosenRows,
    FeatureBatches,
    FeatureDataModule,
    PassBatches,
    PooledCrops,
    ShuffledCrops,
    SupportBatches,
    in_memory,
)
from src.features.passes import Passes
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


def test_passes_show_rows_in_their_own_order():
    passes = Passes([torch.tensor([4, 0, 1, 3]), torch.tensor([2, 4])], 3)
    batches = PassBatches(Drawn(), ["image"], passes)
    found = [batches[index] for index in range(len(batches))]
    assert [batch["row"].tolist() for batch in found] == [[4, 0, 1], [3], [2, 4]]
    assert [int(batch["pass"]) for batch in found] == [0, 0, 1]
    assert [batch["image"][:, 0, 0, 0].tolist() for batch in found] == [[4, 0, 1], [3], [2, 4]]
    assert all(set(batch) == {"image", "row", "pass"} for batch in found)


def test_only_the_tensors_that_are_named_are_read_into_memory():
    rows = Rows({"global": torch.randn(150, 2), "spatial": torch.randn(150, 3, 2)})
    found = in_memory(rows, ["global", "label"])
    assert set(found) == {"global"}
    assert torch.equal(found["global"], rows.tensors["global"])


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


@pytest.mark.parametrize(
    ("images", "drop_last", "sizes"),
    [
        (80, True, [32, 32]),  # as many batches as of 80 images, though there are 240 crops
        (80, False, [32, 32, 32]),
        (20, True, [32]),
        (5, True, [15]),  # no more crops than these
    ],
)
def test_pooled_crops_are_samples_of_their_own(images, drop_last, sizes):
    order = PooledCrops(3, images, 32, seed=0, drop_last=drop_last)
    assert len(order) == len(sizes)
    seen, epochs = set(), []
    for _ in range(30):
        batches = list(order)
        assert [len(rows) for _, rows in batches] == sizes
        drawn = [
            address
            for crops, rows in batches
            for address in zip(crops.tolist(), rows.tolist(), strict=True)
        ]
        assert len({*drawn}) == len(drawn) == sum(sizes)
        epochs.append(drawn)
        seen.update(drawn)
    assert seen == {(crop, row) for crop in range(3) for row in range(images)}
    assert epochs[0] != epochs[1]
    again = PooledCrops(3, images, 32, seed=0, drop_last=drop_last)
    assert [crops.tolist() for crops, _ in again] == [
        [crop for crop, _ in epochs[0]][start : start + 32] for start in range(0, sum(sizes), 32)
    ]


def training(drawing, crops=3, images=5):
    """Return a module whose feature of crop v of image i is 10 v + i, and whose label is i."""
    features = torch.arange(crops)[:, None] * 10 + torch.arange(images)
    train = SupportBatches({"global": features[..., None].half()}, torch.arange(images), ["global"])
    return FeatureDataModule(["global"], 4, None, None, train, 2, drawing=drawing)


def test_a_batch_of_pooled_crops_holds_different_crops():
    loader = training("pooled").train_dataloader()
    together = False
    for _ in range(10):
        for batch in loader:
            assert batch["global"].dtype == torch.float32
            crop, image = batch["global"][:, 0].long() // 10, batch["global"][:, 0].long() % 10
            assert torch.equal(image, batch["label"])
            together |= bool((crop != crop[0]).any())
    assert together


def test_the_whole_support_set_comes_in_one_batch_without_a_copy():
    loader = training("whole").train_dataloader()
    assert len(loader) == 1
    found = [batch for _ in range(4) for batch in loader]
    for epoch, batch in enumerate(found):
        assert batch["global"].dtype == torch.float32
        assert batch["global"][:, 0].tolist() == [10 * (epoch % 3) + image for image in range(5)]
        assert batch["label"].tolist() == list(range(5))
    assert found[0]["global"].data_ptr() == found[3]["global"].data_ptr()
