"""The choices of conf/, listed, and suggested for names that are not quite theirs."""

import pytest

from src.choices import described, near
from src.errors import UserError
from tests.cli import refused, run


@pytest.mark.parametrize("group", ["dataset", "method", "backbone", "experiment", "protocol"])
def test_every_choice_says_what_it_is(group):
    assert all(described(group).values())


def test_choices_are_listed_with_a_sentence_each():
    done = run("src.run", "show=dataset", "show=experiment", COLUMNS="120")
    assert done.returncode == 0, done.stderr
    lines = dict(
        line.rstrip().split(maxsplit=1) for line in done.stdout.splitlines() if "=" in line
    )
    assert lines["dataset=dtd"] == (
        "Describable Textures: 47 kinds of texture (Cimpoi et al., CVPR 2014)"
    )
    assert lines["+experiment=demo"].startswith("what does CALIP's parameter-free attention add")
    assert "Command:" not in done.stdout


def test_a_group_that_is_not_there_is_refused():
    assert "show=datset: there is no such group of choices. Did you mean dataset?" in refused(
        run("src.run", "show=datset")
    )
    with pytest.raises(UserError, match=r"show=\.\./conf: there is no such"):
        described("../conf")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("EuroSAT", "eurosat"),
        ("ViT-B/32", "vit_b32"),
        ("Tip-Adapter-F", "tip_adapter_f"),
        ("eurosta", "eurosat"),
    ],
)
def test_a_name_as_papers_write_it_is_understood(name, meant):
    known = ["tip_adapter", "tip_adapter_f", "eurosat", "vit_b32", "vit_b16"]
    assert near(name, known).startswith(f"Did you mean {meant}")


def test_a_name_like_none_suggests_nothing():
    assert near("xyz", ["eurosat", "dtd"]) == ""


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("backbone=ViT-B/32", "there is no backbone called 'ViT-B/32'. Did you mean vit_b32?"),
        ("experiment=demo", "a recipe is given with a plus, as +experiment=demo"),
    ],
)
def test_a_choice_as_one_would_type_it_is_explained(tmp_path, setting, said):
    assert said in refused(run("src.run", f"hydra.run.dir={tmp_path}", setting))
