import math
from functools import partial

import pytest
import torch
from lightning import Trainer
from torch import nn
from torch.nn.functional import cross_entropy

from src.errors import UserError
from src.features.datamodule import FeatureDataModule, SupportBatches
from src.heads.base import Head
from src.methods import checkpoint
from src.methods.trained import Schedule, Trained
from tests.methods.metrics import Accuracy

CLASSES, WIDTH, CROPS, ROWS = 3, 5, 2, 8


class Linear(Head):
    def __init__(self, width=WIDTH):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(CLASSES, width, generator=generator))
        self.fixed = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, features):
        return features @ self.weight.T * self.fixed


class Rows:
    def __init__(self, features, label):
        self.tensors = {"global": features, "label": label}

    def __len__(self):
        return len(self.tensors["label"])

    def rows(self, start, stop):
        return {name: tensor[start:stop] for name, tensor in self.tensors.items()}


def data(batch_size=ROWS, nan=False, validation=True):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(CROPS, ROWS, WIDTH, generator=generator)
    if nan:
        features[1, 3] = math.nan
    label = torch.arange(ROWS) % CLASSES
    held_out = Rows(torch.randn(40, WIDTH, generator=generator), torch.arange(40) % CLASSES)
    train = SupportBatches({"global": features}, label, ["global"])
    return FeatureDataModule(
        ["global"], 4, held_out, held_out if validation else None, train, batch_size, seed=3
    )


def method(epochs=3, keep="last", head=None, lr=0.1, **schedule):
    optimizer = partial(torch.optim.AdamW, lr=lr, eps=1e-4)
    return Trained(head or Linear(), Accuracy(), optimizer, Schedule(epochs, **schedule), keep)


def trainer(epochs=3):
    return Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )  # fmt: skip


@pytest.mark.parametrize("batch_size", [ROWS, 3])
def test_training_equals_a_plain_torch_loop(batch_size):
    trained = method(epochs=4)
    trainer(4).fit(trained, datamodule=data(batch_size))

    plain = Linear()
    support = data().train
    optimizer = torch.optim.AdamW([plain.weight], lr=0.1, eps=1e-4)
    steps, step = 4 * math.ceil(ROWS / batch_size), 0
    for epoch in range(4):
        order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(3 + epoch))
        for rows in order.split(batch_size):
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * (1 + math.cos(math.pi * step / steps)) / 2
            optimizer.zero_grad()
            crop = support.features["global"][epoch % CROPS]
            cross_entropy(plain(crop[rows]), support.label[rows]).backward()
            optimizer.step()
            step += 1
    torch.testing.assert_close(trained.head.weight, plain.weight, atol=1e-6, rtol=1e-6)
    assert torch.equal(trained.head.fixed, torch.ones(1))
    assert trained.trainable_parameters() == CLASSES * WIDTH


def rates(schedule, steps_per_epoch, lr=0.002):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = schedule.build(optimizer, steps_per_epoch)
    found = []
    scale = steps_per_epoch if schedule.interval == "step" else 1
    for _ in range(schedule.epochs * scale):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_after_the_warm_up_epoch_the_cosines_period_is_all_epochs_as_in_coop():
    found = rates(Schedule(6, "epoch", warmup_epochs=1, warmup_lr=1e-5), steps_per_epoch=7)
    cosine = [0.002 * (1 + math.cos(math.pi * t / 6)) / 2 for t in range(5)]
    assert found == pytest.approx([1e-5, *cosine])


def test_without_a_warm_up_the_cosine_ends_near_zero():
    per_step = rates(Schedule(2, "step"), steps_per_epoch=5)
    assert per_step == pytest.approx(
        [0.002 * (1 + math.cos(math.pi * t / 10)) / 2 for t in range(10)]
    )


def test_the_best_epoch_on_validation_is_kept_only_on_request():
    accuracies = {}
    for keep in ("last", "best"):
        trained = method(epochs=12, keep=keep, lr=2.0)
        seen = []
        trained.log = lambda name, value, seen=seen, **_: (
            seen.append(float(value)) if name == "validation_accuracy" else None
        )
        fitted = trainer(12)
        fitted.fit(trained, datamodule=data())
        held_out = data().validation.tensors
        predicted = trained.head(held_out["global"]).argmax(dim=1)
        accuracies[keep] = 100 * (predicted == held_out["label"]).double().mean().item(), seen
    assert accuracies["last"][1] == accuracies["best"][1]
    assert accuracies["last"][0] == pytest.approx(accuracies["last"][1][-1], abs=1e-4)
    assert accuracies["best"][0] == pytest.approx(max(accuracies["best"][1]), abs=1e-4)
    assert accuracies["best"][0] > accuracies["last"][0]


def test_training_needs_no_validation_images():
    trained = method()
    trainer().fit(trained, datamodule=data(validation=False))
    assert not torch.equal(trained.head.weight, Linear().weight)


