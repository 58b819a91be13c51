"""The demo in a real browser, and what it takes from whom."""

import os
import re
import signal
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from src.api import fit
from src.classifier.classifier import Classifier
from src.command_line import run_command
from src.data import digits
from src.demo import __main__ as command
from src.demo import page as html
from src.demo import server
from src.demo.answer import classify
from src.demo.settings import Settings
from src.errors import UserError
from src.features.point_clouds import DepthMapClip
from src.heads.multi_view import MultiView
from src.typed import read
from tests.cli import ENVIRONMENT, FORKS, _be_command
from tests.test_report import ARGUMENTS, CHROMIUM

pytestmark = pytest.mark.filterwarnings("ignore:::gradio")
HOSTILE = [
    "<img src=x onerror=window.hit=1>",
    "${window.hit=2}`${window.hit=3}`",
    "{{#each value}}{{this}}{{/each}}",
    "</script><script>window.hit=4</script>",
    "' onload='window.hit=5' \"><svg onload=window.hit=6>",
]
NAMES = [*HOSTILE, "a" * 120, *"6789"]
ADAPTED_ON = {
    "dataset": HOSTILE[3], "shots": 16, "seed": 2, "selection": "test", "accuracy": 76.543,
    "n_test": 1234, "interval": (74.1, 78.85),
}  # fmt: skip
CONFORMAL = {"score": "lac", "coverage": 0.9, "threshold": 0.9999, "images": 100}


@pytest.fixture(scope="module")
def fitted():
    templates = ['a photo of the number: "{}".']
    return {
        method: fit([], [], list("0123456789"), method, "tiny", templates=templates)
        for method in ("calip", "zero_shot")
    }


@pytest.fixture(scope="module")
def hostile(fitted):
    """CALIP, of which every word that somebody else may choose is code."""
    fitted = fitted["calip"]
    about = replace(
        fitted.about, class_names=NAMES, adapted_on=ADAPTED_ON, temperature=1.5, conformal=CONFORMAL
    )
    return Classifier(about, fitted.head, {}, fitted.clip)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    data = digits.read()
    pixels = data.pixels[int(data.splits["test"][0].key)]
    path = tmp_path_factory.mktemp("picture") / f"{HOSTILE[0]}{HOSTILE[1]}{{{{7}}}}.png"
    Image.fromarray(pixels).save(path)
    return path


@contextmanager
def served(classifier, folder, uploads):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(server.UPLOADS, str(uploads))
        patch.setenv(server.ANALYTICS, "False")
        serving = server.make_server(classifier, folder)
        with server.listening("127.0.0.1", 0) as heard:
            thread = threading.Thread(target=serving.run, kwargs={"sockets": [heard]})
            thread.start()
            try:
                yield f"http://127.0.0.1:{heard.getsockname()[1]}"
            finally:
                serving.should_exit = True
                thread.join()


@pytest.fixture(scope="module")
def uploads(tmp_path_factory):
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def address(hostile, uploads):
    with served(hostile, f"runs/{HOSTILE[0]}", uploads) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def width_of(page):
    """Give the width of the page, in which nothing sticks out of its own place."""
    wide = "[...document.querySelectorAll('.page *')].filter(e => e.scrollWidth > e.clientWidth)"
    inner = f"{wide}.filter(e => e.clientWidth).map(e => e.outerHTML)"
    assert page.evaluate(inner) == []
    return page.evaluate("document.documentElement.scrollWidth")


