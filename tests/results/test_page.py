"""The page's content for invented runs; `tests/test_report.py` checks how it is displayed."""

import base64
import re
from dataclasses import replace

import numpy as np
import pytest

from src.results import best, details, page, plots, submission
from src.results.metrics import METRICS
from src.results.names import shown
from src.results.outcome import Outcome
from src.results.published import OPENAI_RN50
from tests.results import VERSION_1, test_record
from tests.results.test_formats import NASTY


def made_up(folder, classes=5, metrics=test_record.RESULT.metrics, **changes):
    """Write what a run without a search leaves behind: its answers and its record."""
    generator = np.random.default_rng(0)
    label, prediction = generator.integers(classes, size=(2, 300))
    confidence = generator.uniform(0.1, 1, size=300).astype(np.float32)
    names = [f"class <{number}>" for number in range(classes)]
    Outcome(names, label, prediction, confidence).write(folder)
    accuracy = changes.pop("accuracy", metrics["accuracy"])
    result = replace(test_record.RESULT, metrics={**metrics, "accuracy": accuracy}, **changes)
    result.write(folder)


def test_names_and_commands_are_escaped(tmp_path):
    made_up(tmp_path / "0", dataset="<script>alert(1)</script>", command="python '<b>' && x")
    text = page.write_report([tmp_path], tmp_path / "report").read_text()
    assert "<script>alert" not in text
    assert text.count("<script") == 1, "the one that sorts and filters"
    assert "&lt;script&gt;" in text
    assert "&lt;b&gt;" in text


def test_every_figure_stands_beside_the_command_and_the_commit(tmp_path):
    for seed, shots in enumerate([1, 2]):
        made_up(
            tmp_path / str(seed), method="coop", shots=shots, command=f"python run {shots}",
            git_revision=f"{shots}234567890abcdef-dirty",
        )  # fmt: skip
    text = page.write_report([tmp_path], tmp_path / "report").read_text()
    curve, detail = text.split("<h2>Run by run</h2>")
    for expected in ("python run 1", "python run 2", "1234567890ab with uncommitted changes"):
        assert expected in curve
    assert "<code>python run 2</code>" in detail.split("<h2>All runs</h2>")[0]
    assert "python run 1" not in detail.split("<h2>All runs</h2>")[0]
    assert text.count("data:image/svg+xml;base64,") == 4
    assert len(list(tmp_path.glob("report/figures/*.svg"))) == 4


def test_of_many_methods_the_best_are_looked_into_and_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(details, "DETAILED", 2)
    for number, accuracy in enumerate([60.0, 50.0, 70.0]):
        made_up(tmp_path / str(number), method=f"method_{number}", accuracy=accuracy)
    text = page.write_report([tmp_path], tmp_path / "report").read_text()
    assert re.findall(r"<b>digits, tiny: method_(\d), shots=0</b>", text) == ["0", "2"]
    assert "These are 2 of 3 methods, the most accurate of each dataset" in text


def test_zero_shot_clip_and_the_balance_of_classes_stand_beside_what_saw_the_test_images(tmp_path):
    balance = {"classes": [10, 10], "images": [4, 30]}
    seen = {"saw_test_images": True, "zero_shot": 60.25, "class_balance": balance, "n_classes": 10}
    made_up(tmp_path / "0", method="transclip", **seen)
    text = page.write_report([tmp_path], tmp_path / "report").read_text()
    assert "<small>[60.25]</small>" in text
    assert "Images per class among those that ‡ saw together: digits 4 to 30." in text
    listed = text.split("<h2>All runs</h2>")[1]
    assert "60.25" in listed
    assert "4 to 30" in listed


