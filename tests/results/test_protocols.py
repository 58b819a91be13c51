import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from src.config import compose, protocol_of, run_group, run_name
from src.files import CONFIG_DIR
from src.results.metrics import ALL
from src.results.protocols import PROTOCOLS, columns, harmonic_mean, published_figures, reading
from tests.results.test_record import made_up

SETTINGS = {
    **{name: [f"protocol={name}"] for name in ("all_classes", "base_to_new")},
    **{name: [f"protocol={name}"] for name in ("cross_dataset", "shift")},
    "tasks": ["protocol=tasks"],
    "stream_by_class": ["method=tda", "stream=by_class"],
    "stream_dirichlet": ["method=tda", "stream=dirichlet"],
    "imbalanced_relaxed": ["protocol=imbalanced"],
    "imbalanced_realistic": ["protocol=imbalanced", "protocol.imbalance=realistic"],
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_protocol_has_a_reading_by_the_name_in_its_record(name):
    assert protocol_of(compose(SETTINGS[name])) == name
    assert reading(name) is PROTOCOLS[name]
    assert {metric.name for metric in ALL} >= set(reading(name).metrics)


def test_no_protocol_is_without_a_reading():
    found = {OmegaConf.load(path) for path in (CONFIG_DIR / "protocol").glob("*.yaml")}
    names = {one.get("name") or one.protocol.name for one in found}
    names |= {f"stream_{path.stem}" for path in (CONFIG_DIR / "stream").glob("*.yaml")}
    assert names - {"stream_shuffled"} == {name.partition("_re")[0] for name in PROTOCOLS}


def test_one_that_is_not_known_goes_by_accuracy_under_its_own_name():
    assert reading("of_tomorrow").heading == "of_tomorrow"
    assert reading("of_tomorrow").metric == "accuracy"


def test_what_counts_comes_first_and_the_accuracy_on_base_classes_stands_once():
    names = {name: [metric.name for metric in columns(name)] for name in PROTOCOLS}
    assert names["all_classes"] == [metric.name for metric in ALL]
    assert names["imbalanced_realistic"][:2] == ["mean_class_accuracy", "accuracy"]
    assert names["base_to_new"][:3] == ["base_accuracy", "new_accuracy", "harmonic_mean"]
    assert "accuracy" not in names["base_to_new"]
    for name, found in names.items():
        assert sorted(found) == sorted({*found}), name


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1))
def test_the_harmonic_mean_of_numbers_and_of_series_is_that_of_its_definition(pairs):
    plain = [0.0 if b == 0 or n == 0 else 1 / ((1 / b + 1 / n) / 2) for b, n in pairs]
    assert [harmonic_mean(*pair) for pair in pairs] == pytest.approx(plain)
    base, new = (pd.Series(values) for values in zip(*pairs, strict=True))
    assert list(harmonic_mean(base, new)) == pytest.approx(plain)


def test_the_harmonic_mean_with_what_is_not_there_is_not_there():
    assert math.isnan(harmonic_mean(math.nan, 50.0))


def test_published_pairs_are_those_of_the_runs_backbone_and_weights():
    """CoOp on DTD's base and new classes, as the CoCoOp paper has it."""
    weights = "ViT-B-16-quickgelu/openai"
    run = made_up(
        dataset="dtd", method="coop", shots=16, protocol="base_to_new", backbone="vit_b16",
        weights=weights,
    )  # fmt: skip
    figures = published_figures(run)
    assert figures["base_accuracy"]["g"] == 79.44
    assert figures["new_accuracy"]["g"] == 41.18
    assert figures["harmonic_mean"]["g"] == pytest.approx(54.24, abs=0.005)
    other = made_up(protocol="base_to_new", backbone="vit_b16", weights="sha256:0")
    assert published_figures(other)["base_accuracy"] == {}
    usual = made_up(published_by_source={"b": 85.92})
    assert published_figures(usual) == {"accuracy": {"b": 85.92}}


def test_the_default_group_and_name_of_a_run_tell_its_protocol_where_it_is_not_the_usual():
    given_to = ["method=gda", "shots=4"]
    usual = compose(given_to)
    assert (run_group(usual), run_name(usual)) == ("digits-tiny", "digits-tiny-gda-4-1")
    groups = {run_group(compose([*given_to, *SETTINGS[name]])) for name in SETTINGS}
    assert len(groups) == len(SETTINGS)
    relaxed = compose([*given_to, "protocol=imbalanced"])
    assert run_group(relaxed) == "digits-tiny-imbalanced_relaxed"
    assert run_name(relaxed) == "digits-tiny-gda-4-1-imbalanced_relaxed"
    assert run_group(compose(["protocol=imbalanced", "group=mine"])) == "mine"
