import pytest
import torch
from lightning import Trainer

from src.features.datamodule import FeatureDataModule
from src.features.passes import Passes
from src.features.precomputed import Rows
from src.heads.zero_shot import ZeroShot
from src.methods.base import Method
from tests.job.growing import Growing
from tests.methods.metrics import Accuracy

CLASSES, WIDTH, IMAGES = 4, 6, 50


def trainer():
    return Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )


@pytest.fixture
def material():
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(IMAGES, WIDTH, generator=generator)
    text = torch.randn(CLASSES, WIDTH, generator=generator)
    return image, torch.randint(CLASSES, (IMAGES,), generator=generator), text


def data(image, label=None, batch_size=7, **settings):
    rows = {"global": image.half()} | ({} if label is None else {"label": label})
    features = Rows(rows)
    return FeatureDataModule(["global"], batch_size, features, **settings)


def answers_of(method, rows):
    (metrics,) = trainer().test(method, datamodule=rows, verbose=False)
    return metrics["accuracy"], method.answers


@pytest.mark.parametrize("batch_size", [7, 50])
def test_answers_are_those_of_each_image_in_the_order_of_the_split(material, batch_size):
    image, label, text = material
    method = Method(ZeroShot(text, 10.0), Accuracy(), keep_predictions=True)
    accuracy, answers = answers_of(method, data(image, label, batch_size))
    logits = ZeroShot(text, 10.0)(image.half().float())
    confidence, prediction = logits.softmax(dim=1).max(dim=1)
    assert accuracy == pytest.approx(100 * (prediction == label).double().mean().item())
    assert torch.equal(answers.outcome["label"], label)
    assert torch.equal(answers.outcome["prediction"], prediction)
    torch.testing.assert_close(answers.outcome["confidence"], confidence)
    torch.testing.assert_close(answers.predictions["logits"], logits)
    assert torch.equal(answers.predictions["label"], label)


def test_another_order_of_the_images_changes_the_order_of_no_answer(material):
    image, label, text = material
    order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(3))
    straight, shuffled = (
        answers_of(
            Method(ZeroShot(text, 10.0), Accuracy(), keep_predictions=True),
            data(image, label, test_passes=passes),
        )
        for passes in (None, Passes([order], 7))
    )
    assert straight[0] == shuffled[0]
    for ours, theirs in zip(straight[1][:2], shuffled[1][:2], strict=True):
        for name, values in ours.items():
            torch.testing.assert_close(values, theirs[name])


def test_a_stream_sees_the_images_in_the_order_given(material):
    image, label, text = material
    order = torch.arange(IMAGES).flip(0)
    head = Growing(text, 10.0)
    answers_of(Method(head, Accuracy()), data(image, label, test_passes=Passes([order], 1)))
    assert [len(batch) for batch in head.seen] == [1] * IMAGES
    torch.testing.assert_close(torch.cat(head.seen), image.half().float().flip(0))


def test_each_pass_starts_fresh_and_has_an_accuracy(material):
    image, label, text = material
    orders = [torch.arange(IMAGES), torch.arange(IMAGES).flip(0), torch.arange(10, 20)]
    alone = [
        answers_of(
            Method(Growing(text, 10.0), Accuracy(), keep_predictions=True),
            data(image, label, test_passes=Passes([order], 7)),
        )[1]
        for order in orders
    ]
    method = Method(Growing(text, 10.0), Accuracy(), keep_predictions=True)
    accuracy, answers = answers_of(method, data(image, label, test_passes=Passes(orders, 7)))
    assert answers.accuracy == [one.accuracy[0] for one in alone]
    assert answers.answered == 2 * IMAGES + 10
    weights = torch.tensor([IMAGES, IMAGES, 10.0])
    expected = (torch.tensor(answers.accuracy) * weights).sum() / weights.sum()
    assert accuracy == pytest.approx(expected.item())
    for name, values in alone[0].outcome.items():  # of an image, the first answer is kept
        assert torch.equal(answers.outcome[name], values)
    assert torch.equal(answers.predictions["logits"], alone[0].predictions["logits"])


def test_answers_are_of_the_images_that_a_pass_showed(material):
    image, label, text = material
    shown = Passes([torch.tensor([9, 4]), torch.tensor([4, 2])], 2)
    method = Method(ZeroShot(text, 10.0), Accuracy())
    _, answers = answers_of(method, data(image, label, test_passes=shown))
    assert torch.equal(answers.outcome["label"], label[[2, 4, 9]])
    assert answers.answered == 4


def test_logits_are_kept_only_on_request(material):
    image, label, text = material
    _, answers = answers_of(Method(ZeroShot(text, 10.0), Accuracy()), data(image, label))
    assert answers.predictions == {}


def test_a_head_that_keeps_state_starts_fresh_for_each_evaluation(material):
    image, label, text = material
    method = Method(Growing(text, 10.0), Accuracy(), keep_predictions=True)
    first, again = (answers_of(method, data(image, label)) for _ in range(2))
    assert first[0] == again[0]
    assert torch.equal(first[1].predictions["logits"], again[1].predictions["logits"])
    stateless = answers_of(
        Method(ZeroShot(text, 10.0), Accuracy(), keep_predictions=True), data(image, label)
    )
    assert not torch.equal(first[1].predictions["logits"], stateless[1].predictions["logits"])


def test_restricted_it_answers_for_some_of_the_classes_and_then_for_all_again(material):
    image, _, text = material
    classes = [3, 1]
    label = torch.arange(IMAGES) % 2
    method = Method(ZeroShot(text, 10.0), Accuracy(), keep_predictions=True)
    with method.restricted(classes, Accuracy()):
        accuracy, answers = answers_of(method, data(image, label))
    expected = ZeroShot(text, 10.0)(image.half().float())[:, classes]
    torch.testing.assert_close(answers.predictions["logits"], expected)
    right = (expected.argmax(dim=1) == label).double().mean().item()
    assert accuracy == pytest.approx(100 * right)
    _, answers = answers_of(method, data(image, label))
    assert answers.predictions["logits"].shape == (IMAGES, CLASSES)


def test_images_without_labels_can_be_predicted(material):
    image, _, text = material
    method = Method(ZeroShot(text, 10.0), Accuracy())
    batches = trainer().predict(method, datamodule=data(image))
    torch.testing.assert_close(torch.cat(batches), ZeroShot(text, 10.0)(image.half().float()))


def test_a_temperature_divides_the_logits_of_a_test_and_of_a_prediction_only(material):
    image, label, text = material
    method = Method(ZeroShot(text, 10.0), Accuracy(), keep_predictions=True)
    method.temperature = 4.0
    logits = ZeroShot(text, 10.0)(image.half().float())
    _, answers = answers_of(method, data(image, label))
    predicted = torch.cat(trainer().predict(method, datamodule=data(image)))
    for divided in (answers.predictions["logits"], predicted):
        torch.testing.assert_close(divided, logits / 4)
    confidence = (logits / 4).softmax(dim=1).amax(dim=1)
    torch.testing.assert_close(answers.outcome["confidence"], confidence)
    torch.testing.assert_close(method({"global": image.half().float()}), logits)