def test_pictures_of_attention_are_shown_and_their_run_is_preferred(tmp_path, monkeypatch):
    monkeypatch.setattr(details, "DETAILED", 1)
    for number, shots in enumerate([1, 16]):
        made_up(tmp_path / str(number), shots=shots, accuracy=50.0, command=f"python run {shots}")
    made_up(tmp_path / "2", method="zero_shot", accuracy=90.0)
    pictures = {row: f"picture {row}".encode() for row in (10, 9)}
    (tmp_path / "0/attention").mkdir()
    for row, content in pictures.items():
        (tmp_path / f"0/attention/{row}.png").write_bytes(content)
    (tmp_path / "0/attention/.9.png.half.png").write_bytes(b"half-written")
    text = page.write_report([tmp_path], tmp_path / "report").read_text()
    detail = text.split("<h2>Run by run</h2>")[1].split("<h2>All runs</h2>")[0]
    assert f"<b>digits, tiny: {shown('calip')}, shots=1</b>" in detail
    assert "<code>python run 1</code>" in detail
    assert "A run that drew its attention is preferred" in detail
    encoded = [base64.b64encode(pictures[row]).decode() for row in (9, 10)]
    assert re.findall(r"data:image/png;base64,([^\"]*)", detail) == encoded
    figures = sorted(path.name for path in tmp_path.glob("report/figures/*attention*"))
    assert figures == [f"digits-tiny-calip-1_shots-attention_{row}.png" for row in (10, 9)]


def test_figures_of_an_earlier_report_are_removed_and_no_others(tmp_path):
    made_up(tmp_path / "old/0")
    made_up(tmp_path / "new/0", method="coop")
    folder = tmp_path / "report/figures"
    folder.mkdir(parents=True)
    for own in ("photograph.png", "drawing.svg"):
        (folder / own).write_text("not of a report")
    page.write_report([tmp_path / "old"], folder.parent)
    earlier = {path.name for path in folder.iterdir()}
    assert "digits-tiny-calip-0_shots-confusion.svg" in earlier
    page.write_report([tmp_path / "new"], folder.parent)
    kinds = ("class_accuracy", "confusion", "reliability")
    new = {f"digits-tiny-coop-0_shots-{kind}.svg" for kind in kinds}
    assert {path.name for path in folder.iterdir()} == new | {"photograph.png", "drawing.svg"}


@pytest.mark.parametrize("classes", [2, 200])
def test_any_number_of_classes_is_drawn(tmp_path, classes):
    made_up(tmp_path / "0", classes=classes)
    path = page.write_report([tmp_path], tmp_path / "report")
    figure = tmp_path / "report/figures/digits-tiny-calip-0_shots-class_accuracy.svg"
    assert ("classes between" in figure.read_text()) == (classes == 200)
    assert path.stat().st_size < 500_000


def test_a_dollar_sign_in_a_name_is_no_mathematics():
    confidence = np.full(2, 0.5, np.float32)
    label = np.arange(2)
    answers = Outcome(["$\\frac$", "a $ b_ $"], label, label, confidence)
    for draw in (plots.class_accuracy, plots.confusion):
        assert draw(answers).startswith(b"<?xml")


def test_without_answers_there_are_only_tables(tmp_path):
    test_record.RESULT.write(tmp_path / "0")
    text = page.write_report([tmp_path], tmp_path / "report").read_text()
    assert "81.50" in text
    assert "<img" not in text


@pytest.mark.parametrize(
    ("changes", "label", "mark", "meaning"),
    [
        ({"selection": "test", "selected_on_test": True}, "calip", "†", "not comparable"),
        ({"saw_test_images": True}, "calip", "‡", "saw the unlabelled test images"),
        ({"partial_test": True}, "calip (partial test)", "§", "a part of the test split only"),
    ],
)
def test_what_is_not_comparable_is_marked_wherever_it_stands(
    tmp_path, changes, label, mark, meaning
):
    for number, shots in enumerate([1, 2]):
        made_up(tmp_path / str(number), shots=shots, **changes)
    text = page.write_report([tmp_path], tmp_path / "report").read_text()
    assert (
        text.count(f"81.50{mark}") == 2 + 2 + 1 + 2
    )  # in the table, behind the curves, above the closer look, in the list
    assert meaning in text
    curve = tmp_path / "report/figures/accuracy-tiny-digits.svg"
    assert f"{shown(label)}{mark}" in curve.read_text()
    assert f"81.50{mark}" in (tmp_path / "report/table.md").read_text()


