import re

import pytest
from hydra.errors import HydraException
from hydra.utils import get_class
from omegaconf import OmegaConf

from src.command_line import explain, run_command
from src.config import arrange, as_lists, compose, config_hash
from src.errors import UserError
from src.files import CONFIG_DIR
from src.job.assembly import make_class_prompts
from src.validation import validate


def choices(group):
    return sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))


@pytest.mark.parametrize(
    ("dataset", "method"),
    [(dataset, "tip_adapter_f") for dataset in choices("dataset")]
    + [("food101", method) for method in choices("method")],
)
def test_every_dataset_and_every_method_composes(dataset, method):
    cfg = compose([f"dataset={dataset}", f"method={method}", "paths.output=here"])
    assert (cfg.dataset.name, cfg.method.name) == (dataset, method)
    own = dict.fromkeys(("digits", "letters", "solids"), "tiny") | {"precomputed": "precomputed"}
    assert cfg.backbone.name == own.get(dataset, "rn50")
    if dataset != "precomputed":
        validate(cfg)
    for node in (cfg.method.head, cfg.method.module):
        get_class(node._target_)
    if cfg.method.search is not None and "outer" in cfg.method.search:
        outer = cfg.method.search.outer
        for axis in (*(outer if OmegaConf.is_list(outer) else [outer]), cfg.method.search.inner):
            assert cfg.method.head[axis.setting] > 0


@pytest.mark.parametrize("backbone", choices("backbone"))
def test_a_backbone_has_one_name_everywhere(backbone):
    assert compose([f"backbone={backbone}"]).backbone.name == backbone


def test_the_command_line_wins_over_what_datasets_and_methods_choose():
    assert compose(["dataset=digits", "backbone=rn50"]).backbone.name == "rn50"
    assert compose(["method=calip"]).selection.name == "fixed"
    assert compose(["method=calip", "selection=val"]).selection.name == "val"
    assert compose(["method=tip_adapter"]).selection.name == "val_few_shot"
    published = compose(["method=calip", "dataset=eurosat"]).method.head
    assert (published.beta2, published.beta3) == (6.08, 0.06)
    assert compose(["dataset=eurosat", "method.head.beta2=1"]).method.head.beta2 == 1


@pytest.mark.parametrize(
    ("shots", "epochs"), [(1, 50), (2, 100), (4, 100), (7, 100), (8, 200), (32, 200)]
)
def test_coop_trains_as_long_as_its_authors(shots, epochs):
    assert compose(["method=coop", f"shots={shots}"]).method.training.epochs == epochs


def test_bugs_are_not_explained():
    assert explain(KeyError("beta")) is None
    assert explain(FileNotFoundError(2, "gone", "somewhere")) is None
    assert explain(UserError("mend it")) == "mend it"


def test_the_config_hash_ignores_what_cannot_change_a_figure():
    def hashed(*overrides):
        return config_hash(compose(["method=tip_adapter", *overrides]))

    assert hashed() == hashed("paths.features=elsewhere", "logger=none", "force=true")
    others = {hashed(f"{change}") for change in ("seed=2", "method.head.beta=2.0", "shots=1")}
    assert len({hashed(), *others}) == 4


def test_a_part_that_a_method_has_not_changes_neither_its_hash_nor_the_images_it_sees():
    """A sweep over several methods may give all of them crops of the support set."""
    given = compose(["method=zero_shot", "++method.support.crops=2"])
    assert config_hash(given) == config_hash(compose(["method=zero_shot"]))
    assert given.method.support.crops == 2, "it is looked at only"
    others = [compose(["method=tip_adapter", f"method.support.crops={n}"]) for n in (2, 3)]
    assert len({*map(config_hash, others)}) == 2


def test_the_trainers_settings_are_part_of_a_configuration():
    """A sweep over `+trainer.gradient_clip_val` is several jobs."""
    hashes = {
        config_hash(compose(["method=coop", f"+trainer.{setting}"]))
        for setting in ("gradient_clip_val=0.1", "gradient_clip_val=9", "limit_test_batches=1")
    }
    assert len(hashes) == 3