@pytest.mark.parametrize("width", [1280, 390])
def test_a_picture_is_classified_where_it_lies_and_names_are_text(
    hostile, picture, address, uploads, browser, width
):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="dark")
    complaints, requests = [], []
    page.on("console", lambda one: complaints.append(one.text) if one.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    page.set_input_files("input[type=file]", picture)
    page.wait_for_selector(".answer")
    page.wait_for_selector("#drop button:has-text('Drop')")  # it is ready for the next one

    probability = hostile.predict_proba(picture)[0]
    order = np.argsort(-probability, kind="stable")
    assert page.locator(".bars .name").all_inner_texts() == [NAMES[label] for label in order]
    shown = page.locator(".bars .percent").all_inner_texts()
    assert shown == [f"{100 * probability[label]:.1f} %" for label in order]
    sets = [NAMES[label] for label in order if 1 - probability[label] <= CONFORMAL["threshold"]]
    assert 1 < len(sets) < len(NAMES)
    assert page.locator(".chosen b").inner_text() == ", ".join(sets)
    assert page.locator("figcaption").inner_text() == picture.name
    drawn = "[...document.querySelectorAll('.answer img')].map(one => one.naturalWidth)"
    assert page.evaluate(drawn) == [8, 690]
    assert page.locator(".attention").is_visible()

    assert page.locator("h1").inner_text() == f"calip on {HOSTILE[3]}"
    facts = zip(
        page.locator("dt").all_inner_texts(), page.locator("dd").all_inner_texts(), strict=True
    )
    assert dict(facts)["folder"] == f"runs/{HOSTILE[0]}"
    assert page.evaluate("[window.hit, document.body.classList.contains('dark')]") == [None, False]
    assert (width_of(page), complaints) == (width, [])
    assert {url for url in requests if not re.match(rf"{address}/|data:|blob:", url)} == set()
    assert files(uploads) == []
    page.close()


def test_what_cannot_be_classified_is_one_message(address, picture, uploads, browser, tmp_path):
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.goto(address)
    text, cut, bomb, narrow = (tmp_path / f"{name}.png" for name in ("text", "cut", "bomb", "long"))
    text.write_text("<b>no image</b>")
    cut.write_bytes(picture.read_bytes()[:100])
    Image.new("1", (10_000, 9_000)).save(bomb)
    Image.new("1", (1_000, 1)).save(narrow)
    for path, reason in (
        (text, "not an image"),
        (cut, "truncated"),
        (bomb, "too large"),
        (narrow, "too long and narrow"),
    ):
        page.set_input_files("input[type=file]", path)
        page.wait_for_selector(f".mistake:has-text('{path.name} cannot be used: ')")
        assert reason in page.locator(".mistake").inner_text()
        page.wait_for_selector("#drop button:has-text('Drop')")
    assert page.locator(".answer").count() == 0
    assert width_of(page) == 390
    assert files(uploads) == []
    page.close()


def test_a_request_reaches_no_other_file_and_no_other_host(address, picture):
    """Gradio itself would open both, within a server that it did not start."""
    for named in (str(picture), "../../etc/hostname", f"{address}/favicon.ico", address):
        assert httpx.get(f"{address}/gradio_api/file={named}").status_code in {403, 404}
        dropped = {"path": named, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
        asked = {"data": [dropped], "fn_index": 0, "session_hash": "me"}
        assert httpx.post(f"{address}/gradio_api/queue/join", json=asked).status_code == 200
        answers = httpx.get(f"{address}/gradio_api/queue/data?session_hash=me").text
        assert "This is no upload." in answers
        assert "%" not in answers
    assert picture.exists()
    assert "default-src 'self';" in httpx.get(address).headers["content-security-policy"]


def test_a_head_without_attention_shows_none(fitted, picture):
    said = classify(fitted["zero_shot"], picture, "a")
    assert said.attention is None
    np.testing.assert_array_equal(said.probabilities, fitted["zero_shot"].predict_proba(picture)[0])
    shown = html.answer(fitted["zero_shot"].about, said)
    assert 'class="attention"' not in shown
    assert "Set of classes" not in shown


def test_a_point_cloud_is_shown_by_its_depth_maps(fitted, tmp_path):
    path, view_weights = tmp_path / "cloud.npy", [1.0] * 6
    np.save(path, np.random.default_rng(1).normal(size=(50, 3)))
    image = fitted["zero_shot"]
    about = replace(image.about, view_weights=view_weights, points=64)
    clip = DepthMapClip.load_for(image.about.architecture, image.about.pretrained, 6)
    classifier = Classifier(about, MultiView(image.head, view_weights), {}, clip)
    said = classify(classifier, path, "cloud.npy")
    assert list(said.seen) == ["0°", "90°", "180°", "270°", "top", "bottom"]
    assert all(0 < np.asarray(one).astype(bool).sum() <= 50 for one in said.seen.values())
    np.testing.assert_array_equal(said.probabilities, classifier.predict_proba(path)[0])
    assert html.answer(about, said).count("<figure>") == 6
    np.save(path, np.zeros((50, 2)))
    with pytest.raises(UserError, match=r"^cloud\.npy cannot be used: does not hold points"):
        classify(classifier, path, "cloud.npy")


def test_the_panel_says_what_the_classifier_is(hostile, fitted):
    panel = html.panel(hostile.about, "run")
    for said in (
        "<dd>calip</dd>", "<dd>tiny</dd>", "16 of each class, seed 2", "<dd>10</dd>",
        "76.54 % of 1,234 test images (95 % interval 74.10 to 78.85)",
        "settings were chosen on the same ones", "<dd>1.5</dd>", "90 % hold the true one (lac)",
        "MIT licence", "<dd>run</dd>",
    ):  # fmt: skip
        assert said in panel, said
    plain = html.panel(fitted["calip"].about, "run")
    assert "accuracy" not in plain
    assert "<dd>none</dd>" in plain


def test_of_many_classes_the_most_probable_ones_have_bars(fitted, picture):
    said = classify(fitted["zero_shot"], picture, "a")
    probabilities = np.concatenate([said.probabilities / 2, np.full(990, 0.5 / 990)])
    about = replace(fitted["zero_shot"].about, class_names=[str(i) for i in range(1000)])
    about = replace(about, conformal=CONFORMAL | {"threshold": None})
    shown = html.answer(about, said._replace(probabilities=probabilities.astype(np.float32)))
    assert shown.count('<span class="bar"') == 10
    assert "990 others" in shown
    assert "and 990 others</b>" in shown


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ([], "model=... is missing"),
        (["model=nowhere"], "model=nowhere is no folder"),
        (["model=src", "prot=1"], "there is no setting 'prot=1'. Did you mean port=...?"),
        (["model=src", "share=true"], "there is no setting 'share=true'"),
        (["model=src", "port=x"], "port=x: give an integer"),
        (["model=src", "port=65536"], "port=65536: give a number"),
    ],
)
def test_a_mistake_is_one_message(typed, message):
    with pytest.raises(UserError, match=re.escape(message)):
        read(Settings, typed)