def test_a_loss_that_is_not_finite_says_when_and_what_to_try():
    with pytest.raises(UserError, match=r"loss became nan in epoch 1, step 1: .*optimizer\.lr"):
        trainer().fit(method(), datamodule=data(nan=True))


def test_two_runs_are_equal_bit_for_bit():
    weights = []
    for _ in range(2):
        trained = method()
        trainer().fit(trained, datamodule=data(3))
        weights.append(trained.head.weight)
    assert torch.equal(*weights)


def test_a_warm_up_as_long_as_the_training_is_refused():
    with pytest.raises(UserError, match=r"epochs=2 must be more than warmup_epochs=2"):
        Schedule(2, warmup_epochs=2)


@pytest.fixture
def saved(tmp_path):
    trained = method()
    fitted = trainer()
    fitted.fit(trained, datamodule=data())
    result = {
        "method": "linear", "dataset": "d", "backbone": "b", "shots": 2, "seed": 0,
        "hyperparameters": {"scale": 4.5}, "selection": "val", "validation_accuracy": 50.0,
    }  # fmt: skip
    checkpoint.save(fitted, trained, tmp_path / "c.ckpt", result, ["ant", "bee", "cat"])
    return trained, tmp_path / "c.ckpt"


def test_a_checkpoint_gives_back_weights_and_settings(saved):
    trained, path = saved
    fresh = method()
    found = checkpoint.read(path, "linear")
    assert found.result["hyperparameters"] == {"scale": 4.5}
    assert found.class_names == ["ant", "bee", "cat"]
    checkpoint.restore(fresh, found)
    assert torch.equal(fresh.head.weight, trained.head.weight)
    assert [file.name for file in path.parent.iterdir()] == ["c.ckpt"]


def test_a_checkpoint_that_does_not_fit_is_refused(saved, tmp_path):
    _, path = saved
    with pytest.raises(UserError, match="checkpoint of method=linear, not of other"):
        checkpoint.read(path, "other")
    with pytest.raises(
        UserError, match=r"head\.weight has the shape \[3, 5\], here it is \[3, 6\]"
    ):
        checkpoint.restore(method(head=Linear(6)), checkpoint.read(path, "linear"))
    with pytest.raises(UserError, match="is missing"):
        checkpoint.read(tmp_path / "none.ckpt", "linear")
    for content in (b"no", b""):
        (tmp_path / "bad.ckpt").write_bytes(content)
        with pytest.raises(UserError, match="is not a checkpoint"):
            checkpoint.read(tmp_path / "bad.ckpt", "linear")
    torch.save({"weights": 1}, tmp_path / "bad.ckpt")
    with pytest.raises(UserError, match="is not a checkpoint"):
        checkpoint.read(tmp_path / "bad.ckpt", "linear")
    torch.save(print, tmp_path / "bad.ckpt")
    with pytest.raises(UserError, match="is not a checkpoint"):
        checkpoint.read(tmp_path / "bad.ckpt", "linear")


def altered(path, change):
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["state_dict"]["head.weight"].fill_(float("nan")), "holds NaN or infinite"),
        (lambda c: c["state_dict"]["head.weight"].add_(1), "is damaged: its checksum differs"),
        (lambda c: c["state_dict"].update({"head.weight": "text"}), "head.weight is no tensor"),
        (lambda c: c.pop("result"), "no record of a run, or no weights"),
        (lambda c: c.update(result=[1]), "no record of a run, or no weights"),
        (lambda c: c.pop("state_dict"), "no record of a run, or no weights"),
        (lambda c: c["result"].pop("shots"), "no usable 'shots'"),
        (lambda c: c["result"].update(seed="one"), "no usable 'seed'"),
        (lambda c: c["result"].update(hyperparameters=[]), "no usable 'hyperparameters'"),
    ],
)
def test_an_altered_checkpoint_is_refused_in_one_message(saved, change, message):
    _, path = saved
    altered(path, change)
    with pytest.raises(UserError, match=message) as caught:
        checkpoint.read(path, "linear")
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)


class Penalised(Linear):
    def loss(self, logits, label):
        return super().loss(logits, label) + 0.5 * self.weight.square().sum()


def test_training_minimises_the_loss_that_the_head_states():
    trained = method(epochs=1, head=Penalised())
    trainer(1).fit(trained, datamodule=data())
    plain, support = Linear(), data().train
    optimizer = torch.optim.AdamW([plain.weight], lr=0.1, eps=1e-4)
    loss = cross_entropy(plain(support.features["global"][0]), support.label)
    (loss + 0.5 * plain.weight.square().sum()).backward()
    optimizer.step()
    torch.testing.assert_close(trained.head.weight, plain.weight, atol=1e-6, rtol=1e-6)