def test_the_list_of_all_runs_has_published_accuracies_of_one_source_and_names_it(tmp_path):
    """Caltech101: the log with zero_shot's 85.92 has no calip; the notebook has both."""
    for method, published in (("zero_shot", {"b": 85.92, "a": 83.94}), ("calip", {"a": 87.71})):
        first = next(iter(published.values()))
        made_up(tmp_path / method, method=method, published=first, published_by_source=published)
    text = page.write_report([tmp_path], tmp_path / "report").read_text()
    listed = text.split("<h2>All runs</h2>")[1]
    assert "<td>83.94</td>" in listed
    assert "<td>87.71</td>" in listed
    assert "85.92" not in listed
    assert "published: APE_results.ipynb" in listed


def test_without_published_accuracies_no_source_is_named(tmp_path):
    made_up(tmp_path / "0")
    text = page.write_report([tmp_path], tmp_path / "report").read_text()
    listed = text.split("<h2>All runs</h2>")[1]
    assert ">published<" not in listed
    assert "published:" not in listed


def test_all_metrics_are_listed_with_their_runs(tmp_path):
    made_up(tmp_path / "0")
    text = page.write_report([tmp_path], tmp_path / "report").read_text()
    detail, listed = text.split("<h2>Run by run</h2>")[1].split("<h2>All runs</h2>")
    assert "<dt>top-5</dt><dd>99.00 %</dd>" in detail
    assert "<dt>Brier</dt><dd>0.300</dd>" in detail
    for metric in METRICS:
        assert f">{metric.heading}<" in listed
    assert ">defaults<" in listed


def test_a_report_on_records_of_version_1_leaves_what_they_lack_out(tmp_path):
    text = page.write_report([VERSION_1], tmp_path).read_text()
    listed = text.split("<h2>All runs</h2>")[1]
    assert "<td>0.099</td>" in listed
    for absent in ("NLL", "settings from", "nan"):
        assert absent not in listed
    table = (tmp_path / "table.md").read_text().replace("**", "").replace(f"\n{best.NOTE}\n", "")
    assert table.rstrip("\n") == (VERSION_1 / "report/table.md").read_text().rstrip("\n")


@pytest.mark.parametrize("name", NASTY)
def test_a_name_is_only_a_name_in_the_page_and_its_figures(tmp_path, name):
    tags = []
    for number, written in enumerate(["plain", name]):
        folder = tmp_path / str(number)
        made_up(folder, 2, dataset=written, method=written, command=written, backbone=written)
        outcome = Outcome.read(folder / "outcome.safetensors")
        outcome._replace(class_names=[written, "other"]).write(folder)
        tags.append(
            re.findall("<(?!wbr)[a-z/]+", page.write_report([folder], folder / "r").read_text())
        )
        assert {path.parent for path in folder.glob("r/**/*.svg")} == {folder / "r/figures"}
    assert tags[0] == tags[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"label": np.full(300, 5)},
        {"label": np.full(300, -1)},
        {"prediction": np.zeros(299, np.int64)},
        {"confidence": np.full(300, np.nan, np.float32)},
        {"label": np.zeros(300)},
        {"class_names": ["a", 3]},
        {"class_names": "ab"},
        {"search": np.ones((2, 3), np.float32), "search_axes": {"beta": [1], "alpha": [1, 2]}},
        {"search": np.ones((1, 2), np.float32), "search_axes": {"none": [1], "such": [1, 2]}},
    ],
    ids=str,
)
def test_answers_that_cannot_be_read_are_left_out_and_named(tmp_path, caplog, changes):
    for number, method in enumerate(["good", "bad"]):
        made_up(tmp_path / str(number), method=method)
    path = tmp_path / "1/outcome.safetensors"
    Outcome.read(path)._replace(**changes).write(tmp_path / "1")
    text = page.write_report([tmp_path], tmp_path / "report").read_text()
    assert str(path) in caplog.text
    assert str(path) in text.split("<h2>Left out</h2>")[1]
    assert "<b>digits, tiny: good, shots=0</b>" in text
    assert "<b>digits, tiny: bad, shots=0</b>" not in text
    assert text.count("<td>bad</td>") == 1, "its result is in the list of all runs"


