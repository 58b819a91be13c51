"""What `conf/` looks up: settings by backbone and dataset, backbone names, and collections."""

import json
import shutil

import pytest

from src.config import compose, config_hash
from src.errors import UserError
from src.files import CONFIG_DIR, ROOT
from src.resolvers import settings_from
from src.validation import validate
from tests.cli import calipers, jobs


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ("method=calip dataset=eurosat", {"beta2": 6.08, "beta3": 0.06}),
        ("method=calip dataset=eurosat backbone=vit_b16", {"beta2": 1.12, "beta3": 0.02}),
        ("method=calip dataset=digits", {"beta2": 1.12, "beta3": 0.02}),
        ("method=calip_fs dataset=digits", {"beta2": 1.0, "beta3": 0.3}),
        ("method=calip_fs dataset=caltech101", {"beta2": 5.0, "beta3": 0.18}),
        ("method=calip_fs dataset=caltech101 backbone=rn101", {"beta2": 1.12, "beta3": 0.02}),
        ("method=tip_adapter dataset=digits", {"alpha": 50.0, "beta": 5.0}),
        ("method=tip_adapter dataset=digits backbone=rn50", {"alpha": 1.17, "beta": 1.0}),
        ("method=tip_adapter_f dataset=dtd", {"alpha": 2.0, "beta": 1.0}),
        ("method=tip_adapter dataset=dtd method.head.alpha=9", {"alpha": 9, "beta": 1.0}),
        ("method=tip_adapter dataset=dtd ++method.head.alpha=9", {"alpha": 9, "beta": 1.0}),
    ],
)
def test_settings_of_a_pair_apply_to_the_backbone_they_belong_to(choices, expected):
    head = compose(choices.split()).method.head
    assert {name: head[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("choices", "epochs"),
    [
        ("method=tip_adapter_f dataset=eurosat", 100),
        ("method=tip_adapter_f dataset=eurosat backbone=vit_b32", 20),
        ("method=coop dataset=imagenet shots=16", 50),
        ("method=coop dataset=imagenet shots=16 backbone=vit_b16", 50),
        ("method=coop dataset=imagenet shots=16 backbone=rn50x4", 200),
        ("method=coop dataset=dtd shots=2", 100),
    ],
)
def test_published_epochs_belong_to_their_backbones_too(choices, epochs):
    assert compose(choices.split()).method.training.epochs == epochs


@pytest.mark.parametrize(
    ("choices", "origin"),
    [
        ("method=calip dataset=eurosat", "rn50 on eurosat (conf/settings/calip.yaml)"),
        ("method=calip dataset=eurosat backbone=vit_b16", "defaults"),
        (
            "method=tip_adapter_f dataset=eurosat",
            "rn50 on eurosat (conf/settings/tip_adapter_f.yaml, conf/settings/tip_adapter.yaml)",
        ),
        ("method=zero_shot dataset=eurosat", "defaults"),
    ],
)
def test_a_run_can_say_where_its_settings_came_from(choices, origin):
    assert settings_from(compose(choices.split())) == origin


@pytest.mark.parametrize(
    ("choices", "name"),
    [
        ("backbone=rn50", "rn50"),
        ("dataset=digits", "tiny"),
        ("backbone=vit_b16", "vit_b16"),
        ("backbone=rn50 backbone.architecture=ViT-B-16-quickgelu", "vit_b16"),
        ("backbone=rn50 backbone.pretrained=null", "RN50-quickgelu-random"),
        (
            "backbone=vit_b32 backbone.architecture=ViT-B-32 backbone.pretrained=laion400m_e32",
            "ViT-B-32-laion400m_e32",
        ),
        ("backbone=rn50 backbone.pretrained=/weights/mine.pt", "RN50-quickgelu-mine"),
        (
            "backbone=tiny backbone.architecture=local-dir:/elsewhere/tiny",
            "local-tiny",
        ),
        ("backbone=rn50 backbone.pretrained=null backbone.name=mine", "mine"),
    ],
)
def test_a_name_belongs_to_an_architecture_and_weights(choices, name):
    cfg = compose([*choices.split(), "paths.output=o"])
    assert cfg.backbone.name == name
    validate(cfg)


def test_the_name_of_another_backbone_is_refused():
    cfg = compose(["backbone=rn50", "backbone.pretrained=null", "backbone.name=rn50"])
    cfg.paths.output = "o"
    with pytest.raises(UserError, match=r"backbone\.name=rn50 stands for other weights"):
        validate(cfg)


def test_no_row_has_the_name_of_a_backbone_that_did_not_run(tmp_path):
    shutil.copytree(ROOT / "src/clip/tiny", tmp_path / "tiny")
    done = calipers(
        tmp_path, "-m", "dataset=digits", "backbone=tiny,rn50", "method=zero_shot",
        f"backbone.architecture=local-dir:{tmp_path}/tiny", "backbone.pretrained=null",
        "logger=none",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    records = [json.loads((job / "result.json").read_text()) for job in jobs(tmp_path)]
    assert [record["backbone"] for record in records] == ["local-tiny", "local-tiny"]
    assert all(record["weights"].startswith("sha256:") for record in records)
    assert "rn50" not in done.stdout.partition("all runs in")[2]
    assert "rn50" not in (tmp_path / "output/report/table.md").read_text()


def test_a_configuration_has_the_same_hash_wherever_the_project_lies(monkeypatch):
    cfg = compose(["dataset=digits", "paths.output=o", "backbone.name=tiny"])
    here = config_hash(cfg)
    moved = ROOT.parent / "elsewhere"
    cfg.backbone.architecture = cfg.backbone.architecture.replace(str(ROOT), str(moved))
    assert config_hash(cfg) != here
    monkeypatch.setattr("src.config.ROOT", moved)
    assert config_hash(cfg) == here


def test_recipes_name_collections_of_datasets():
    texts = [path.read_text() for path in (ROOT / "experiments").glob("*.yaml")]
    assert sum("${collection:eleven}" in text for text in texts) >= 4
    assert not any("oxford_pets,stanford_cars" in text for text in texts)
    known = {path.stem for path in (CONFIG_DIR / "dataset").glob("*.yaml")}
    for name, datasets in compose_collections().items():
        assert set(datasets) <= known, name
    assert len(compose_collections()["eleven"]) == 11


def compose_collections():
    from omegaconf import OmegaConf

    return OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / "collections.yaml"))
