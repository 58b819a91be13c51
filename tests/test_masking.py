"""Secrets in a configuration: nothing that a run writes or says holds them."""

import json
from pathlib import Path

import pytest

from src.masking import masked, masked_overrides, masked_tree
from tests.cli import below, run

SECRETS = {
    "key": "s3cr3t of a key",
    "nested": "s3cr3t-in-a-dict",
    "url": "s3cr3t-in-a-url",
    "environment": "hf_s3cr3tFromTheEnvironment",
}


def typed() -> list[str]:
    return [
        f"+dataset.reader.hf_token='{SECRETS['key']}'",
        "+dataset.reader.more={password: %s}" % SECRETS["nested"],  # noqa: UP031
        f"tags=[https://me:{SECRETS['url']}@host/path]",
        "name=${oc.env:HF_TOKEN}",
    ]


def leaks(folder: Path, said: str) -> list[str]:
    found = [
        f"{path}: {kind}"
        for path in folder.rglob("*")
        if path.is_file()
        for kind, secret in SECRETS.items()
        if secret.encode() in path.read_bytes()
    ]
    return found + [f"screen: {kind}" for kind, secret in SECRETS.items() if secret in said]


@pytest.mark.parametrize("multirun", [False, True])
def test_a_secret_is_nowhere_in_what_runs_leave_and_say(tmp_path, multirun):
    methods = ["-m", "method=zero_shot,calip"] if multirun else ["method=zero_shot"]
    accepted = [one for one in typed() if "reader" not in one]
    for arguments, code in ((accepted, 0), (typed(), 2)):  # the reader takes no such setting
        folder = tmp_path / str(code)
        done = run(
            "src.run", *methods, "logger=csv_wandb", *below(folder), *arguments,
            HF_TOKEN=SECRETS["environment"], WANDB_MODE="offline",
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert leaks(folder, done.stdout + done.stderr) == []
        assert "what looks like a secret in the settings is written as ***" in done.stdout
    command = json.loads(next(tmp_path.glob("0/**/result.json")).read_text())["command"]
    assert "//***@host/path]" in command
    assert "HF_TOKEN" in command, "what names a secret is none"


def test_without_any_nothing_is_said_or_changed(tmp_path):
    key = tmp_path / "key.json"
    key.touch()
    done = run(
        "src.run", "method=zero_shot", f"name={key}", "logger=csv", *below(tmp_path),
        GOOGLE_APPLICATION_CREDENTIALS=str(key),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "secret" not in done.stdout
    assert not [path for path in tmp_path.rglob("*.yaml") if "***" in path.read_text()]


def test_a_sweep_that_does_not_begin_leaves_no_secret(tmp_path):
    done = run("src.run", "-m", "method=calip,nonsense", *below(tmp_path), *typed()[:3])
    assert done.returncode == 2
    assert "Choices: " in done.stderr
    assert (tmp_path / "output/multirun.yaml").is_file()
    assert leaks(tmp_path, done.stdout + done.stderr) == []


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("https://me:pw@host/a", "https://***@host/a"),
        ("https://ghp_abc@host/a?x=1", "https://***@host/a?x=1"),
        ("http://host/a?id=1&access_token=abc&b=2", "http://host/a?id=1&access_token=***&b=2"),
        ("{token: abc, shots: 1}", "{token: ***, shots: 1}"),
        ("db_password=abc method=calip", "db_password=*** method=calip"),
        ("use hf_abcdefghijklmnopqrstuvw here", "use *** here"),
        ("password=${oc.env:DB}", "password=${oc.env:DB}"),
        # no secrets
        ("method.head.n_tokens=16 someone@host.org", "method.head.n_tokens=16 someone@host.org"),
        ("the tokenizer: local-dir:/a/b", "the tokenizer: local-dir:/a/b"),
        ("https://host/a@b", "https://host/a@b"),
    ],
)
def test_what_looks_like_a_secret_is_masked_and_nothing_else(text, written):
    assert masked(text) == written


def test_a_key_masks_its_whole_value():
    tree = {"a": {"api_key": "one two", "n": 3}, "token": None, "list": ["x", {"secret": "y"}]}
    assert masked_tree(tree) == {
        "a": {"api_key": "***", "n": 3}, "token": None, "list": ["x", {"secret": "***"}],
    }  # fmt: skip
    assert masked_overrides(["+a.token=one two", "b=1", "-m"]) == ["+a.token=***", "b=1", "-m"]