METRICS_OF = {
    "all_classes": {"accuracy": 81.0, "mean_class_accuracy": 11.0},
    "base_to_new": {
        "accuracy": 72.0, "mean_class_accuracy": 11.0, "base_accuracy": 72.0, "new_accuracy": 48.0,
        "harmonic_mean": 57.6,
    },
    "imbalanced_relaxed": {"accuracy": 12.0, "mean_class_accuracy": 63.0},
    "of_tomorrow": {"accuracy": 54.0, "mean_class_accuracy": 11.0},
}  # fmt: skip
HEADINGS = {
    "all_classes": "Accuracy", "base_to_new": "From base to new classes",
    "imbalanced_relaxed": "Imbalanced support sets, relaxed", "of_tomorrow": "of_tomorrow",
}  # fmt: skip
SCORES = {
    "all_classes": "81.00", "base_to_new": "57.60", "imbalanced_relaxed": "63.00",
    "of_tomorrow": "54.00",
}  # fmt: skip


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """The report on runs of several protocols that differ in nothing else."""
    tmp_path = tmp_path_factory.mktemp("mixed")
    for number, (protocol, metrics) in enumerate(METRICS_OF.items()):
        for shots in (1, 2):
            made_up(
                tmp_path / f"{number}-{shots}", method="coop", shots=shots, protocol=protocol,
                metrics=test_record.RESULT.metrics | metrics, command=f"python {protocol}",
            )  # fmt: skip
    page.write_report([tmp_path], tmp_path / "report")
    return tmp_path / "report"


def test_each_protocol_has_a_part_of_its_own(mixed):
    text = (mixed / "report.html").read_text()
    assert "<h1>digits, tiny, coop, 4 protocols</h1>" in text
    tables = text.split("<h2>Accuracy by shots</h2>")[0]
    for protocol, heading in HEADINGS.items():
        (part,) = re.findall(f"<h2>{heading}</h2>(.*?)</section>", tables, re.DOTALL)
        shown = {"72.00", "48.00"} if protocol == "base_to_new" else set()
        assert set(re.findall(r"<td>(\d\d\.\d\d)", part)) == {SCORES[protocol], *shown}
        assert (f">{protocol}: " in part) == (protocol in ("base_to_new", "imbalanced_relaxed"))


def test_each_protocol_has_curves_figures_and_a_list_of_runs_of_its_own(mixed):
    text = (mixed / "report.html").read_text()
    names = {path.name for path in mixed.glob("figures/accuracy-*")}
    others = [name for name in METRICS_OF if name != "all_classes"]
    assert names == {
        "accuracy-tiny-digits.svg", *(f"accuracy-tiny-{one}-digits.svg" for one in others)
    }  # fmt: skip
    curves = re.findall(r"<figcaption>.* shots: (digits, tiny.*?)\. .*?>(.*?) · (.*?)</fig", text)
    assert len(curves) == 4
    for title, runs, commands in curves:
        (protocol,) = [one for one in METRICS_OF if one in title] or ["all_classes"]
        assert runs == "2 runs"
        assert re.findall("python ([a-z_]+)", commands) == [protocol]
    assert (
        "mean class accuracy (%)"
        in (mixed / "figures/accuracy-tiny-imbalanced_relaxed-digits.svg").read_text()
    )
    assert len(list(mixed.glob("figures/*confusion*"))) == 4
    lists = text.split("<h2>All runs</h2>")[1].split("<details")[1:]
    for protocol, listed in zip(METRICS_OF, lists, strict=True):
        assert f"<b>2 runs: {HEADINGS[protocol]}</b>" in listed
        assert set(re.findall("python ([a-z_]+)", listed)) == {protocol}
    headings = re.findall(r'col">(.*?)<', lists[1])
    assert headings[5:9] == ["selection", "base", "new", "H"]
    assert "accuracy" not in headings
    assert re.findall(r'col">(.*?)<', lists[2])[6:8] == ["class mean", "accuracy"]


def test_a_closer_look_at_a_run_leads_with_what_counts(mixed):
    text = (mixed / "report.html").read_text()
    name = shown("coop")
    assert f"digits, tiny, base_to_new: {name}, shots=2</b> <span>H 57.60 %</span>" in text
    assert f"digits, tiny, imbalanced_relaxed: {name}, shots=2</b> <span>class mean 63.00" in text
    assert f"digits, tiny: {name}, shots=2</b> <span>81.00 %</span>" in text
    assert text.count("All metrics but new and H are of the base classes") == 1