def test_what_is_not_typed_is_this_machine_only():
    assert read(Settings, ["model=src"]).host == "127.0.0.1"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_port_in_use_is_one_message(host):
    with server.listening(host, 0) as heard:
        port = heard.getsockname()[1]
        with pytest.raises(UserError, match=f"port={port}: Address already in use. Choose"):
            server.listening(host, port)


def test_a_host_of_another_machine_is_one_message():
    with pytest.raises(UserError, match=r"host=192.0.2.1 port=0: .*\. Choose another"):
        server.listening("192.0.2.1", 0)


def test_without_gradio_there_is_one_message(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert find_spec("gradio") is None
    monkeypatch.setattr(sys, "argv", ["demo", "model=src"])
    with pytest.raises(SystemExit) as ended:
        run_command(command.main)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told == 'error: the demo needs the package gradio: pip install "calipers[demo]"\n'


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_and_leaves_nothing(fitted, tmp_path, number, code):
    fitted["zero_shot"].save(tmp_path / "model")
    streams = [tmp_path / "output", tmp_path / "errors"]
    typed = [f"model={tmp_path / 'model'}", "port=0"]
    running = FORKS.Process(target=_be_command, args=("src.demo", typed, ENVIRONMENT, streams))
    running.start()
    try:
        while not (streams[0].exists() and streams[0].read_text().endswith("\n")):
            assert running.is_alive(), streams[1].read_text()
            time.sleep(0.05)
        found = re.fullmatch(
            r"zero_shot at (http://127\.0\.0\.1:\d+) \(Ctrl-C ends it\)\n", streams[0].read_text()
        )
        sent = httpx.post(f"{found[1]}/gradio_api/upload", files={"files": ("a.png", b"any")})
        uploaded = Path(sent.json()[0])
        assert uploaded.read_bytes() == b"any"
        os.kill(running.pid, number)
        running.join(timeout=60)
    finally:
        running.kill()
    assert running.exitcode == code
    assert streams[1].read_text() in {"terminated\n", "interrupted\n"}
    assert not uploaded.parents[1].exists()
