"""`calipers` as `pip install` leaves it, from folders that are no checkout."""

import json
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from src.calipers import COMMANDS
from src.data import digits
from tests.cli import ENVIRONMENT, ROOT, calipers, refused

COMMAND = "from src.calipers import main; main()"
ABOUT_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def start(*arguments, code=COMMAND, cwd=ROOT):
    """Start the command as pip's own script does, with the checkout's code."""
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *map(str, arguments)],
        env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)}, cwd=cwd, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def test_help_names_every_command_and_imports_none():
    told = "import atexit, sys; atexit.register(lambda: print(sorted(sys.modules)));"
    done = start("--help", code=told + COMMAND)
    assert done.returncode == 0, done.stderr
    shown, _, modules = done.stdout.rpartition("[")
    assert [line.split()[0] for line in shown.splitlines() if line[:2] == "  "] == list(COMMANDS)
    for heavy in ("hydra", "numpy", "omegaconf", "rich", "torch", "src.config"):
        assert f"'{heavy}'" not in modules


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu"], "there is no command 'rnu'. Did you mean run? There are run, "),
        (["depth_maps"], "Did you mean depth-maps?"),
        (["method=calip"], "there is no command 'method=calip'. Did you mean run? "),
        ([], "name a command, one of run, "),
    ],
)
def test_a_misspelt_command_is_refused_with_the_near_one(arguments, message):
    assert message in refused(start(*arguments))