@pytest.mark.parametrize(
    ("overrides", "drawn"),
    [
        (["method=zero_shot"], False),
        (["method=calip"], False),
        (["method=calip", "selection=val"], False),
        (["method=calip", "selection=val_few_shot"], True),
        (["method=tip_adapter", "selection=fixed"], True),
        (["method=coop"], True),
        (["method=coop", "ckpt_path=c.ckpt"], False),
        (["method=coop", "ckpt_path=c.ckpt", "conformal=lac"], False),
        (["method=zero_shot", "calibrate=temperature", "selection=val"], False),
        (["method=zero_shot", "calibrate=temperature", "selection=val_few_shot"], True),
    ],
)
def test_shots_and_seed_count_only_where_they_choose_images(overrides, drawn):
    first, other = (compose([*overrides, f"shots={n}", f"seed={n}"]) for n in (1, 9))
    assert (config_hash(first) != config_hash(other)) == drawn


def test_the_seed_alone_counts_where_it_chooses_what_calibrates_sets():
    def hashed(*overrides):
        return config_hash(compose(["method=zero_shot", "conformal=lac", *overrides]))

    assert hashed() == hashed("shots=9")
    assert hashed() != hashed("seed=9")


def test_calibration_counts_where_there_is_one_and_earlier_runs_keep_their_hash():
    def hashed(*overrides):
        return config_hash(compose(["method=calip", "selection=val", *overrides]))

    assert hashed() == hashed("coverage=0.5") == "45b9887418c6d0c1"
    others = {"calibrate=temperature", "conformal=aps", "conformal=raps"}
    both = hashed("conformal=aps", "coverage=0.5")
    assert len({hashed(), both, *(hashed(other) for other in others)}) == 5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["dataset.templates=a photo of a {}."], r"cannot read 'dataset.templates=a .* quote"),
        (["dataset.name=2024", "paths.output=x"], r"dataset\.name=2024 is not text"),
        (["batch_size=abc", "paths.output=x"], "batch_size=abc is not an integer from 1"),
        (["backbone.batch_size=0", "paths.output=x"], r"backbone\.batch_size=0 is not"),
    ],
)
def test_a_setting_of_another_type_is_named(overrides, message):
    with pytest.raises((UserError, HydraException)) as caught:
        validate(compose(overrides))
    assert re.search(message, explain(caught.value))


def test_an_interrupted_command_ends_without_a_traceback(capsys):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        run_command(interrupted)
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_templates_that_are_no_list_are_the_users_mistake():
    cfg = compose(["dataset=dtd", "dataset.templates='{} texture.'"])
    with pytest.raises(UserError, match=r"dataset\.templates=\{\} texture\. is not a list"):
        make_class_prompts(cfg, ["a"])


def test_several_datasets_are_one_list():
    arguments = ["-m", "eval_dataset=a,b", "method=a,b", "eval_dataset=[c]", "eval_dataset=d"]
    assert as_lists(arguments, "eval_dataset") == [
        "-m", "eval_dataset=[a,b]", "method=a,b", "eval_dataset=[c]", "eval_dataset=[d]"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("method=calip -m seed=1,2", "-m method=calip seed=1,2"),
        ("seed=0 --multirun shots=1,2 --cfg job", "--multirun --cfg job seed=0 shots=1,2"),
        ("--seed=1 --method.head.beta2=0.5", "seed=1 method.head.beta2=0.5"),
        ("seed=1 --config-name=other", "--config-name=other seed=1"),
        ("a=-1 +b=--c ~d", "a=-1 +b=--c ~d"),
        ("seed=1 --help", "--help seed=1"),
    ],
)
def test_options_may_stand_anywhere_and_overrides_may_have_hyphens(typed, meant):
    assert arrange(typed.split()) == meant.split()