def test_without_what_counts_a_run_is_only_in_the_list(tmp_path):
    metrics = {"accuracy": 81.5, "ece": 0.1}
    made_up(tmp_path / "0", protocol="imbalanced_relaxed", metrics=metrics)
    text = page.write_report([tmp_path], tmp_path / "report").read_text()
    assert "nan" not in text.split("<h2>All runs</h2>")[1]
    assert "<td>81.50</td>" in text.split("<h2>All runs</h2>")[1]
    assert (tmp_path / "report/table.md").read_text().strip() == ""


def methods(folder, datasets, of_seeds=(0,), count=3, **changes):
    for number in range(count):
        for dataset in range(datasets):
            for seed in of_seeds:
                test_record.made_up(
                    50.0 + 5 * number + dataset + number * dataset / 10 + seed * number,
                    dataset=f"d{dataset}", adapted_on=f"d{dataset}", method=f"m{number}", seed=seed,
                    shots=4, **changes,
                ).write(folder / f"{number}-{dataset}-{seed}")  # fmt: skip


def test_methods_are_compared_in_pairs_with_their_diagram(tmp_path):
    methods(tmp_path, datasets=8)
    text = page.write_report([tmp_path], tmp_path / "report").read_text()
    part = text.split("<h2>Methods in pairs</h2>")[1].split("</section>")[0]
    assert "<h3>tiny, shots=4</h3>" in part
    assert "m2 − m1" in part
    assert "0.023" in part
    assert "24 runs" in part
    figure = (tmp_path / "report/figures/ranks-tiny-4_shots.svg").read_text()
    for name in ("m2 1.00", "m1 2.00", "3.00 m0"):
        assert name in figure
    (tmp_path / "report/comparison.csv").read_text().index("m2,m1")


@pytest.mark.parametrize(("datasets", "of_seeds"), [(1, (0,)), (1, (0, 1)), (3, (0,))])
def test_what_a_comparison_cannot_say_is_not_said(tmp_path, datasets, of_seeds):
    methods(tmp_path, datasets, of_seeds)
    text = page.write_report([tmp_path], tmp_path / "report").read_text()
    single = datasets == len(of_seeds) == 1
    assert ("<h2>Methods in pairs</h2>" in text) == (not single)
    assert ("more datasets are needed" in text) == (not single)
    assert "(Holm)" not in text
    assert (tmp_path / "report/figures/ranks-tiny-4_shots.svg").is_file() == (datasets == 3)


def test_no_significance_is_stated_of_runs_selected_on_the_test_split(tmp_path):
    methods(tmp_path, datasets=8, selected_on_test=True, selection="test")
    text = page.write_report([tmp_path], tmp_path / "report").read_text()
    assert "<h2>Methods in pairs</h2>" not in text


def bars(svg):
    return svg.count(b"stroke-width: 4")


@pytest.mark.parametrize("count", [2, 3, 9, 28])
def test_the_diagram_has_every_method_and_a_bar_for_each_group(count):
    ranks = {f"method {n}": 1.0 + n for n in range(count)}
    names = list(ranks)
    svg = plots.average_ranks(ranks, [names[:2], names[1:]])
    assert bars(svg) == 2
    assert bars(plots.average_ranks(ranks, [])) == 0
    for number, name in enumerate(names):
        texts = (f"{name} {1 + number:.2f}<", f"{1 + number:.2f} {name}<")
        assert sum(svg.decode().count(one) for one in texts) == 1


def test_tables_over_datasets_have_the_average_ranks_and_their_tests(tmp_path):
    methods(tmp_path, datasets=8)
    text = page.write_report([tmp_path], tmp_path / "report").read_text()
    board = text.split("by dataset</h3>")[1].split("</table>")[0]
    assert '<th scope="col">average rank</th>' in board
    assert re.findall(r'row">(m\d)</th><td>([\d.]+)<', board) == [
        ("m2", "1.00"), ("m1", "2.00"), ("m0", "3.00"),
    ]  # fmt: skip
    assert "test of whether all methods rank alike: p &lt; 0.001." in text
    assert "critical difference of two average ranks (CD) is 1.17" in text
    assert "CD = 1.17" in (tmp_path / "report/figures/ranks-tiny-4_shots.svg").read_text()


