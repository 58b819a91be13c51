"""What a person sees in a terminal: nothing cut, nothing that collides, nothing left over."""

import fcntl
import multiprocessing
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
from types import SimpleNamespace

import pytest
from rich.text import Text

from src.bars import Bar
from src.choices import groups, show
from src.config import compose
from src.job.trainer import for_trainer, make_trainer
from src.terminal import print_rows
from tests.cli import ENVIRONMENT, ROOT, run
from tests.test_docs import check, check_run

LABELS = ("dataset", "method", "selection")
ROWS = [
    {"dataset": "oxford_flowers", "method": "tip_adapter_f (beta=[5.5])", "selection": "val"}
    | {f"figure {number}": f"{10 * number + 0.25:.2f}±1.50" for number in range(8)},
    {"dataset": "dtd", "method": "a_name_of_more_than_forty_characters_in_all", "selection": "test"}
    | {f"figure {number}": f"{10 * number + 0.75:.2f}" for number in range(8)},
]
WIDTHS = [50, 60, 80, 120, 200]
MOVE = re.compile(rb"\x1b\[\??([\d;]*)([A-Za-z])|\r|\n|[^\x1b\r\n]+")


@pytest.mark.parametrize("width", WIDTHS)
def test_a_table_fits_and_every_cell_is_whole(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    print_rows([{key: Text(cell) for key, cell in row.items()} for row in ROWS], LABELS, LABELS)
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    assert lines[0] == "", "it stands apart from what is above it"
    assert lines[-1].strip(), "and is the last thing that is printed"
    for row in ROWS:
        for cell in row.values():
            assert any(cell in line for line in lines), cell


def test_a_row_whose_labels_leave_no_room_is_a_block(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "50")
    notes = " ".join(["a few words"] * 6)
    row = {"method": "m" * 40, "accuracy": "81.25", "class mean": "", "notes": notes}
    print_rows([{key: Text(cell) for key, cell in row.items()}], ["method"], ["method"])
    assert capsys.readouterr().out == (
        f"\nmethod {'m' * 40}\n  accuracy 81.25\n"
        "  notes a few words a few words a few words a few\n  words a few words a few words\n"
    )


@pytest.mark.parametrize("width", [60, 80])
def test_choices_fit_and_their_names_are_whole(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    for group in groups():
        show(group)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    starts = {line.split()[0] for line in lines}
    assert {"+experiment=ablation_tip_adapter_cache_size", "method=em_dirichlet_fs"} <= starts
    assert "calipers[hub]" in "".join(lines), "brackets are no markup"


def help_of(*words):
    done = run("src.run", *words, "--help")
    assert done.returncode == 0, done.stderr
    by_aim, settings, _ = done.stdout.partition("All settings of this run")
    assert settings
    return by_aim.splitlines(), done.stdout


def test_help_fits_and_all_that_it_says_can_be_typed(monkeypatch):
    lines, whole = help_of()
    assert max(map(len, whole.splitlines())) <= 80
    typed = [re.split(r"\s{2,}", line.strip())[0] for line in lines if re.match(r"  \S", line)]
    assert len(typed) > 25
    for line in typed:
        match shlex.split(line):
            case ["python", "-m", module, *words]:
                if module == "src.run" and any(word.startswith("show=") for word in words):
                    assert all(word.removeprefix("show=") in groups() for word in words)
                elif "--cfg" in words:
                    check_run([word for word in words if word not in ("--cfg", "job")])
                else:
                    check(module, words, monkeypatch)
            case ["eval", code]:
                assert code == "$(python -m src.completion bash)"
            case [first, *rest] if first.startswith("hydra/launcher="):
                assert rest == ["hydra.launcher.n_jobs=2"]
            case ["method.head.alpha=2"]:
                check_run(["method=tip_adapter_f", "method.head.alpha=2"])
            case words:
                assert all("=" in word for word in words), line
                check_run([word for word in words if not word.startswith("hydra.")])


def test_help_lists_the_settings_of_what_is_chosen():
    _, whole = help_of("method=coop")
    assert "\n  name: coop\n" in whole
    assert "\nshots: 16\n" in whole


def test_only_the_process_that_the_user_started_has_bars(monkeypatch, tmp_path):
    cfg = compose([f"paths.output={tmp_path}", "trainer.accelerator=cpu"])

    def bars(given):
        return [one for one in make_trainer(given, logger=False).callbacks if isinstance(one, Bar)]

    monkeypatch.setattr(multiprocessing, "parent_process", lambda: None)
    assert bars(cfg)
    first = for_trainer(cfg)
    monkeypatch.setattr(multiprocessing, "parent_process", SimpleNamespace)
    assert not bars(cfg)
    assert bars(first), "a process that this one starts may have them"
    assert not bars(for_trainer(cfg)), "one that a launcher's process starts may not"


def on_terminal(width, *words, **environment):
    """Run a command in a terminal; return what it wrote, and what was to be seen afterwards."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    env = {key: value for key, value in ENVIRONMENT.items() if key not in ("COLUMNS", "LINES")}
    env |= {"TERM": "xterm-256color", "OMP_NUM_THREADS": "1"} | environment
    command = [sys.executable, "-m", *words]
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=theirs, stderr=theirs)
    os.close(theirs)
    written = b""
    while True:
        try:
            some = os.read(ours, 65536)
        except OSError:  # Linux's word for the end
            break
        written += some
    os.close(ours)
    assert process.wait() == 0, written.decode()
    return written, screen(written)


def screen(written):
    """Do what a terminal does with text, new lines, and what removes a bar."""
    lines, row, column = [""], 0, 0
    for found in MOVE.finditer(written.replace(b"\x1b[?", b"\x1b[")):
        text, kind = found[0].decode(), found[2]
        if text == "\r":
            column = 0
        elif text == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif kind == b"A":
            row -= int(found[1] or 1)
        elif kind == b"K":
            lines[row] = ""
        elif kind is None:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + text + line[column + len(text) :]
            column += len(text)
    return lines


def test_a_terminal_overwrites_and_erases():
    written = b"a\r\n\x1b[?25lbar\r\x1b[2K\x1b[1A\x1b[2Kb\r\nlast\r\x1b[1;35mL"
    assert screen(written) == ["b", "Last"]


@pytest.mark.slow
@pytest.mark.parametrize("logger", ["none", "csv"])
def test_a_run_leaves_its_table_and_no_bar(tmp_path, logger):
    words = ("src.run", "method=clip_adapter", "shots=1", "method.training.epochs=2")
    folders = (f"hydra.run.dir={tmp_path}/run", f"paths.features={tmp_path}/features")
    written, lines = on_terminal(80, *words, *folders, f"logger={logger}")
    for bar in ("Encoding", "Epoch 1/1", "Testing"):
        assert bar.encode() in written
        assert bar not in "".join(lines)
    *_, last, end = lines
    assert last.startswith("clip_adapter ")
    assert end == "", "the prompt is at the beginning of the next line"
    title = lines.index(f"results in {tmp_path}/run")
    assert max(len(line.rstrip()) for line in lines[title + 1 :]) <= 80


@pytest.mark.slow
def test_jobs_side_by_side_write_whole_lines(tmp_path):
    sweep = ("-m", "method=tip_adapter_f,clip_adapter", "shots=1,2", "dataset=digits")
    launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "logger=none")
    folders = (f"hydra.sweep.dir={tmp_path}/sweep", f"paths.features={tmp_path}/features")
    written, lines = on_terminal(80, "src.run", *sweep, *launcher, *folders)
    assert b"\x1b[2K" not in written, "no bar"
    title = next(number for number, line in enumerate(lines) if line.startswith("all runs in "))
    jobs = [line for line in lines[:title] if line.startswith("[")]
    whole = r"\[\d/4\] dataset=\w+ method=\w+ shots=\d: \d\d\.\d\d %(, about \d+ min left)?"
    assert len(jobs) == 4
    assert all(re.fullmatch(whole, line) for line in jobs)
    assert not any(re.search(r".(extracting \w+/|\[\d/4\])", line) for line in lines[:title])
    *table, last, end = lines
    assert last == f"report in {tmp_path}/sweep/report/report.html"
    assert end == ""
    assert table[-1].strip(), "no blank line"
