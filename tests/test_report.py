"""The report on a real sweep, opened in a real browser."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from src.results.outcome import Outcome
from src.results.record import Result
from tests.cli import calipers, jobs, refused, run
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
