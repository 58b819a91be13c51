"""Pairs of methods are filtered in a browser, and can be read without a script."""

import pytest

from src.results import page
from tests.results.test_page import methods
from tests.test_report import browser  # noqa: F401 (a fixture)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    methods(folder, datasets=3)
    return page.write_report([folder], folder / "report").as_uri()


def shown(opened, selector):
    script = "all => all.filter(each => each.offsetParent).map(each => each.textContent)"
    return opened.eval_on_selector_all(selector, script)


PAIRS = ".compared > details tbody th"
RANKS = ".compared .numbers tbody th"


def test_a_pair_is_shown_where_both_its_methods_are(report, browser):  # noqa: F811
    opened = browser.new_page()
    opened.goto(report)
    opened.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert len(shown(opened, PAIRS)) == 3
    choose = opened.locator("[name=method]")
    choose.last.select_option("m2")
    assert shown(opened, PAIRS) == ["m2 − m1", "m2 − m0"], "no method is paired with itself"
    assert shown(opened, RANKS) == ["m2"]
    choose.last.select_option("m0")
    assert shown(opened, PAIRS) == ["m2 − m0"]
    assert {*shown(opened, ".board tbody th")} == {"m2", "m0"}
    status = opened.get_by_role("status").inner_text()
    assert status.endswith("rows of the accuracies and 1 pair shown")
    opened.locator("[name=dataset]").first.select_option("d1")
    headings = shown(opened, ".compared > details thead th")
    assert [name for name in headings if name[:1] == "d"] == ["d1"]
    opened.get_by_role("button", name="Show all").click()
    opened.wait_for_function("document.querySelector('[role=status]').innerText === ''")
    assert len(shown(opened, PAIRS)) == 3
    assert choose.count() == 1
    opened.close()


def test_without_a_script_all_pairs_are_there(report, browser):  # noqa: F811
    context = browser.new_context(java_script_enabled=False)
    opened = context.new_page()
    opened.goto(report)
    rows = opened.locator(".compared > details tbody tr")
    assert rows.count() == 3
    assert all(row.is_visible() for row in rows.all())
    assert rows.first.get_attribute("data-method") == "m2"
    assert rows.first.get_attribute("data-other") == "m1"
    context.close()
