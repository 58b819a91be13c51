"""The report on a real sweep, opened in a real browser."""

import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from src.results import formats
from src.results.outcome import Outcome
from src.results.record import Result
from src.results.summary_tables import Table
from tests.cli import ROOT, calipers, jobs, refused, run
from tests.results.test_formats import FULL, NASTY, PLAIN
from tests.results.test_record import RESULT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Run jobs that succeed and one that asks for too many shots; zero_shot is run only once."""
    folder = tmp_path_factory.mktemp("report")
    done = calipers(folder, "-m", "method=zero_shot,tip_adapter", "shots=1,2,500", "logger=none")
    assert done.returncode == 2, done.stderr
    assert "report/report.html" in done.stdout
    return folder / "output"


def test_the_answers_of_a_run_are_kept(sweep):
    result = Result.read(jobs(sweep.parent)[4] / "result.json")
    outcome = Outcome.read(jobs(sweep.parent)[4] / "outcome.safetensors")
    assert (outcome.label.dtype, outcome.prediction.dtype) == (np.int64, np.int64)
    assert outcome.confidence.dtype == np.float32
    assert outcome.class_names == list("0123456789")
    accuracy = 100 * np.mean(outcome.label == outcome.prediction)
    assert accuracy == pytest.approx(result.accuracy, abs=1e-4)
    assert np.mean(outcome.class_accuracy()) == pytest.approx(
        result.metrics["mean_class_accuracy"], abs=1e-4
    )
    assert list(outcome.search_axes) == ["beta", "alpha"]
    assert outcome.search.shape == (200, 20)
    # The search also looks between the points of the grid.
    assert outcome.search.max() <= result.validation_accuracy + 1e-4
    assert Outcome.read(jobs(sweep.parent)[0] / "outcome.safetensors").search is None


def test_a_sweep_ends_in_its_report_which_can_be_made_again(sweep, tmp_path):
    done = run("src.report", sweep, "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"report in {tmp_path}/report.html\n"
    for name in ("table.md", "table.csv", "table.tex", "runs.csv"):
        assert (tmp_path / name).read_bytes() == (sweep / "report" / name).read_bytes()
    figures = sorted(path.name for path in tmp_path.glob("figures/*"))
    assert figures == sorted(path.name for path in sweep.glob("report/figures/*"))
    assert "digits-tiny-tip_adapter-2_shots-search.svg" in figures
    page = (tmp_path / "report.html").read_text()
    assert "3 and 1 unfinished" in page
    assert "method=tip_adapter shots=500" in page


def test_the_command_of_a_run_in_a_sweep_is_that_run(sweep):
    _, _, module, *arguments = Result.read(jobs(sweep.parent)[4] / "result.json").command.split()
    done = run(module, *arguments, "--cfg", "job")
    assert (
        done.stdout.strip() == (jobs(sweep.parent)[4] / ".hydra/config.yaml").read_text().strip()
    ), done.stderr


def test_a_recipe_is_one_run_where_its_command_says_so():
    arguments = ("hydra.mode=RUN", "method=calip", "+experiment=offline_demo")
    done = run("src.run", *arguments, "--cfg", "hydra", "--package", "hydra.mode")
    assert done.stdout.strip().endswith("RUN"), done.stderr


@pytest.mark.parametrize(("folder", "message"), [("nowhere", "is missing"), (".", "no readable")])
def test_a_folder_without_runs_ends_in_one_message(tmp_path, folder, message):
    assert message in refused(run("src.report", tmp_path / folder))
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_needs_nothing_else_and_fits_its_window(sweep, browser, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((sweep / "report/report.html").as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert complaints == []
    assert [url for url in requests if not re.match(r"file:|data:", url)] == []
    assert len([url for url in requests if url.startswith("file:")]) == 1
    assert page.evaluate("document.documentElement.scrollWidth") == width
    drawn = page.evaluate("[...document.images].map(each => each.naturalWidth)")
    assert len(drawn) == 1 + 3 + 4
    assert min(drawn) > 300
    page.close()


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """Write the report on three methods of invented accuracies, on base and new classes."""
    folder = tmp_path_factory.mktemp("halves")
    for number, method in enumerate(("kernel_ridge", "clip_adapter", "coop")):
        for dataset in range(8):
            for seed in (1, 2):
                base, new = 70.0 + 5 * number + dataset + seed, 60.0 - dataset / 7 + number / seed
                found = {
                    "accuracy": base, "base_accuracy": base, "new_accuracy": new,
                    "harmonic_mean": 2 * base * new / (base + new),
                }  # fmt: skip
                replace(
                    RESULT, metrics=RESULT.metrics | found, method=method, shots=16, seed=seed,
                    dataset=f"d{dataset}", adapted_on=f"d{dataset}", protocol="base_to_new",
                ).write(folder / f"{number}-{dataset}-{seed}")  # fmt: skip
    # What is published of CoOp on DTD stands in its table.
    replace(
        RESULT, metrics=RESULT.metrics | found, method="coop", shots=16, dataset="dtd",
        adapted_on="dtd", protocol="base_to_new", backbone="vit_b16",
        weights="ViT-B-16-quickgelu/openai",
    ).write(folder / "published")  # fmt: skip
    assert run("src.report", folder).returncode == 0
    return folder / "report/report.html"


def test_on_a_phone_base_new_and_h_are_seen_without_scrolling_sideways(halves, browser):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(halves.as_uri())
    rooms = page.evaluate(
        "[...document.querySelectorAll('.halves')].map(each => [each.offsetWidth, "
        "each.parentElement.clientWidth, each.tHead.innerText])"
    )
    assert len(rooms) == 8 + 1 + 1
    for width, room, head in rooms:
        assert width <= room
        assert head.split() == ["method", "base", "new", "H"]
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    drawn = page.evaluate("[...document.images].map(each => [each.width, each.naturalWidth])")
    assert len(drawn) == 1, "the average ranks"
    assert drawn[0][0] > 0.7 * drawn[0][1], "letters would be too small"
    page.close()


@pytest.fixture
def board(halves, browser):
    """Open a page of several methods, datasets, protocols and backbones."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(halves.as_uri())
    yield page
    page.close()


