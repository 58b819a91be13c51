"""The real command lines, as a user starts them."""

import atexit
import io
import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, suppress
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


class Forked:
    """`python -m module arguments` in the project's root, as a fork of the server process.

    It can be waited for and killed as `start`'s process can, which takes longer to start. What is
    read from the environment when a library is imported is not what is given here.
    """

    def __init__(self, module: str, *arguments: object, **environment: str) -> None:
        self.args = [module, *map(str, arguments)]
        self._folder = tempfile.TemporaryDirectory()
        self._streams = [Path(self._folder.name, name) for name in ("output", "errors")]
        self._process = FORKS.Process(
            target=_be_command,
            args=(module, self.args[1:], ENVIRONMENT | environment, self._streams),
        )
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, sent: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # It has ended.
            os.kill(self.pid, sent)

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Wait, for so many seconds at most; return what was written to both streams."""
        self._process.join(timeout)
        self._process.kill()  # It may hang.
        self._process.join()
        output, errors = (stream.read_text() for stream in self._streams)
        self._folder.cleanup()
        return output, errors


def finish(process: subprocess.Popen[str] | Forked) -> subprocess.CompletedProcess[str]:
    """Wait until a command ends."""
    output, errors = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def run(module: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m module arguments` in the project's root and wait until it ends."""
    return finish(Forked(module, *arguments, **environment))


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
        # Python ends in this order; multiprocessing waits for joblib's processes before it ends its
        # threads, and calls none of these functions.
        threading._shutdown()
        atexit._run_exitfuncs()


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
