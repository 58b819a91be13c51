"""The real command lines, as a user starts them."""

import atexit
import io
import json
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120", "WANDB_API_KEY": ""}

# Imports take most of a command's time. A server process therefore imports everything once, and
# forks a child for each command; the child runs all of it, from command line to exit code.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["src.job.assembly", "src.methods.checkpoint", "open_clip", "wandb"])


def start(module: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Start `python -m module arguments` in the project's root."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        env=ENVIRONMENT | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    output, errors = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def run(module: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m module arguments` in the project's root and wait until it ends."""
    words = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ("output", "errors")]
        process = FORKS.Process(
            target=_be_command, args=(module, words, ENVIRONMENT | environment, streams)
        )
        process.start()
        process.join(timeout=300)
        process.kill()  # It may hang.
        output, errors = (stream.read_text() for stream in streams)
    return subprocess.CompletedProcess([module, *words], process.exitcode, output, errors)


def _be_command(
    module: str, arguments: Sequence[str], environment: Mapping[str, str], streams: Sequence[Path]
) -> None:
    for descriptor, stream in enumerate(streams, start=1):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    atexit._clear()  # The parent cleans up what it registered before the fork.
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # Multiprocessing does not run these functions.


def calipers(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `src.run` with its output, store and data below `folder`."""
    flags = [argument for argument in arguments if argument == "-m"]
    return run("src.run", *flags, *below(folder), *(a for a in arguments if a != "-m"))


def below(folder: Path) -> list[str]:
    return [
        f"hydra.run.dir={folder}/output",
        f"hydra.sweep.dir={folder}/output",
        f"paths.features={folder}/features",
        f"paths.data={folder}/data",
    ]


def result(folder: Path) -> dict:
    return json.loads((folder / "output/result.json").read_text())


def jobs(folder: Path) -> list[Path]:
    """List the folders of a sweep's jobs, in the order of their numbers."""
    journal = (folder / "output/jobs.jsonl").read_text().splitlines()[1:]
    return [folder / "output" / name for _, name, _ in sorted(map(json.loads, journal))]


def refusal(folder: Path, *arguments: object) -> str:
    """Run `src.run` in this process, which saves the imports; return its error message."""
    from src.command_line import run_command
    from src.run import main

    errors = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(errors):
        patch.setattr(sys, "argv", ["run", *below(folder), *map(str, arguments)])
        GlobalHydra.instance().clear()
        with pytest.raises(SystemExit) as ended:
            run_command(main)
    code = ended.value.code
    return refused(subprocess.CompletedProcess([], int(code or 0), "", errors.getvalue()))


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """Check that a user's mistake ended in one message and nothing else; return the message."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    messages = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(messages) == 1, done.stderr
    return messages[0]
