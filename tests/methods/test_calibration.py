import logging
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from src.methods.calibration import fit_temperature


def likelihood(logits, label, temperature):
    """Compute the mean negative log-likelihood, in nats."""
    values = np.asarray(logits, dtype=np.float64) / temperature
    of_label = values[np.arange(len(values)), np.asarray(label)]
    return float(np.mean(logsumexp(values, axis=1) - of_label))


def drawn(seed, n, c, scale, wrong):
    """Draw logits that a share of the labels does not follow."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n, c, generator=generator)
    by_chance = torch.randint(c, (n,), generator=generator)
    follows = torch.rand(n, generator=generator) >= wrong
    return logits, torch.where(follows, logits.argmax(dim=1), by_chance)


@given(
    st.integers(0, 2**31), st.integers(5, 200), st.integers(2, 20),
    st.sampled_from([0.01, 1.0, 30.0, 300.0]), st.sampled_from([0.05, 0.3, 0.8]),
)  # fmt: skip
def test_it_is_the_temperature_that_another_minimiser_finds(seed, n, c, scale, wrong):
    logits, label = drawn(seed, n, c, scale, wrong)
    of_label = logits.gather(1, label[:, None])
    assume((of_label[:, 0] < logits.amax(dim=1)).any() and of_label.mean() > logits.mean())
    found = fit_temperature(logits, label)
    best = minimize_scalar(
        lambda log: likelihood(logits, label, math.exp(log)), bounds=(-12, 12), method="bounded",
        options={"xatol": 1e-9},
    )  # fmt: skip
    least = min(best.fun, likelihood(logits, label, 1.0))
    assert likelihood(logits, label, found) <= least + 1e-6 * max(1.0, least)


@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(1, 6), st.sampled_from([0.1, 1, 9]))
def test_it_never_fits_worse_than_none(seed, n, c, scale):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n, c, generator=generator)
    label = torch.randint(c, (n,), generator=generator)
    found = fit_temperature(logits, label)
    assert 0 < found < math.inf
    before = likelihood(logits, label, 1.0)
    assert likelihood(logits, label, found) <= before + 1e-9


def test_it_undoes_what_logits_were_multiplied_by():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 5, generator=generator)
    label = logits.softmax(dim=1).multinomial(1, generator=generator)[:, 0]
    once, twice = (fit_temperature(factor * logits, label) for factor in (1.0, 7.0))
    assert once == pytest.approx(1.0, abs=0.1)
    assert twice == pytest.approx(7 * once, rel=1e-5)


@pytest.mark.parametrize(
    ("logits", "label"),
    [
        ([[2.0, 1.0], [0.0, 1.0]], [0, 1]),  # all right
        ([[2.0, 1.0], [0.0, 1.0]], [1, 0]),  # all wrong
        ([[1.0, 1.0], [1.0, 1.0]], [0, 1]),  # nothing is told apart
    ],
)
def test_where_no_temperature_is_best_it_stays_and_that_is_said(caplog, logits, label):
    with caplog.at_level(logging.WARNING):
        assert fit_temperature(torch.tensor(logits), torch.tensor(label)) == 1.0
    assert "it stays 1" in caplog.text


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_logits_that_are_no_numbers_fit_nothing(wrong):
    logits, label = drawn(0, 50, 3, 1.0, 0.3)
    logits[7, 1] = wrong
    assert fit_temperature(logits, label) == 1.0


def test_logits_of_an_inference_can_be_given():
    logits, label = drawn(0, 50, 3, 1.0, 0.3)
    with torch.inference_mode():
        frozen, labels = logits.clone(), label.clone()
    assert fit_temperature(frozen, labels) == fit_temperature(logits, label)
    with torch.no_grad():
        assert fit_temperature(frozen, labels) == fit_temperature(logits, label)