def shown(page, selector):
    script = "all => all.filter(each => each.offsetParent).map(each => each.innerText)"
    return page.eval_on_selector_all(selector, script)


def test_a_table_is_sorted_by_any_column_with_the_keyboard(board):
    heading = board.locator(".board:visible table").first.locator("thead th").nth(2)
    column = ".board:nth-of-type(1) tbody tr td:nth-child(3)"
    before = shown(board, column)
    values = {}
    for order in ("descending", "ascending", None):
        heading.locator("button").press("Enter")
        assert heading.get_attribute("aria-sort") == order
        values[order] = shown(board, column)
    numbers = [float(value.split()[0]) for value in values["descending"]]
    assert len(numbers) == 3
    assert numbers == sorted(numbers, reverse=True)
    assert values["ascending"] == values["descending"][::-1]
    assert values[None] == before


def test_datasets_methods_and_backbones_are_filtered(board):
    everything = shown(board, ".board")
    board.locator("[name=dataset]").select_option("d3")
    assert all("d3" in text for text in shown(board, ".board"))
    board.locator("[name=method]").select_option("coop")
    boards = shown(board, ".board tbody th")
    assert len({*boards}) == 1
    assert board.get_by_role("status").inner_text().startswith(f"{len(boards)} row")
    board.get_by_role("button", name="Show all").click()
    board.wait_for_function("document.querySelector('[role=status]').innerText === ''")
    assert shown(board, ".board") == everything
    board.locator("[name=backbone]").select_option("vit_b16")
    assert all("vit_b16" in text for text in shown(board, ".board"))
    assert len(shown(board, ".board")) == 1


