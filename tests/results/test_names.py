import pytest

from src.results import formats, names
from src.results.summary_tables import Table
from tests.results.test_formats import PLAIN

ABOUT = {"tip_adapter_f": {"title": "Tip-Adapter-F", "cite": "zhang2022tip"}, "calip": {}}


@pytest.fixture(autouse=True)
def _of_two_methods(monkeypatch):
    monkeypatch.setattr(names, "_about", lambda: ABOUT)


@pytest.mark.parametrize(
    ("label", "shown", "key"),
    [
        ("tip_adapter_f", "Tip-Adapter-F", "zhang2022tip"),
        ("tip_adapter_f (val, alpha=2)†", "Tip-Adapter-F (val, alpha=2)†", "zhang2022tip"),
        ("tip_adapter_f‡", "Tip-Adapter-F‡", "zhang2022tip"),
        ("tip_adapter_free", "tip_adapter_free", ""),
        ("calip", "calip", ""),
        ("of_mine (val)", "of_mine (val)", ""),
        ("<b>", "<b>", ""),
        ("", "", ""),
    ],
)
def test_a_method_has_its_title_or_else_its_name(label, shown, key):
    assert names.shown(label) == shown
    assert names.citation(label) == key


def test_a_paper_has_titles_citations_and_labels_of_its_own():
    table = Table("tiny, shots=4: % by dataset", ["a"], {"tip_adapter_f": [PLAIN], "x": [PLAIN]})
    latex = formats.latex([table, table])
    assert r"    Tip-Adapter-F~\cite{zhang2022tip} & 81.50 \\" in latex
    assert r"    x & 81.50 \\" in latex
    assert r"\label{tab:tiny-shots-4-by-dataset}" in latex
    assert r"\label{tab:tiny-shots-4-by-dataset-2}" in latex
    assert "| tip_adapter_f |" in formats.markdown([table]), "what one types stays in Markdown"


def test_every_method_of_the_configuration_is_known(monkeypatch):
    monkeypatch.undo()
    about = names._about()
    assert about["tip_adapter_f"]["year"] == 2022
    assert {"calip", "zero_shot", "coop"} <= set(about)