def test_a_command_is_the_module_itself_and_not_a_folder_called_src(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src/__init__.py").write_text("raise SystemExit(99)")
    assert "usage: python -m src.report" in start("report", "--help", cwd=tmp_path).stdout
    done = start("report", "nowhere", cwd=tmp_path)
    assert "nowhere" in refused(done)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_every_command_has_a_module(command):
    assert find_spec(command.module) is not None


def test_every_package_is_one_of_the_distribution():
    found = {path.parent.relative_to(ROOT) for path in (ROOT / "src").rglob("__init__.py")}
    names = [".".join(path.parts) for path in found]
    assert sorted([*names, "src.conf"]) == ABOUT_PROJECT["tool"]["setuptools"]["packages"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"  # the checkout may hold an older build/, and is not written into
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for name in ("src", "conf", "experiments", "tests", "benchmarks"):
        shutil.copytree(
            ROOT / name, tree / name, symlinks=True,
            ignore=shutil.ignore_patterns("__pycache__", ".*"),
        )  # fmt: skip
    words = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, tree]
    subprocess.run([sys.executable, "-m", "pip", "-q", *words], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_a_wheel_holds_the_code_the_choices_and_the_recipes_and_nothing_else(wheel):
    def below(folder):
        files = (ROOT / folder).rglob("*")
        return {
            path.relative_to(ROOT / folder).as_posix()
            for path in files
            if path.is_file() and "__pycache__" not in path.parts and path.name[0] != "."
        }

    expected = {f"src/{name}" for name in below("src")}
    expected |= {f"src/conf/{name}" for name in below("conf") if "experiment/" not in name}
    expected |= {f"src/conf/experiment/{name}" for name in below("experiments")}
    with zipfile.ZipFile(wheel) as archive:
        held = archive.namelist()
    about = {name for name in held if name.startswith("calipers-")}
    assert set(held) - about == expected
    assert len(held) == len(set(held))
    assert {Path(name).parts[0].split("-")[0] for name in about} == {"calipers"}
    assert "src/conf/experiment/published.json" in held
    assert "src/clip/tiny/model.safetensors" in held


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Install the wheel in an environment of its own, within somebody's repository.

    Its dependencies are those of this environment. Gives the folder and what runs a command there.
    """
    folder = tmp_path_factory.mktemp("user")
    identity = ("-c", "user.name=user", "-c", "user.email=user@example.org")
    for words in (["init", "-q"], [*identity, "commit", "-q", "--allow-empty", "-m", "theirs"]):
        subprocess.run(["git", "-C", folder, *words], check=True)
    (folder / "src").mkdir()
    (folder / "src/__init__.py").write_text("raise SystemExit(99)")
    environment = folder / ".venv"
    venv.create(environment, symlinks=True)
    own = sysconfig.get_path("purelib", vars={"base": str(environment)})
    python = environment / "bin/python"
    words = ["--python", python, "install", "-q", "--no-deps", "--no-index", wheel]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)
    Path(own, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def command(*arguments, program="calipers"):
        variables = {key: value for key, value in ENVIRONMENT.items() if key[:6] != "PYTHON"}
        return subprocess.run(
            [environment / "bin" / program, *map(str, arguments)],
            cwd=folder, env=variables, capture_output=True, text=True, timeout=300,
            check=False,
        )  # fmt: skip

    where = "import src.files, sys; print(src.files.CONFIG_DIR, sys.path)"
    shown = command("-P", "-c", where, program="python").stdout
    assert shown.startswith(f"{own}/src/conf ")
    assert f"'{ROOT}'" not in shown
    return folder, command


RUN = ["method=tip_adapter", "dataset=digits", "logger=none", "shots=2"]


@pytest.fixture(scope="module")
def made(installed):
    """Adapt with what is installed; give the folder of the run, whose paths are relative."""
    folder, command = installed
    done = command("run", *RUN, "hydra.run.dir=outputs/first")
    assert done.returncode == 0, done.stderr
    assert (folder / "features").is_dir()
    return folder / "outputs/first"


@pytest.mark.slow
def test_an_installed_run_is_that_of_a_checkout(made, tmp_path):
    done = calipers(tmp_path, *RUN, f"paths.features={made.parents[1]}/features")
    assert done.returncode == 0, done.stderr
    theirs, ours = (
        json.loads((folder / "result.json").read_text()) for folder in (made, tmp_path / "output")
    )
    for same in ("config_hash", "accuracy", "published", "hyperparameters"):
        assert theirs[same] == ours[same]
    assert theirs["git_revision"] is None, "that of the user's repository is another program's"


@pytest.mark.slow
def test_a_classifier_goes_from_a_checkout_to_an_installation_and_back(made, installed, tmp_path):
    folder, command = installed
    from src.classifier.classifier import load

    assert load(made).about.backbone == "tiny"
    assert calipers(tmp_path, *RUN).returncode == 0
    data = digits.read()
    for item in data.splits["test"][:20]:
        path = folder / "pictures" / str(item.label) / f"{item.key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.pixels[int(item.key)]).save(path)
    answers = []
    for model in (made, tmp_path / "output"):
        done = command("predict", f"model={model}", "images=pictures")
        assert done.returncode == 0, done.stderr
        assert "20 images classified in predictions.csv" in done.stdout
        answers.append((folder / "predictions.csv").read_text())
    assert answers[0] == answers[1]


@pytest.mark.slow
def test_recipes_reports_and_features_work_where_they_are_installed(made, installed):
    folder, command = installed
    done = command("run", "+experiment=demo", "logger=none", "hydra.sweep.dir=outputs/demo")
    assert done.returncode == 0, done.stderr
    assert "zero_shot" in done.stdout
    assert (folder / "outputs/demo/report/report.html").is_file()
    assert "report in" in command("report", "outputs/first").stdout
    shown = command("features", "ls").stdout
    assert "digits" in shown
    assert "entries: 0" not in shown
    assert "gda" in command("methods").stdout
    assert command("dashboard", "--entity=me", "--dry-run").stdout.startswith("view")
    message = refused(command("run", "dataset=digit"))
    assert "Did you mean digits" in message


@pytest.mark.slow
def test_a_sweep_in_other_processes_finds_the_installed_package(installed):
    folder, command = installed
    done = command(
        "run", "-m", *RUN, "seed=1,2", "hydra/launcher=submitit_local",
        "hydra.sweep.dir=outputs/processes",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(list(folder.glob("outputs/processes/*/result.json"))) == 2
