"""Licences: each dataset and each backbone states one, for readers and for nothing else."""

import pytest
import yaml
from omegaconf import open_dict

from docs.generator.markdown import escape
from src.clip.licences import licence
from src.config import compose, config_hash
from src.files import CONFIG_DIR, ROOT
from src.validation import validate

YAML = {
    (group, path.stem): yaml.safe_load(path.read_text())
    for group in ("dataset", "backbone")
    for path in sorted((CONFIG_DIR / group).glob("*.yaml"))
}
EXTENDED = {("dataset", "modelnet10"): ("dataset", "modelnet40")}
"""Those that have it from another one."""
STATED = {one: YAML[EXTENDED.get(one, one)].get("licence") for one in YAML}


@pytest.mark.parametrize("one", YAML, ids="=".join)
def test_each_states_its_licence_in_one_line(one):
    text = STATED[one]
    assert isinstance(text, str)
    assert text == " ".join(text.split()) != ""
    assert len(text) < 120


def test_weights_of_one_publisher_state_the_same():
    texts = {}
    for (group, name), node in YAML.items():
        if group == "backbone" and name not in ("precomputed", "tiny"):
            assert licence(node["pretrained"], node["architecture"]) == node["licence"], name
            texts.setdefault(node["licence"].partition(":")[0], set()).add(node["licence"])
    assert len(texts) > 6
    assert all(len(alike) == 1 for alike in texts.values()), texts


@pytest.mark.parametrize(
    ("dataset", "backbone"),
    [("dtd", "rn50"), ("modelnet10", "eva02_b16"), ("letters", "tiny"), ("precomputed",) * 2],
)
def test_a_licence_changes_neither_the_hash_of_a_run_nor_what_is_read(dataset, backbone):
    given = ["dataset.path=f"] if dataset == "precomputed" else []
    cfg = compose([f"dataset={dataset}", f"backbone={backbone}", *given, "paths.output=."])
    validate(cfg)
    assert cfg.dataset.licence == STATED["dataset", dataset]
    assert cfg.backbone.licence == STATED["backbone", backbone]
    assert "licence" not in cfg.dataset.reader
    without = cfg.copy()
    with open_dict(without):
        del without.dataset.licence, without.backbone.licence
    assert config_hash(without) == config_hash(cfg)


def test_data_of_your_own_may_have_any_licence():
    given = ["dataset=folder", "paths.output=."]
    assert config_hash(compose([*given, "dataset.licence=CC0"])) == config_hash(compose(given))


def test_other_weights_do_not_get_the_licence_of_those_that_the_yaml_names():
    given = compose(["backbone=rn50", "backbone.pretrained=cc12m", "paths.output=."]).backbone
    assert licence(given.pretrained, given.architecture) != STATED["backbone", "rn50"]


def test_the_manual_shows_them():
    backbones, datasets = (
        (ROOT / f"docs/{name}.md").read_text() for name in ("backbones", "datasets")
    )
    for (group, name), text in STATED.items():
        if group == "dataset":
            section = datasets.partition(f"\n### {name}\n")[2].partition("\n### ")[0]
            assert f"- licence: {escape(text)}\n" in section, name
        elif name != "precomputed":
            row = backbones.partition(f"\n| `{name}` |")[2].partition("\n")[0]
            assert row.endswith(f"| {escape(text)} |"), name
