import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from src.results.metrics import METRICS, Metric
from src.results.scores import Scores, make_metrics


def plain(logits, label):
    """Compute every metric by its definition, image by image."""
    n, c = len(logits), len(logits[0])
    probability = []
    for row in logits:
        exponentials = [math.exp(z - max(row)) for z in row]
        probability.append([e / sum(exponentials) for e in exponentials])
    predicted = [row.index(max(row)) for row in logits]
    right = [p == y for p, y in zip(predicted, label, strict=True)]
    f1 = []
    for k in range(c):
        hits = sum(p == y == k for p, y in zip(predicted, label, strict=True))
        of_class, said = label.count(k), predicted.count(k)
        if of_class + said:
            f1.append(2 * hits / (of_class + said))
    ece = 0.0
    for number in range(15):
        inside = [i for i in range(n) if number / 15 <= max(probability[i]) < (number + 1) / 15]
        if inside:
            confidence = sum(max(probability[i]) for i in inside) / len(inside)
            accuracy = sum(right[i] for i in inside) / len(inside)
            ece += len(inside) / n * abs(confidence - accuracy)
    among_five = [sum(z > row[y] for z in row) < 5 for row, y in zip(logits, label, strict=True)]
    by_class = [
        sum(r for r, y in zip(right, label, strict=True) if y == k) / label.count(k)
        for k in range(c)
        if k in label
    ]
    squared = [
        sum((p - (k == y)) ** 2 for k, p in enumerate(row))
        for row, y in zip(probability, label, strict=True)
    ]
    return {
        "accuracy": 100 * sum(right) / n,
        "mean_class_accuracy": 100 * sum(by_class) / len(by_class),
        "macro_f1": 100 * sum(f1) / len(f1),
        "top5_accuracy": 100 * sum(among_five) / n,
        "ece": ece,
        "nll": -sum(math.log(row[y]) for row, y in zip(probability, label, strict=True)) / n,
        "brier": sum(squared) / n,
    }


def measured(logits, label, c, batch=7):
    scores = make_metrics(c)
    for rows in torch.arange(len(label)).split(batch):
        scores.update(logits[rows], label[rows])
    return scores.compute()


@given(st.integers(0, 2**31), st.integers(1, 40), st.sampled_from([2, 3, 5, 8, 30]))
def test_each_metric_equals_its_plain_definition(seed, n, c):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, c, generator=generator)
    label = torch.randint(max(1, c - 1), (n,), generator=generator)  # one class has no image
    expected = plain(logits.double().tolist(), label.tolist())
    found = measured(logits, label, c)
    assert list(found) == [metric.name for metric in METRICS]
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-4, abs=1e-4), name


def test_a_hopeless_logit_has_a_finite_likelihood():
    """The probability is 0 in float32, but its logarithm is finite."""
    found = measured(torch.tensor([[0.0, 300.0]]), torch.tensor([0]), 2)
    assert found["nll"] == pytest.approx(300.0)
    assert found["brier"] == pytest.approx(2.0)


def test_metrics_begin_again_after_a_reset():
    scores = make_metrics(3)
    scores.update(torch.eye(3), torch.tensor([1, 1, 1]))
    scores.compute()
    scores.reset()
    scores.update(torch.eye(3), torch.tensor([0, 1, 2]))
    assert scores.compute()["accuracy"] == 100.0


def test_a_metric_is_one_line():
    kappa = Metric("kappa", "κ", lambda m, n: m.MulticlassCohenKappa(n), ".3f", 1)
    scores = Scores([*METRICS, kappa], 3)
    scores.update(torch.eye(3), torch.tensor([0, 1, 2]))
    assert scores.compute()["kappa"] == pytest.approx(1.0)


def test_what_a_record_lacks_is_left_blank():
    metric = METRICS[0]
    assert [metric.text(value) for value in (12.345, None, float("nan"))] == ["12.35", "", ""]