def test_without_its_script_the_page_is_read_all_the_same(halves, browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(halves.as_uri())
    assert not page.locator(".filters").is_visible()
    assert page.locator("thead button").count() == 0
    assert page.locator(".board").count() == len(page.locator(".board:visible").all())
    context.close()


def test_a_dark_page_and_its_figures_are_dark_and_print_is_not(halves, browser):
    page = browser.new_page(color_scheme="dark")
    page.goto(halves.as_uri())
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(20, 24, 28)"
    page.evaluate("document.querySelector('figure img').scrollIntoView()")
    drawn = page.locator("figure img").first.screenshot()
    page.emulate_media(color_scheme="light")
    assert page.locator("figure img").first.screenshot() != drawn
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    visible = "each => getComputedStyle(each).display"
    assert page.locator(".filters").evaluate(visible) == "none"
    assert page.locator(".on-paper").first.evaluate(visible) == "block"
    assert page.locator(".on-screen").first.evaluate(visible) == "none"
    page.close()


AXE = ROOT / "build/node_modules/axe-core/axe.min.js"


@pytest.mark.skipif(not AXE.is_file(), reason="npm install --no-save --prefix build axe-core")
@pytest.mark.parametrize(
    ("which", "scheme"), [("page", "light"), ("page", "dark"), ("index", "light")]
)
def test_nothing_keeps_anyone_from_reading_the_page(halves, browser, which, scheme):
    if which == "index":
        assert run("src.report", "--index", halves.parent).returncode == 0
    page = browser.new_page(color_scheme=scheme)
    page.goto((halves if which == "page" else halves.parent / "index.html").as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run()")
    assert len(found["passes"]) > 10
    assert [(one["id"], one["impact"]) for one in found["violations"]] == []
    page.close()


def test_results_are_written_for_others_and_merged_again(sweep, tmp_path):
    file = tmp_path / "mine.jsonl"
    done = run("src.report", sweep, "--submit-file", file)
    assert done.stdout == f"3 results in {file}: read it before you give it away\n", done.stderr
    assert str(sweep) not in file.read_text()
    done = run("src.report", file, "--output", tmp_path / "alone")
    assert done.returncode == 0, done.stderr
    for name in ("table.md", "table.csv"):
        assert (tmp_path / "alone" / name).read_text() == (sweep / "report" / name).read_text()
    assert "<h2>Measured by others</h2>" in (tmp_path / "alone/report.html").read_text()
    done = run("src.report", sweep, file, "--output", tmp_path / "both")
    assert done.stderr == ""
    page = (tmp_path / "both/report.html").read_text()
    assert page.count("In several places (the folders, ") == 1


def test_a_file_for_others_needs_its_name_and_results(sweep, tmp_path):
    assert "ends in .jsonl" in refused(run("src.report", sweep, "--submit-file", tmp_path / "a"))
    assert "no readable" in refused(
        run("src.report", tmp_path, "--submit-file", tmp_path / "a.jsonl")
    )
    assert not list(tmp_path.iterdir())


PDFLATEX = shutil.which("pdflatex")


@pytest.mark.skipif(PDFLATEX is None, reason="there is no pdflatex")
def test_the_tables_of_a_paper_are_compiled(tmp_path):
    cell = FULL._replace(by_seed={1: 92.0, 2: 92.5}, zero_shot=60.0, validation_free=True)
    tables = [
        Table(name, [name, "−"], {name: [cell, PLAIN], "b": [PLAIN, PLAIN]}, (name,))
        for name in ("plain", "plain", *NASTY)
    ]
    paper = [
        r"\documentclass{article}", r"\usepackage{booktabs}", r"\maxdeadcycles=500",
        r"\begin{document}", formats.latex(tables), r"\clearpage", r"\end{document}",
    ]  # fmt: skip
    (tmp_path / "paper.tex").write_text("\n".join(paper).replace(r"\end{table}", END))
    done = subprocess.run(
        [PDFLATEX, "-halt-on-error", "-interaction=nonstopmode", "-no-shell-escape", "paper"],
        cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2_000:]
    assert (tmp_path / "paper.pdf").is_file()
    assert "multiply defined" not in done.stdout


END = r"\end{table}" + "\n" + r"\clearpage"
"""LaTeX keeps no more than a few tables that float."""