def test_a_critical_difference_longer_than_the_axis_is_not_drawn():
    ranks = {"a": 1.0, "b": 2.0, "c": 3.0}
    assert b"CD = 1.20" in plots.average_ranks(ranks, [], 1.2)
    assert b"CD" not in plots.average_ranks(ranks, [], 2.1)


def test_each_figure_has_the_table_of_its_numbers(tmp_path):
    for shots in (1, 2):
        made_up(tmp_path / str(shots), shots=shots)
    text = page.write_report([tmp_path], tmp_path / "report").read_text()
    assert text.count("<figure") == text.count("<summary>Its numbers") == 4
    assert text.count(' Its numbers are in the table below.">') == 4
    answers = Outcome.read(tmp_path / "2/outcome.safetensors")
    behind = {
        kind: text.split(f"<figcaption>{title}")[1].split("</details>")[0]
        for kind, title in {
            "classes": "Accuracy by class.",
            "confusion": "Confusion matrix.",
            "reliability": "Reliability diagram.",
        }.items()
    }
    cells = [int(one) for one in re.findall(r"<td>(\d+)</td>", behind["confusion"])]
    assert np.array_equal(np.reshape(cells, (5, 5)), answers.confusion())
    images = [int(one) for one in re.findall(r"<td>(\d+)</td></tr>", behind["reliability"])]
    assert sum(images) == 300
    lowest = f"<td>{np.min(answers.class_accuracy()):.2f}</td>"
    assert re.findall(r"<td>[\d.]+</td>", behind["classes"])[0] == lowest


def test_of_many_classes_the_most_frequent_mistakes_are_listed(tmp_path):
    made_up(tmp_path / "0", classes=40)
    text = page.write_report([tmp_path], tmp_path / "report").read_text()
    behind = text.split("<figcaption>Confusion matrix.")[1].split("</details>")[0]
    counts = [int(one) for one in re.findall(r"<td>(\d+)</td></tr>", behind)]
    assert counts == sorted(counts, reverse=True)
    assert len(counts) == 30


def test_what_others_measured_stands_beside_what_was_published(tmp_path):
    backbone, weights = OPENAI_RN50
    openai = {"backbone": backbone, "weights": weights, "method": "zero_shot"}
    file = tmp_path / "others.jsonl"
    submission.write(
        [
            test_record.made_up(
                38.0, dataset="eurosat", adapted_on="eurosat", git_revision="0123456789abcdef",
                machine={"system": "Linux x86_64", "processor": "<i>"}, **openai,
            )
        ],
        file,
    )  # fmt: skip
    made_up(tmp_path / "0")
    text = page.write_report([tmp_path, file], tmp_path / "report").read_text()
    part = text.split("<h2>Measured by others</h2>")[1].split("</section>")[0]
    assert f"<h3>{file}</h3>" in part
    row = re.search(r"<tbody>\s*<tr[^>]*>(.*?)</tr>", part, re.DOTALL)[1]
    assert re.findall(r">([^<]+)<", row) == [
        shown("zero_shot"), "eurosat", backbone, "0", "38.00", "1", "37.52", "+0.48",
    ]  # fmt: skip
    assert "published: exp.log of the Tip-Adapter repository" in part
    for fact in ("0123456789ab", weights, "Linux x86_64, &lt;i&gt;", "32-true"):
        assert fact in part
    assert f"{file}, line 1" in text.split("<h2>All runs</h2>")[1]


def test_without_files_of_others_there_is_no_part_about_them(tmp_path):
    made_up(tmp_path / "0")
    text = page.write_report([tmp_path], tmp_path / "report").read_text()
    assert "Measured by others" not in text


def test_figures_have_the_colours_of_a_dark_page_too():
    svg = plots.average_ranks({"a": 1.0, "b": 2.0}, []).decode()
    assert "@media screen and (prefers-color-scheme: dark)" in svg
    colours = {*re.findall(r"(?:fill|stroke): (#\w{6})", svg.replace("!important", ""))}
    assert colours <= {*plots.DARK}
